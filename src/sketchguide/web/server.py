"""The server of the drawing page: it ends in order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from sketchguide.web.jobs import Desk


class DrainingServer(uvicorn.Server):
    """At the first signal what is being drawn is finished, and seen by who waits for it; at the second it is stopped.

    Signals are those that `handle_exit` is told of: uvicorn would raise them again at the end.
    """

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self.desk = desk

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.should_exit:
            self.desk.hurry()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self.desk.close)
        await super().shutdown(sockets)
