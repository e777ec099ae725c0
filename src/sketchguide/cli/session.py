"""A training run on the command line: its options, its folder, and what stops it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sketchguide.cli.report import Report
from sketchguide.cli.signals import StopLater, Stopped, handling
from sketchguide.defaults import SEED
from sketchguide.errors import TrainingError, UsageError
from sketchguide.files import locked
from sketchguide.training.session import Session, finite, matching

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from sketchguide.training.checkpoints import Checkpoint, Checkpoints
    from sketchguide.training.data import Pictures


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
        session.spent = latest.meta.get("spent", 0.0)  # unknown of runs begun by earlier versions
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
            report.warn(
                f"{skipped} of {max(skipped, session.run.step)} steps changed nothing: loss or gradient was not finite."
            )
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
    """Keep other runs out of the folder; when nothing was saved in it, leave the disk as it was, without new `files`,
    as `earlier` takes them."""
    output = checkpoints.folder.parent
    existed = is_folder(output)
    before = matching(output, files)
    with locked(checkpoints.folder):
        try:
            yield
        finally:
            if not any(checkpoints.folder.glob("step-*")):
                with suppress(OSError):
                    for path in (path for path in matching(output, files[1:]) if path not in before):
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
    for path in matching(output, files):
        what = path.stem if path.name == result else f"{path.name}, which the run would overwrite"
        raise UsageError(
            f"The folder {output} holds a {what}.",
            hint="Give --fresh to replace it, or another folder.",
            field="output",
        )
    return None


def _resuming(arguments: Sequence[str]) -> str:
    words = [word for word in arguments if word not in ("--resume", "--fresh")]
    return shlex.join(["sketchguide", *words, "--resume"])
