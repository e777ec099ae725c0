"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from sketchguide.errors import OutputError


@contextmanager
def replacing(path: Path, *, field: str = "output") -> Generator[Path]:
    """The path of a new file, which the block writes and which then takes the place of `path`.

    Where the block fails or is interrupted, `path` stays as it was and nothing is left beside it.

    Raises:
        OutputError: naming `field`; the folder is missing or read-only, the disk is full, the path is no ordinary file.
    """
    try:
        path = Path(os.path.realpath(path))  # a link stays one, and what it leads to is replaced
        temporary = path.parent / f".{secrets.token_hex(8)}.part"
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is a folder or a device, not a file to write.", field=field)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError, ValueError):
                temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        hint = "" if path.parent.is_dir() else "Its folder does not exist; create it first."
        raise OutputError(f"{str(path)!r} cannot be written: {reason}.", hint=hint, field=field) from error


def is_file(path: Path) -> bool:
    """Whether there is an ordinary file; a name that no file can have, or one that may not be looked at, is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_dir(path: Path) -> bool:
    """Whether there is a folder, as `is_file`."""
    try:
        return path.is_dir()
    except OSError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8. Raises OutputError as `replacing` does."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
