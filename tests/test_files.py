"""Files are there whole or not at all."""

from pathlib import Path

import pytest

from sketchguide.errors import OutputError
from sketchguide.files import replacing, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_old_one_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["notes.txt"]


def test_text_is_utf_8_and_ends_as_it_was_given(tmp_path: Path) -> None:
    write_text(tmp_path / "notes.txt", "β\n")
    assert (tmp_path / "notes.txt").read_bytes() == b"\xce\xb2\n"


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), RuntimeError("no")])
def test_what_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path: Path, reason: BaseException) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    def break_off() -> None:
        with replacing(path) as part:
            part.write_text("half of")
            raise reason

    with pytest.raises(type(reason)):
        break_off()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["notes.txt"]


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    with (
        pytest.raises(OutputError, match=r"notes\.txt' cannot be written: No space left") as caught,
        replacing(path, field="log"),
    ):
        raise OSError(28, "No space left on device")
    assert caught.value.field == "log"
    assert path.read_text() == "old"


def test_a_folder_that_is_missing_or_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="create it first"):
        write_text(tmp_path / "none" / "notes.txt", "")
    with pytest.raises(OutputError, match="not a file to write"):
        write_text(tmp_path, "")
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "nul\0", "")


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link, real = tmp_path / "link.txt", tmp_path / "real" / "target.txt"
    for present in (True, False):
        real.unlink(missing_ok=True)
        if present:
            real.write_text("old")
        link.unlink(missing_ok=True)
        link.symlink_to(real)
        write_text(link, "new")
        assert link.is_symlink()
        assert real.read_text() == "new"
        assert not list(tmp_path.rglob("*.part"))
