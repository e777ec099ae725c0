"""Names of the files that commands write, and whether they can be written."""

import os
from pathlib import Path

import pytest

from sketchguide.cli.outputs import check_output, slug
from sketchguide.errors import OutputError


def test_a_folder_without_permission(tmp_path: Path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(OutputError, match="Permission denied"):
        check_output(tmp_path / "a.png")


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(*_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", denied)
    with pytest.raises(OutputError, match="Permission denied"):
        check_output(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red apple!", "a-red-apple"),
        ("../../etc/passwd", "etc-passwd"),
        ("", "picture"),
        ("!!!", "picture"),
        ("Ein Äpfelchen 2", "ein-äpfelchen-2"),
        ("x" * 300, "x" * 40),
        ("a very long prompt that would make an unwieldy file name", "a-very-long-prompt-that-would-make-an"),
    ],
)
def test_slug(prompt: str, name: str):
    assert slug(prompt) == name
