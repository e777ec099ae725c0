"""Files are there whole or not at all, and one run at a time writes to a folder."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sketchguide.errors import OutputError, UsageError
from sketchguide.files import locked, replacing, write_text


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


def test_a_second_run_is_refused_at_once_in_the_same_process(tmp_path: Path) -> None:
    refused: list[UsageError] = []

    def second() -> None:
        with pytest.raises(UsageError, match=rf"process {os.getpid()}") as caught, locked(tmp_path):
            pass
        refused.append(caught.value)

    with locked(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        other.join(10)
    assert len(refused) == 1
    with locked(tmp_path):
        pass


def test_a_live_run_blocks_and_a_killed_one_does_not(tmp_path: Path) -> None:
    # The child takes the lock as `locked` does; importing torch there would only cost seconds.
    script = (
        "import fcntl, os, sys; file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(file, fcntl.LOCK_EX);"
        "os.pwrite(file, str(os.getpid()).encode(), 0); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"process {child.pid}"), locked(tmp_path):
            pass
        child.kill()
        child.wait(10)
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_goes_with_an_exception(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="inside"), locked(tmp_path):
        raise OSError("inside")
    with locked(tmp_path):
        pass


def test_a_file_in_place_of_the_folder_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path / "run"):
        pass
