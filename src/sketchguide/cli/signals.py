"""What Ctrl-C (SIGINT) and SIGTERM do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]


class Stopped(BaseException):
    """A signal arrived. Not an Exception, so that no library swallows it on the way up."""

    def __init__(self, number: int, *, hint: str = "") -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        self.hint = hint


def stop_now(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


class StopLater:
    """A handler for work that must end between two steps: the first signal is noted, and `said`; a second one stops at
    once.
    """

    def __init__(self, said: bytes = b"\nStopping after this step. Once more stops at once.\n") -> None:
        self.number = 0
        self.said = said

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            raise Stopped(number)
        self.number = number
        with suppress(OSError):
            os.write(2, self.said)


@contextmanager
def unstopped() -> Generator[None]:
    """The first signal within the block, which takes a moment, stops after it."""
    later = StopLater(b"")
    with handling(later):
        yield
    if later.number:
        raise Stopped(later.number)


@contextmanager
def handling(handler: Handler) -> Generator[None]:
    """Within the block the two signals go to `handler`, unless the process was told to ignore them (nohup)."""
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handler) or signal.SIG_DFL
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
