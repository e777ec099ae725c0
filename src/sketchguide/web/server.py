"""The server of the drawing page: it ends in order, and nobody keeps a connection who does not use it."""

from __future__ import annotations

import asyncio
import socket
import time
from asyncio import TimerHandle
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sketchguide.web.jobs import Desk

GRACE = 5.0  # seconds for pictures to be fetched once all is drawn, and for answers to be read
HEAD_DEADLINE = 30.0  # seconds for the head of a request


class PunctualProtocol(H11Protocol):
    """A connection that does not bring the whole head of a request in time is closed."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._late: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._keep_time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._keep_time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_clock()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._keep_time()

    def _keep_time(self) -> None:
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._stop_clock()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_DEADLINE, self.transport.abort)

    def _stop_clock(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


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
        late = time.monotonic() + GRACE
        while self.desk.awaited and time.monotonic() < late:
            await asyncio.sleep(0.05)
        cutting = asyncio.get_running_loop().call_later(GRACE, self._cut)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    def _cut(self) -> None:
        """Whoever does not read what they asked for would keep the server alive."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # pyright: ignore[reportAttributeAccessIssue,reportOptionalMemberAccess]


def configured(app: Any) -> uvicorn.Config:
    """How the server runs `app`: it logs no addresses, which may hold the token."""
    return uvicorn.Config(
        app, http=PunctualProtocol, ws="none", access_log=False, log_level="warning", server_header=False
    )
