"""Every error that sketchguide raises on purpose.

    SketchguideError            message, hint, field; `exit_code` of the command line
    ├── UsageError              what was asked for cannot be done: exit code 2
    │   ├── SketchError         the drawing or picture given cannot be used
    │   ├── ModelNotFoundError  no model or predictor of that name
    │   ├── MismatchError       a predictor (or other control) does not fit the model
    │   ├── TapError            a tap is unknown, was never reached, or yields no tensor
    │   └── UnknownJobError     the drawing page has no such job, or no longer
    └── FailureError            asked rightly, but it did not work: exit code 1
        ├── WeightsError        a weight file is truncated, changed or not what it claims to be
        ├── OutputError         the result cannot be written
        ├── GuidanceError       a gradient or latent is not finite
        ├── TrainingError       training cannot go on; the last checkpoint is intact
        ├── QueueFullError      the drawing page has no room for another job now
        └── ClosingError        the drawing page is shutting down

`SketchguideWarning` is the category of every warning.
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import ClassVar

_PACKAGE = str(Path(__file__).parent)


class SketchguideError(Exception):
    """A sentence for people: what was given, what is allowed, and (`hint`) what to do next."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def as_dict(self) -> dict[str, str]:
        """`{code, message, hint, field}`, the form in which `--json` and HTTP report errors."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "field": self.field}


class UsageError(SketchguideError, ValueError):
    code = "usage"
    exit_code = 2


class SketchError(UsageError):
    code = "sketch"


class ModelNotFoundError(UsageError):
    code = "model_not_found"


class MismatchError(UsageError):
    code = "mismatch"


class TapError(UsageError):
    code = "tap"


class UnknownJobError(UsageError):
    code = "unknown_job"


class FailureError(SketchguideError, RuntimeError):
    code = "failure"


class WeightsError(FailureError):
    code = "weights"


class OutputError(FailureError):
    code = "output"


class GuidanceError(FailureError):
    code = "guidance"


class TrainingError(FailureError):
    code = "training"


class QueueFullError(FailureError):
    code = "queue_full"


class ClosingError(FailureError):
    code = "closing"


class SketchguideWarning(UserWarning):
    """Something was asked that works but probably not as meant: a blank sketch, a prompt cut short, CFG of 1."""


def warn(message: str) -> None:
    """Warn (SketchguideWarning) of `message` at the line outside this package that led to it: Python's own filter shows
    a text once for each line.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, SketchguideWarning, stacklevel=level)


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # torch, on accelerators and on the CPU


def described(error: BaseException) -> dict[str, str]:
    """`{code, message, hint, field}` of any error, also of one that nobody raised on purpose."""
    if isinstance(error, SketchguideError):
        return error.as_dict()
    if isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY):
        code, message = "out_of_memory", "The memory of the device does not suffice."
        hint = "Try a smaller size, one picture at once (count; in training, batch), or a dtype of half precision; of "
        hint += "a pipeline of your own, enable_gradient_checkpointing() of its network and enable_model_cpu_offload()."
    else:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        code, message = "internal", f"Something went wrong inside sketchguide ({reason})."
        hint = "Please report it with the output of `sketchguide env`."
    return {"code": code, "message": message, "hint": hint, "field": ""}


def reason_of(error: Exception) -> str:
    """The first line of what an error of a library says, and the next where that ends in a colon, or its kind where it
    says nothing."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])
