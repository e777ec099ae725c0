"""Files that commands write: their names, and whether they can be written, before the work and not after it."""

from __future__ import annotations

import os
import secrets
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from sketchguide.errors import OutputError, UsageError
from sketchguide.files import look_at

LONGEST_NAME = 40


def check_output(path: Path | None) -> None:
    """UsageError or OutputError where a PNG cannot be written at `path`: before the work, not after it."""
    check_writable(path)
    if path is not None and path.suffix.lower() != ".png":
        folder = f" For a folder, give a file in one that exists: {path / 'picture.png'}." if not path.suffix else ""
        raise UsageError(
            f"The output {str(path)!r} does not end in .png.",
            hint=f"Pictures are written as PNG, which carries what is needed to make them again.{folder}",
            field="output",
        )


def check_writable(path: Path | None, *, inputs: Sequence[Path | None] = ()) -> None:
    """UsageError or OutputError where no file can be written at `path`, None being a name in this folder, or where it
    is one of the `inputs`, which would be lost.
    """
    folder = Path() if path is None else Path(os.path.realpath(path)).parent  # where a link leads to
    trial = folder / f".{secrets.token_hex(8)}.part"
    try:
        if path is not None and (there := look_at(path)) is not None:
            if stat.S_ISDIR(there.st_mode):
                file = path / "picture.png"
                raise UsageError(f"{path} is a folder.", hint=f"Give a file in it: {file}.", field="output")
            if not stat.S_ISREG(there.st_mode):
                raise UsageError(f"{path} is a device, not a file.", field="output")
            if any(one and one.exists() and path.samefile(one) for one in inputs):
                raise UsageError(
                    f"{path} is what the picture is made from; it would be lost.",
                    hint="Give another name with -o.",
                    field="output",
                )
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise UsageError(f"The folder {folder} {what}.", hint="Create it first.", field="output")
        os.close(os.open(trial, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        trial.unlink()
    except OSError as error:
        raise OutputError(
            f"Nothing can be written at {folder.absolute() if path is None else path}: {error.strerror}.",
            hint="Choose another place with -o.",
            field="output",
        ) from error


def place(output: Path | None, prompt: str, *, number: int | None = None) -> Path:
    """Where a picture goes: numbered beside `output` where several do, else the first free name after the prompt."""
    if output is not None:
        return output if number is None else output.with_stem(f"{output.stem}-{number}")
    stem, suffix = slug(prompt), 1
    while (path := Path(f"{stem}.png" if suffix == 1 else f"{stem}-{suffix}.png")).exists():
        suffix += 1
    return path


def slug(prompt: str) -> str:
    """A short file name for a prompt: its letters and digits in lower case, words joined by hyphens."""
    text = unicodedata.normalize("NFKC", prompt).lower()
    words = "".join(c if c.isalnum() else " " for c in text).split()
    name = ""
    for word in words:
        if name and len(name) + 1 + len(word) > LONGEST_NAME:
            break
        name = f"{name}-{word}" if name else word[:LONGEST_NAME]
    return name or "picture"
