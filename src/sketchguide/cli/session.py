"""A training run on the command line: its folder, its log, its clock, its checkpoints and the way back to them."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sketchguide.cli.report import Report
from sketchguide.cli.signals import StopLater, Stopped, handling
from sketchguide.defaults import SEED
from sketchguide.errors import OutputError, TrainingError, UsageError
from sketchguide.files import write_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from sketchguide.training.checkpoints import Checkpoint, Checkpoints
    from sketchguide.training.data import Pictures
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
    replaced: Sequence[str] = ()  # patterns: files of an earlier run that give way, as its checkpoints do
    started: float = field(default_factory=time.monotonic)

    def __iter__(self) -> Generator[int]:
        self.saved = self.run.step
        before, last_save, wait = self.run.seconds, time.monotonic(), SAVE_EVERY
        first: tuple[int, float] | None = None
        for step, loss, skipped in self.run:
            self.loss = loss
            now = time.monotonic()
            first = first or (step, now)
            if self.minutes is not None:
                left = self.minutes * 60 - (before + now - self.started)
                self._keep_time(step - first[0], now - first[1], left)
            due = step % self.score_every == 0 or step >= self.run.settings.steps
            if due and self.score is not None:
                self.held_out = self.score()
            if self.replaced and step > skipped:
                self._replace()
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
            self.checkpoints.save(self.run.step, self.run.state(), meta)
            self.saved = self.run.step

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
        for path in _matching(self.log.parent, self.replaced):
            try:
                path.unlink()
            except OSError as error:
                raise OutputError(f"The file {path} cannot be removed: {error.strerror}.", field="output") from error
        self.replaced = ()

    def _keep_time(self, steps: int, seconds: float, left: float) -> None:
        """Shorten the run where the time `left` is too short at the pace of `steps` in `seconds`.

        The learning rate follows a cosine over the number of steps, so the number is decided early.
        """
        run = self.run
        if left <= 0:
            fitting = run.step
        elif not steps or (steps < PROBE and seconds < 0.2 * left):
            return
        else:
            fitting = run.step + math.floor(0.97 * left * steps / seconds)
        if fitting < 0.98 * run.settings.steps:
            run.settings = replace(run.settings, steps=max(fitting, run.step))

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


def until_stopped(session: Session, arguments: Sequence[str]) -> Generator[int]:
    """The steps of `session`, saved at the end, and where training fails. A signal ends it between two steps: what was
    done is saved, and Stopped says how the run that `arguments` have started goes on."""
    stop = StopLater()
    try:
        with handling(stop):
            for step in session:
                yield step
                if stop.number:
                    break
            session.save()
        if stop.number:
            raise Stopped(stop.number)
    except TrainingError as error:
        session.save()
        if error.field == "data" and session.saved:
            error.hint += " With other pictures the run starts again: give --fresh."
        raise
    except Stopped as stopped:
        if session.saved:
            stopped.hint = f"Step {session.saved} is saved. Go on with: {_resuming(arguments)}"
        raise


def carry_through(
    session: Session,
    report: Report,
    bar: Progress,
    task: TaskID,
    *,
    description: str,
    latest: Checkpoint | None,
    pictures: Pictures | None = None,
) -> None:
    """Train to the end of `session`, after the checkpoint `latest`. However that ends, the report has how far it came
    and which of `pictures` could not be read.
    """
    if latest is not None:
        session.loss, session.held_out = latest.meta["loss"], latest.meta["held_out"]
    if not session.replaced:
        session.rewind_log()
    try:
        for step in until_stopped(session, report.arguments):
            total, figures = session.run.settings.steps, session.figures
            bar.update(task, description=description, completed=step, total=total, figures=figures)
    finally:
        for path, reason in () if pictures is None else pictures.skipped:
            report.warn(f"The picture {path} was left out: {reason}")
        if skipped := session.run.skipped:
            report.warn(f"{skipped} of {session.run.step} steps changed nothing: loss or gradient was not finite.")
        figures = {"loss": finite(session.loss), "held_out": finite(session.held_out)}
        report.facts = {"steps": session.run.step, **figures}


def is_folder(output: Path) -> bool:
    """Whether there is a folder for results already; UsageError where a file has its name."""
    try:
        if not output.exists():
            return False
        if output.is_dir():
            return True
    except OSError:  # it may not be looked at: writing to it will say why
        return False
    raise UsageError(
        f"The output {output} is a file, not a folder.", hint="Give a folder for the result.", field="output"
    )


@contextmanager
def workplace(checkpoints: Checkpoints, files: Sequence[str]) -> Generator[None]:
    """Hold the lock of the folder; when nothing was saved in it, leave the disk as it was, without new `files`, as
    `earlier` takes them."""
    output = checkpoints.folder.parent
    existed = is_folder(output)
    before = _matching(output, files)
    with checkpoints.lock():
        try:
            yield
        finally:
            if not any(checkpoints.folder.glob("step-*")):
                with suppress(OSError):
                    for path in (path for path in _matching(output, files[1:]) if path not in before):
                        path.unlink()
                with suppress(OSError):  # not empty: it holds something of the user's
                    (checkpoints.folder / "lock").unlink()
                    checkpoints.folder.rmdir()
                    if not existed:
                        output.rmdir()


def check_run(*, resume: bool, fresh: bool, minutes: float | None, seed: int) -> None:
    """UsageError for options of a training command that contradict each other or lie out of range."""
    if resume and fresh:
        raise UsageError("--resume and --fresh exclude each other.", field="resume")
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"minutes is {minutes}; it must be above 0.", field="minutes")
    if not SEED.low <= seed <= SEED.high:
        raise UsageError(f"seed is {seed}; it must lie in {SEED.low}..{SEED.high}.", field="seed")


def earlier(
    checkpoints: Checkpoints, files: Sequence[str], report: Report, *, resume: bool, fresh: bool
) -> Checkpoint | None:
    """The checkpoint that a run goes on from, None if it starts at the beginning.

    UsageError where the folder holds a run, or one of the `files` (patterns) that a run writes, the result first, and
    neither flag says what to do with it.
    """
    output, latest, result = checkpoints.folder.parent, checkpoints.latest(), files[0]
    if resume:
        if latest is None and (output / result).exists():
            raise UsageError(
                f"The folder {output} holds a {Path(result).stem}, and no checkpoint to go on from.",
                hint="Give --fresh to replace it, or another folder.",
                field="output",
            )
        if latest is None:
            report.warn(f"The folder {output} has no checkpoint to resume from; the run starts at the beginning.")
        return latest
    if fresh:
        return None
    if latest is not None:
        raise UsageError(
            f"The folder {output} holds a run that has come to step {latest.step}.",
            hint="Give --resume to go on with it, --fresh to start again, or another folder.",
            field="output",
        )
    for path in _matching(output, files):
        what = path.stem if path.name == result else f"{path.name}, which the run would overwrite"
        raise UsageError(
            f"The folder {output} holds a {what}.",
            hint="Give --fresh to replace it, or another folder.",
            field="output",
        )
    return None


def _matching(output: Path, files: Sequence[str]) -> list[Path]:
    return [path for pattern in files for path in sorted(output.glob(pattern))]


def _resuming(arguments: Sequence[str]) -> str:
    words = [word for word in arguments if word not in ("--resume", "--fresh")]
    return shlex.join(["sketchguide", *words, "--resume"])


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return math.inf


def finite(value: float | None) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None
