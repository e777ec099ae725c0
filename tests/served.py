"""The drawing page, served in this process, and what is asked of it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sketchguide.cli.serve import listen
from sketchguide.sketch import Sketch
from sketchguide.web.app import create_app
from sketchguide.web.jobs import Desk
from sketchguide.web.server import DrainingServer, configured

ASKED: dict[str, Any] = {"prompt": "a cat", "steps": 3, "seed": 7, "size": [64, 64]}
CAT = Sketch.from_strokes([[[0.2, 0.2], [0.8, 0.3], [0.7, 0.8], [0.2, 0.2]]]).to_json()


def when_ended(client: Any, name: str) -> dict[str, Any]:
    for _ in range(2400):
        state = client.get(f"/api/jobs/{name}").json()
        if state["state"] in ("done", "failed", "cancelled"):
            return state
        time.sleep(0.05)
    raise AssertionError(state)


@dataclass
class Served:
    url: str
    desk: Desk
    server: DrainingServer


@contextmanager
def serving(desk: Desk, *, port: int = 0, **guards: Any) -> Iterator[Served]:
    with listen("127.0.0.1", port) as listening:
        server = DrainingServer(configured(create_app(desk, **guards)), desk)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}/", desk, server)
        finally:
            server.should_exit = True
            while desk.ready and thread.is_alive():
                time.sleep(0.01)
            desk.hurry()  # when no other job can come
            thread.join()
