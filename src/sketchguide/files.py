"""Files that are written whole or not at all, and folders that one run at a time writes to."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from sketchguide.errors import OutputError, UsageError


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


def look_at(path: Path) -> os.stat_result | None:
    """What there is at `path`; None where nothing is. Raises OSError where it may not be looked at, or its name is too
    long: from Python 3.14 on `exists` and its like say of those that they are not there.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
        return None


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


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Keep other runs out of `folder`, which is made where it is missing, while the block runs.

    The kernel holds the lock and drops it when the process ends, however it ends: a killed run never blocks the next
    one. Raises UsageError at once when another run holds it, in this process or in another, and OutputError when the
    folder cannot be written. Linux and macOS only.
    """
    try:
        import fcntl
    except ImportError as error:
        raise UsageError("Training and benchmarks need Linux or macOS.", hint="On Windows take WSL.") from error

    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be written: {error}.", hint="Choose another folder.") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise UsageError(
                f"Another run (process {owner}) is at work in {folder}.",
                hint="Wait for it, stop it, or choose another folder.",
            ) from error
        except OSError as error:
            raise OutputError(f"The file {path} cannot be locked: {error}.", hint="Choose another folder.") from error
        # The number is for the other run's message only: a full disk must not stop this one here.
        with suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
