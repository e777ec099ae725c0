"""Warnings, told to whoever asked for what they are about: `warnings.catch_warnings` is of the whole process."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sketchguide.errors import SketchguideWarning


class Warned(AbstractContextManager["Warned"]):
    """Within the block each thread can collect the SketchguideWarnings of its own; others go where they went before."""

    def __init__(self) -> None:
        self._catching = warnings.catch_warnings()
        self._of_thread = threading.local()

    def __enter__(self) -> Warned:
        self._catching.__enter__()
        warnings.simplefilter("always", SketchguideWarning)
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            told: list[str] | None = getattr(self._of_thread, "told", None)
            if told is None or not issubclass(category, SketchguideWarning):
                before(message, category, *place, **more)
            elif str(message) not in told:
                told.append(str(message))

        warnings.showwarning = show
        return self

    def __exit__(self, *raised: Any) -> None:
        self._catching.__exit__(*raised)

    @contextmanager
    def told(self) -> Generator[list[str]]:
        """What this thread is warned of within the block, each once."""
        self._of_thread.told = []
        try:
            yield self._of_thread.told
        finally:
            del self._of_thread.told
