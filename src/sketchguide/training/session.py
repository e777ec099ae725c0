"""A training run with its log, its clock and its checkpoints."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sketchguide.errors import OutputError
from sketchguide.files import write_text

if TYPE_CHECKING:  # a command line says what it has to say without torch
    from sketchguide.training.checkpoints import Checkpoints
    from sketchguide.training.run import TrainingStep

SAVE_EVERY = 60.0  # seconds, and
SAVE_SHARE = 10  # times as long as the last save took
SCORE_EVERY = 100  # steps
PROBE = 6  # steps after which the pace is known


class Run(Protocol):
    """A `TrainingRun` whose `settings`, a frozen dataclass, have a number of `steps`."""

    settings: Any
    step: int
    skipped: int
    seconds: float

    def __iter__(self) -> Iterator[TrainingStep]: ...

    def state(self) -> dict[str, Any]: ...


@dataclass
class Session:
    """A run with everything around it: iterate it for step numbers; it logs, scores, saves and keeps the time.

    `save` what was done since the last checkpoint only between two steps: within one, the state is that of neither.
    What it replaces, `replaced` beside the log and every checkpoint, stays until a step has changed something.
    """

    run: Run
    checkpoints: Checkpoints
    config: Mapping[str, Any]
    minutes: float | None
    score: Callable[[], float] | None
    log: Path
    loss: float | None = None
    held_out: float | None = None
    score_every: int = SCORE_EVERY
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])  # kept with every checkpoint
    saved: int = 0  # step of the last checkpoint
    spent: float = 0.0  # seconds that earlier sessions of the run took
    replaced: Sequence[str] = ()  # patterns: files of an earlier run that give way, as its checkpoints do
    started: float = field(default_factory=time.monotonic)

    def __iter__(self) -> Generator[int]:
        self.saved = self.run.step
        self.spent = max(self.spent, self.run.seconds)
        last_save, wait = time.monotonic(), SAVE_EVERY
        most: int = self.config.get("steps") or self.run.settings.steps  # as many as were asked for
        ends: list[float] = []
        for step, loss, skipped in self.run:
            self.loss = loss
            ends.append(time.monotonic())
            if self.minutes is not None:
                self._keep_time(ends, self.minutes * 60 - self._elapsed, most=most)
            if self.replaced and step > skipped:
                self._replace()  # before anything that is written anew
            due = step % self.score_every == 0 or step >= self.run.settings.steps
            if due and self.score is not None and not self.replaced:
                self.held_out = self.score()
            if not self.replaced:
                self._write({"step": step, "loss": finite(loss), "skipped": skipped}, scored=due)
            if (begun := time.monotonic()) - last_save >= wait:
                self.save()
                last_save = time.monotonic()
                wait = max(SAVE_EVERY, SAVE_SHARE * (last_save - begun))
            yield step

    def save(self) -> None:
        if self.run.step != self.saved and not self.replaced:
            figures = {"loss": finite(self.loss), "held_out": finite(self.held_out)}
            meta = {"config": dict(self.config), "steps": self.run.settings.steps, **figures, **self.facts}
            meta["spent"] = round(self._elapsed, 3)
            self.checkpoints.save(self.run.step, self.run.state(), meta)
            self.saved = self.run.step

    @property
    def _elapsed(self) -> float:
        """Seconds that the run has taken, all its sessions together, with what is between its steps."""
        return self.spent + time.monotonic() - self.started

    @property
    def figures(self) -> str:
        """The latest loss and held-out error, in words."""
        held_out = "" if finite(self.held_out) is None else f", held-out error {self.held_out:.3f}"
        return f"loss {self.loss:.3f}{held_out}" if self.loss is not None else ""

    def rewind_log(self) -> None:
        """Drop what the log says of steps after the one that the run goes on from."""
        try:
            lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        except OSError as error:
            raise OutputError(f"The file {self.log} cannot be read: {error.strerror}.", field="output") from error
        kept = [line for line in lines if _logged_step(line) <= self.run.step]
        if kept != lines:
            write_text(self.log, "".join(f"{line}\n" for line in kept))

    def _replace(self) -> None:
        self.checkpoints.clear()
        for path in matching(self.log.parent, self.replaced):
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            except OSError as error:
                raise OutputError(f"The file {path} cannot be removed: {error.strerror}.", field="output") from error
        self.replaced = ()

    def _keep_time(self, ends: Sequence[float], left: float, *, most: int) -> None:
        """Fit the number of steps, `most` at most, to the time `left`, at the pace of the later half of those that have
        ended at `ends`: the first ones fill caches.

        The learning rate follows a cosine over the number of steps, so the number is decided early.
        """
        run, steps = self.run, len(ends) - 1
        if left <= 0:
            fitting = run.step
        elif not steps or (steps < PROBE and ends[-1] - ends[0] < 0.2 * left):
            return
        else:
            later = (steps + 1) // 2
            fitting = run.step + math.floor(0.97 * left * later / (ends[-1] - ends[-1 - later]))
        fitting = min(max(fitting, run.step), most)
        if not 0.98 * run.settings.steps <= fitting <= 1.02 * run.settings.steps:
            run.settings = replace(run.settings, steps=fitting)

    def _write(self, line: Mapping[str, Any], *, scored: bool) -> None:
        if scored:
            line = {**line, "held_out": finite(self.held_out)}
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OutputError(
                f"The file {self.log} cannot be written: {error.strerror}.",
                hint="Make room, then go on with --resume.",
                field="output",
            ) from error


def matching(output: Path, files: Sequence[str]) -> list[Path]:
    """The files in the folder `output` that the patterns `files` stand for, in their order."""
    return [path for pattern in files for path in sorted(output.glob(pattern))]


def finite(value: float | None) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return math.inf
