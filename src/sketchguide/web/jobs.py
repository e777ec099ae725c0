"""Requests of the drawing page, carried out one after the other by the one thread that owns the model."""

from __future__ import annotations

import asyncio
import base64
import io
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from PIL import Image

from sketchguide.backbones.base import Backbone
from sketchguide.errors import ClosingError, GuidanceError, QueueFullError, UnknownJobError, described
from sketchguide.generation import Progress, run
from sketchguide.images import to_images
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.web.warned import Warned

WAITING = 16
KEPT = 64  # finished jobs, whose pictures stay in memory
KEPT_BYTES = 256 * 2**20  # of their pictures and drawings
POINT_BYTES = 140  # that a point of a drawing takes in memory
PATIENCE = 10.0  # seconds that a job goes on for after the last one who watched it has left
UNSEEN = 60.0  # and after it was last asked about, where nobody watches
LEAVING = 20.0  # seconds for a model to be loaded that nobody waits for any more
PREVIEW_SHARE = 0.1  # of the time of drawing that previews may take

State = Literal["waiting", "running", "done", "failed", "cancelled"]


@dataclass(eq=False)
class Job:
    """One request on its way. Only the desk changes it."""

    id: str
    request: Request
    state: State = "waiting"
    done: int = 0
    total: int = 0
    previews: dict[int, str] = field(default_factory=dict[int, str])  # by seed, JPEG as data URLs, while it is drawn
    pictures: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])  # seed, PNG with its recipe
    warnings: list[str] = field(default_factory=list[str])
    error: dict[str, str] | None = None
    seconds: float = 0.0  # that it has been drawn for
    version: int = 0  # counts what changed
    stop: bool = False
    given_up: float | None = None  # when nobody will be taken to wait for it; None while it is watched
    fetched: set[int] = field(default_factory=set[int])  # of its pictures

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        sketch = self.request.sketch or {}
        points = sum(len(stroke["points"]) for stroke in sketch.get("strokes", ()))
        drawing = POINT_BYTES * points + len(sketch.get("raster") or "")
        return drawing + sum(len(png) for _, png in self.pictures)

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    def describe(self, *, ahead: int = 0) -> dict[str, Any]:
        """What the page is told; `ahead` jobs come first."""
        return {
            "id": self.id,
            "state": self.state,
            "ahead": ahead,
            "done": self.done,
            "total": self.total,
            "seconds": round(self.seconds, 3),
            "previews": list(self.previews.values()),
            "pictures": [
                {"seed": seed, "url": f"api/jobs/{self.id}/pictures/{i}.png"}
                for i, (seed, _) in enumerate(self.pictures)
            ],
            "warnings": list(self.warnings),
            "error": self.error,
        }


class Desk:
    """The model and what it has to draw. `close` it in the end, or use it as a context manager.

    All jobs are of the one model and predictor that `load` gives, with these `settings`, fields of a Request. At most
    `waiting` jobs wait (QueueFullError beyond), and the pictures of the last `kept` ones stay. What `load` raises is
    raised here.

    The thread that draws loads the model too: on a CPU, where another thread has computed with torch before, OpenMP
    keeps threads for both, and a picture of a small model takes half as long again.
    """

    backbone: Backbone
    predictor: LatentPredictor | None

    def __init__(
        self,
        load: Callable[[], tuple[Backbone, LatentPredictor | None]],
        *,
        settings: Mapping[str, Any] = MappingProxyType({}),
        waiting: int = WAITING,
        kept: int = KEPT,
        patience: float = PATIENCE,
    ) -> None:
        self.settings = settings
        self.drawn = 0  # pictures
        self._room = waiting
        self._kept = kept
        self._patience = patience
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: deque[Job] = deque()
        self._watchers: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}
        self._changed = threading.Condition(threading.RLock())
        self._closing = False
        self._running: Job | None = None
        self._last: Job | None = None  # what was being drawn when it closed
        self._open = ExitStack()
        self.warned = self._open.enter_context(Warned())
        loading: Future[None] = Future()
        self._worker = threading.Thread(target=self._work, args=(load, loading), daemon=True)
        self._worker.start()
        try:
            loading.result()
        except BaseException:
            self.close(patience=LEAVING)  # a thread that goes on loading while the interpreter ends would abort it
            raise

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ready(self) -> bool:
        """It takes jobs."""
        return self._worker.is_alive() and not self._closing

    def submit(self, request: Request) -> Job:
        """Put a request at the end of the queue."""
        with self._changed:
            if not self.ready:
                raise ClosingError("The server is shutting down.", hint="Try again when it is back.")
            for left in [one for one in self._queue if self._abandoned(one)]:
                self.cancel(left)
            if len(self._queue) >= self._room:
                raise QueueFullError(f"{self._room} drawings wait already.", hint="Try again in a moment.")
            job = Job(secrets.token_urlsafe(16), request, given_up=time.monotonic() + UNSEEN)
            self._jobs[job.id] = job
            self._queue.append(job)
            self._forget()
            self._changed.notify_all()
            return job

    def _forget(self) -> None:
        ended = [one for one in self._jobs.values() if one.ended]
        size = sum(one.size for one in ended)
        while len(ended) > self._kept or (size > KEPT_BYTES and len(ended) > 1):
            old = ended.pop(0)
            size -= old.size
            del self._jobs[old.id]

    def job(self, name: str) -> Job:
        """The job of that id, which somebody has asked about now; UnknownJobError where there is none."""
        with self._changed:
            if name not in self._jobs:
                raise UnknownJobError("There is no such drawing, or no longer.", hint="Draw it again.", field="id")
            job = self._jobs[name]
            if job.given_up is not None:
                job.given_up = time.monotonic() + UNSEEN
            return job

    def cancel(self, job: Job) -> None:
        """A waiting job is dropped, a running one ends after its step; what has ended stays as it is."""
        with self._changed:
            job.stop = True
            if job.state == "waiting":
                self._queue.remove(job)
                self._update(job, state="cancelled")

    def picture(self, job: Job, index: int) -> bytes | None:
        """The PNG of that picture, None where there is none."""
        with self._changed:
            if not 0 <= index < len(job.pictures):
                return None
            job.fetched.add(index)
            return job.pictures[index][1]

    @property
    def awaited(self) -> bool:
        """Whether pictures that were finished while it closed have still to be fetched."""
        job = self._last
        return job is not None and job.state == "done" and len(job.fetched) < len(job.pictures)

    def describe(self, job: Job) -> dict[str, Any]:
        with self._changed:
            if job not in self._queue:
                return job.describe()
            before = list(self._queue)[: self._queue.index(job)]
            return job.describe(ahead=1 + sum(not self._abandoned(one) for one in before))

    async def watch(self, job: Job, *, heartbeat: float) -> AsyncIterator[dict[str, Any] | None]:
        """What `describe` says, now and whenever it changes, until the job ends; None after each `heartbeat` seconds
        without a change.

        A job that someone watched and nobody does any more is cancelled after a while.
        """
        event = asyncio.Event()
        watcher = (asyncio.get_running_loop(), event)
        with self._changed:
            self._watchers.setdefault(job.id, []).append(watcher)
            job.given_up = None
        try:
            seen = -1
            while True:
                event.clear()
                if job.version != seen:
                    seen = job.version
                    now = self.describe(job)
                    yield now
                    if now["state"] in ("done", "failed", "cancelled"):
                        return
                    continue
                try:
                    await asyncio.wait_for(event.wait(), heartbeat)
                except TimeoutError:
                    yield None
        finally:
            with self._changed:
                self._watchers[job.id].remove(watcher)
                if not self._watchers[job.id]:
                    del self._watchers[job.id]
                    job.given_up = time.monotonic() + self._patience

    def close(self, *, patience: float | None = None) -> None:
        """Drop what waits, finish what is being drawn, in `patience` seconds if given, and take no more."""
        with self._changed:
            self._closing = True
            if self._running is not None and not self._running.ended:
                self._last = self._running
            for job in list(self._queue):
                self.cancel(job)
            self._changed.notify_all()
        self._worker.join(patience)
        self._open.close()

    def hurry(self) -> None:
        """What is being drawn ends after its step; may be called by a signal handler."""
        if self._running is not None:
            self._running.stop = True

    def _update(self, job: Job, **values: Any) -> None:
        with self._changed:
            for name, value in values.items():
                setattr(job, name, value)
            if "state" in values:  # those behind it move up
                for other in self._queue:
                    other.version += 1
                    self._wake(other)
            if job.ended:
                job.previews = {}
            job.version += 1
            self._wake(job)

    def _wake(self, job: Job) -> None:
        for loop, event in self._watchers.get(job.id, ()):
            with suppress(RuntimeError):  # that loop is closed: nobody is there any more
                loop.call_soon_threadsafe(event.set)

    def _work(self, load: Callable[[], tuple[Backbone, LatentPredictor | None]], loading: Future[None]) -> None:
        try:
            self.backbone, self.predictor = load()
        except BaseException as error:
            loading.set_exception(error)
            return
        loading.set_result(None)
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                job = self._queue.popleft()
                if self._abandoned(job):
                    self._update(job, state="cancelled")
                    continue
                self._running = job
                self._update(job, state="running")
            try:
                self._carry_out(job)
            except BaseException as error:  # a panic in Rust is none of `Exception`; signals come to the main thread
                self._update(job, state="failed", error=described(error))

    def _abandoned(self, job: Job) -> bool:
        given_up = job.given_up  # read once: a watcher may come meanwhile
        return given_up is not None and time.monotonic() > given_up

    def _carry_out(self, job: Job) -> None:
        started = previewed = time.monotonic()
        cost = 0.0
        events = run(job.request, backbone=self.backbone, predictor=self.predictor)
        with self.warned.told() as told, closing(events):
            for event in events:
                now = time.monotonic()
                if job.stop or self._abandoned(job):
                    self._update(job, state="cancelled", seconds=now - started)
                    return
                news: dict[str, Any] = {"seconds": now - started, "warnings": list(told)}
                if isinstance(event, Picture):
                    news["pictures"] = [*job.pictures, (event.seed, event.to_png())]
                    news["previews"] = {seed: url for seed, url in job.previews.items() if seed != event.seed}
                    self.drawn += 1
                else:
                    news |= {"done": event.done, "total": event.total}
                    if event.seeds and cost <= PREVIEW_SHARE * (now - previewed):
                        news["previews"] = job.previews | self._previews(event)
                        previewed = time.monotonic()
                        cost = previewed - now
                self._update(job, **news)
        self._update(job, state="done", seconds=time.monotonic() - started)

    def _previews(self, event: Progress) -> dict[int, str]:
        urls: dict[int, str] = {}
        try:
            images = to_images(self.backbone.decode(event.clean).clamp(-1, 1))
        except (GuidanceError, RuntimeError, MemoryError):  # in half precision, say: the picture may be fine
            return {}
        for seed, image in zip(event.seeds, images, strict=True):
            buffer = io.BytesIO()
            _shrunk(image).save(buffer, format="JPEG", quality=80)
            urls[seed] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        return urls


def _shrunk(image: Image.Image, side: int = 512) -> Image.Image:
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return image
