"""A run on the clock: its steps fit the time, and saving them takes little of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sketchguide.training.run import TrainingStep
from sketchguide.training.session import Session


@dataclass(frozen=True)
class Settings:
    steps: int


class Clock:
    """Says what time it is; steps let it pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Paced:
    """A run whose step number n takes `pace(n)` seconds of the clock."""

    clock: Clock
    pace: Callable[[int], float]
    settings: Any = Settings(1000)
    step: int = 0
    skipped: int = 0
    seconds: float = 0.0
    totals: list[int] = field(default_factory=list[int])  # number of steps that was planned as each of them began

    def __iter__(self) -> Iterator[TrainingStep]:
        while self.step < self.settings.steps:
            self.totals.append(self.settings.steps)
            self.step += 1
            self.clock.now += self.pace(self.step)
            self.seconds += self.pace(self.step)
            yield TrainingStep(self.step, 1.0, 0)

    def state(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Paced]:
    """`within(minutes, pace, …)`: a run that has come to its end in this time."""

    def end(minutes: float, pace: Callable[[int], float], **so_far: Any) -> Paced:
        clock = Clock()
        monkeypatch.setattr("sketchguide.training.session.time", clock)
        run = Paced(clock, pace, **so_far)
        kept: Any = SimpleNamespace(save=lambda *_: None)
        spent = run.seconds
        list(Session(run, kept, {}, minutes, None, tmp_path / "log.jsonl", spent=spent, started=clock.now))
        return run

    return end


def test_the_steps_that_fit_are_known_early_and_fill_the_time(within: Callable[..., Paced]) -> None:
    run = within(2, lambda _: 1.0)
    assert 114 <= run.step <= 120
    assert 114 <= min(run.totals[10:]) <= max(run.totals[10:]) <= 120  # the learning rate follows their number


def test_steps_that_become_slower_still_end_in_time(within: Callable[..., Paced]) -> None:
    run = within(2, lambda step: 0.5 if step <= 100 else 2.0)
    assert 110 <= run.seconds <= 122


def test_first_steps_that_fill_caches_cost_no_later_ones(within: Callable[..., Paced]) -> None:
    run = within(2, lambda step: 3.0 if step <= 12 else 0.5)
    assert 114 <= run.seconds <= 121
    assert run.step >= 170


def test_a_run_that_speeds_up_does_no_more_than_was_asked_for(within: Callable[..., Paced]) -> None:
    run = within(2, lambda step: 3.0 if step <= 12 else 0.5, settings=Settings(100))
    assert run.step == 100


def test_the_time_between_steps_is_kept_with_every_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, kept = Clock(), list[float]()
    monkeypatch.setattr("sketchguide.training.session.time", clock)
    checkpoints: Any = SimpleNamespace(save=lambda _step, _state, meta: kept.append(meta["spent"]))  # pyright: ignore[reportUnknownLambdaType]
    run = Paced(clock, lambda _: 1.0, Settings(70))
    session = Session(run, checkpoints, {}, 10, None, tmp_path / "log.jsonl", spent=5.0, started=clock.now)
    for _ in session:
        clock.now += 0.5
    assert kept == [pytest.approx(5 + 41 * 1.5 - 0.5, abs=1.6)]


def test_the_time_of_earlier_sessions_counts(within: Callable[..., Paced]) -> None:
    run = within(2, lambda _: 1.0, step=90, seconds=90.0)
    assert 114 <= run.step <= 120


def test_a_first_step_that_takes_all_the_time_is_the_last(within: Callable[..., Paced]) -> None:
    assert within(1, lambda _: 100.0).step == 1


def test_a_run_that_fits_keeps_its_steps(within: Callable[..., Paced]) -> None:
    run = within(2, lambda _: 1.0, settings=Settings(100))
    assert run.step == 100
    assert set(run.totals) == {100}


@pytest.mark.parametrize(("cost", "saved"), [(1.0, [60, 121, 182]), (30.0, [60, 390])])
def test_checkpoints_that_take_long_are_saved_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: float, saved: list[int]
) -> None:
    clock, at = Clock(), list[int]()

    def save(*_: Any) -> None:
        at.append(round(clock.now - 1000))
        clock.now += cost

    monkeypatch.setattr("sketchguide.training.session.time", clock)
    kept: Any = SimpleNamespace(save=save)
    run = Paced(clock, lambda _: 1.0, Settings(200 if cost < 2 else 500))
    list(Session(run, kept, {}, None, None, tmp_path / "log.jsonl", started=clock.now))
    assert at == saved
