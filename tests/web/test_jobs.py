"""The queue: order, room, cancelling, failing, leaving."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from served import ASKED
from sketchguide.arguments import named
from sketchguide.backbones.base import Backbone
from sketchguide.errors import ClosingError, QueueFullError, UnknownJobError, UsageError
from sketchguide.generation import run
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.sketch import Sketch
from sketchguide.web import jobs as jobs_module
from sketchguide.web.jobs import Desk, Job
from support import Tiny

NETWORK = "small"


def asked(desk: Desk, **values: Any) -> Request:
    return Request.checked(**named(ASKED | values, desk.backbone, desk.predictor))


def wait(job: Job, *states: str) -> None:
    for _ in range(6000):
        if job.state in (states or ("done", "failed", "cancelled")):
            return
        time.sleep(0.01)
    raise AssertionError(job.state)


class Slow:
    """A model that waits for `go` at every step."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.steps = 0
        self.held = True
        self.fails = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def predict(self, *args: Any, **more: Any) -> Any:
        while self.held:
            time.sleep(0.005)
        self.steps += 1
        if self.fails:
            raise RuntimeError(self.fails)
        return self._backbone.predict(*args, **more)


@pytest.fixture
def slow(tiny: Tiny) -> Slow:
    return Slow(tiny())


@pytest.fixture
def held(slow: Slow, predictor: LatentPredictor) -> Iterator[Desk]:
    """A desk at which nothing moves before `slow.held` is False."""
    desk = Desk(lambda: (slow, predictor), waiting=2, kept=2, patience=0.2)  # pyright: ignore[reportArgumentType]
    yield desk
    slow.held = False
    desk.close()


def test_first_come_first_served(held: Desk, slow: Slow):
    first = held.submit(asked(held, seed=1))
    wait(first, "running")
    second, third = (held.submit(asked(held, seed=seed)) for seed in (2, 3))
    assert [held.describe(job)["ahead"] for job in (first, second, third)] == [0, 1, 2]
    slow.held = False
    wait(third)
    assert [job.state for job in (first, second, third)] == ["done"] * 3
    assert [job.pictures[0][0] for job in (first, second, third)] == [1, 2, 3]


def test_nobody_can_tell_the_number_of_the_next_job(held: Desk):
    """Whoever knows it sees the drawing."""
    first, second = (held.submit(asked(held)).id for _ in range(2))
    assert min(len(first), len(second)) >= 22  # 128 bits
    assert sum(one == other for one, other in zip(first, second, strict=True)) < 11


def test_a_full_queue_refuses_and_loses_nothing(held: Desk, slow: Slow):
    running = held.submit(asked(held))
    wait(running, "running")
    waiting = [held.submit(asked(held)) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 drawings wait already"):
        held.submit(asked(held))
    held.cancel(waiting[0])
    more = held.submit(asked(held))
    slow.held = False
    wait(more)
    assert [job.state for job in (running, *waiting, more)] == ["done", "cancelled", "done", "done"]


def test_a_running_job_ends_after_its_step(held: Desk, slow: Slow):
    job = held.submit(asked(held, steps=50))
    wait(job, "running")
    held.cancel(job)
    held.cancel(job)
    slow.held = False
    wait(job)
    assert job.state == "cancelled"
    assert slow.steps < 5  # both passes of at most two steps
    assert not job.pictures


def test_a_job_that_fails_says_why_and_the_next_one_is_drawn(held: Desk, slow: Slow):
    slow.fails, slow.held = "the device is on fire", False
    failing = held.submit(asked(held))
    wait(failing)
    assert failing.state == "failed"
    assert failing.error is not None
    assert "the device is on fire" in failing.error["message"]
    slow.fails = "CUDA out of memory. Tried to allocate 2 GiB"
    full = held.submit(asked(held))
    wait(full)
    assert full.error is not None
    assert full.error["code"] == "out_of_memory"
    assert "smaller size" in full.error["hint"]
    slow.fails = ""
    after = held.submit(asked(held))
    wait(after)
    assert after.state == "done"
    assert held.drawn == 1


def test_only_the_last_ones_are_kept(held: Desk, slow: Slow):
    slow.held = False
    jobs: list[Job] = []
    for seed in range(4):
        jobs.append(held.submit(asked(held, seed=seed, steps=1)))
        wait(jobs[-1])
    for job in jobs[:1]:
        with pytest.raises(UnknownJobError):
            held.job(job.id)
    assert held.job(jobs[-1].id) is jobs[-1]


def test_what_nobody_watches_any_more_is_dropped(held: Desk, slow: Slow):
    running = held.submit(asked(held))
    wait(running, "running")
    waiting, unwatched = held.submit(asked(held)), held.submit(asked(held))

    async def look_at(job: Job) -> None:
        async for _ in held.watch(job, heartbeat=1):
            return

    asyncio.run(look_at(running))
    asyncio.run(look_at(waiting))
    time.sleep(0.3)
    fresh = held.submit(asked(held))  # takes the place of the one that waited
    assert waiting.state == "cancelled"
    slow.held = False
    wait(fresh)
    assert (running.state, unwatched.state, fresh.state) == ("cancelled", "done", "done")


def test_what_nobody_waits_for_is_neither_begun_nor_counted(held: Desk, slow: Slow, monkeypatch: pytest.MonkeyPatch):
    begun: list[int] = []

    def noted(request: Request, **more: Any) -> Any:
        begun.append(request.seed)
        return run(request, **more)

    monkeypatch.setattr(jobs_module, "run", noted)
    running = held.submit(asked(held, seed=1))
    wait(running, "running")
    left, last = held.submit(asked(held, seed=2)), held.submit(asked(held, seed=3))
    assert held.describe(last)["ahead"] == 2
    left.given_up = time.monotonic() - 1
    assert held.describe(last)["ahead"] == 1
    slow.held = False
    wait(last)
    assert left.state == "cancelled"
    assert begun == [1, 3]


def test_what_nobody_ever_asks_about_is_dropped(held: Desk, slow: Slow, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs_module, "UNSEEN", 0.5)
    forgotten, asked_about = held.submit(asked(held)), held.submit(asked(held))
    for tries in range(200):
        slow.held = tries < 14
        time.sleep(0.05)
        if held.job(asked_about.id).ended:
            break
    assert (forgotten.state, asked_about.state) == ("cancelled", "done")


def test_large_drawings_are_kept_for_less_long(held: Desk, slow: Slow, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs_module, "KEPT_BYTES", 100_000)
    slow.held = False
    drawing = Sketch.from_strokes([[[0.2, 0.2], [0.8, 0.3]] * 500]).to_json()
    jobs = [held.submit(asked(held, steps=1, sketch=drawing)) for _ in range(2)]
    wait(jobs[-1])
    held.submit(asked(held, steps=1))
    with pytest.raises(UnknownJobError):
        held.job(jobs[0].id)
    assert held.job(jobs[1].id) is jobs[1]


def test_large_pictures_are_kept_for_less_long(held: Desk, slow: Slow, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs_module, "KEPT_BYTES", 1000)
    slow.held = False
    jobs = [held.submit(asked(held, steps=1))]
    wait(jobs[0])
    assert held.job(jobs[0].id) is jobs[0]
    for _ in range(2):
        jobs.append(held.submit(asked(held, steps=1)))
        wait(jobs[-1])
    with pytest.raises(UnknownJobError):
        held.job(jobs[0].id)
    assert held.job(jobs[-1].id) is jobs[-1]


def test_whoever_comes_back_in_time_finds_the_job_running(held: Desk, slow: Slow):
    job = held.submit(asked(held))
    wait(job, "running")

    async def leave_and_come_back() -> list[str]:
        async for _ in held.watch(job, heartbeat=1):
            break
        await asyncio.sleep(0.05)
        states: list[str] = []
        async for now in held.watch(job, heartbeat=1):
            slow.held = False
            if now:
                states.append(now["state"])
        return states

    assert asyncio.run(leave_and_come_back())[-1] == "done"


def test_nothing_is_kept_of_those_who_watched(held: Desk, slow: Slow):
    slow.held = False

    async def watched(job: Job) -> None:
        async for _ in held.watch(job, heartbeat=1):
            pass

    for _ in range(4):  # more than are kept
        asyncio.run(watched(held.submit(asked(held, steps=1))))
    assert held._watchers == {}  # pyright: ignore[reportPrivateUsage]


def test_a_silent_stream_shows_that_it_lives(held: Desk):
    job = held.submit(asked(held))

    async def heartbeats() -> int:
        count = 0
        async for now in held.watch(job, heartbeat=0.02):
            count += now is None
            if count == 3:
                break
        return count

    assert asyncio.run(heartbeats()) == 3


def test_closing_finishes_what_is_drawn_and_drops_what_waits(held: Desk, slow: Slow):
    running, waiting = held.submit(asked(held)), held.submit(asked(held))
    wait(running, "running")
    slow.held = False
    held.close()
    assert (running.state, waiting.state) == ("done", "cancelled")
    assert not held.ready
    with pytest.raises(ClosingError, match="shutting down"):
        held.submit(asked(held))


def test_what_loading_raises_is_raised():
    def load() -> tuple[Backbone, None]:
        raise UsageError("There is no such model.")

    with pytest.raises(UsageError, match="no such model"):
        Desk(load)


def test_in_a_hurry_it_ends_after_the_step(held: Desk, slow: Slow):
    running = held.submit(asked(held, steps=50))
    wait(running, "running")
    held.hurry()
    slow.held = False
    held.close()
    assert running.state == "cancelled"


def test_a_preview_that_is_no_picture_costs_itself_alone(held: Desk, slow: Slow, monkeypatch: pytest.MonkeyPatch):
    """As where half precision overflows early on."""
    decode, asked_for = slow._backbone.decode, list[int]()

    def overflowing(latents: Any) -> Any:
        asked_for.append(1)
        return decode(latents) * (float("nan") if slow.steps < 3 else 1)

    monkeypatch.setattr(slow, "decode", overflowing, raising=False)
    slow.held = False
    job = held.submit(asked(held, steps=4))
    wait(job)
    assert (job.state, len(job.pictures)) == ("done", 1)
    assert len(asked_for) > 1


class PanicError(BaseException):
    """What a library in Rust raises where it must not."""


def test_a_panic_fails_its_job_alone(held: Desk, slow: Slow, monkeypatch: pytest.MonkeyPatch):
    def panics(*_: Any, **__: Any) -> Any:
        raise PanicError("called `Option::unwrap()` on a `None` value")

    slow.held = False
    with monkeypatch.context() as patched:
        patched.setattr(slow, "predict", panics, raising=False)
        job = held.submit(asked(held))
        wait(job)
        assert job.state == "failed"
    after = held.submit(asked(held))
    wait(after)
    assert after.state == "done"
    assert held.ready


def test_previews_cost_a_part_of_the_time(held: Desk, slow: Slow, monkeypatch: pytest.MonkeyPatch):
    """A decoder that takes far longer than a step is not asked at every step."""
    asked_for: list[float] = []
    decode = slow._backbone.decode

    def costly(latents: Any) -> Any:
        asked_for.append(time.monotonic())
        time.sleep(0.2)
        return decode(latents)

    monkeypatch.setattr(slow, "decode", costly, raising=False)
    slow.held = False
    job = held.submit(asked(held, steps=20))
    wait(job)
    assert job.state == "done"
    assert 2 <= len(asked_for) <= 4  # the first, the last, and what 20 quick steps leave time for
