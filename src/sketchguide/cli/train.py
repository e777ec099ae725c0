"""`sketchguide train`."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.cli.signals import StopLater, Stopped, handling
from sketchguide.defaults import MODEL, SEED, TRAINING_BATCH, TRAINING_RATE, TRAINING_STEPS
from sketchguide.errors import OutputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from sketchguide.training.checkpoints import Checkpoint, Checkpoints
    from sketchguide.training.data import Example
    from sketchguide.training.predictor import PredictorRun, PredictorTraining

DATA, OUTPUT, TRAINING, MODELS = "Data", "Output", "Training", "Model"
SAVE_EVERY = 60.0  # seconds
SCORE_EVERY = 100  # steps
SCORED = 32  # held-out pictures that are scored
PROBE = 6  # steps after which the pace is known


def command(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of pictures. Captions come from metadata.jsonl, a .txt beside each picture, or the name of "
            "the picture's folder.",
            metavar="FOLDER",
            rich_help_panel=DATA,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the predictor, its model card, log.jsonl and the checkpoints.",
            metavar="DIR",
            rich_help_panel=OUTPUT,
        ),
    ],
    map_kind: Annotated[
        str, typer.Option("--map", help="What drawings will show: edges.", metavar="KIND", rich_help_panel=DATA)
    ] = "edges",
    images: Annotated[
        int | None,
        typer.Option(
            help="Use this many pictures, drawn by the seed; at least 1, default all.",
            metavar="N",
            rich_help_panel=DATA,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in DIR.", rich_help_panel=OUTPUT)
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start again and replace what is in DIR.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: JsonFlag = False,
    steps: Annotated[
        int | None,
        typer.Option(
            help=f"Training steps: {TRAINING_STEPS}.",
            metavar="N",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Make fewer steps, if need be, to train no longer than this. Default: no limit.",
            metavar="M",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help=f"Pictures per step: {TRAINING_BATCH}. Fewer need less memory.",
            metavar="N",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help=f"Learning rate at the start: {TRAINING_RATE}. It falls to 0 along a cosine.",
            metavar="F",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help=f"Of the weights, the order of the pictures and the noise: {SEED}.",
            metavar="N",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="The model to read: shipped (see `sketchguide models`), a diffusers folder or a hub id.",
            metavar="NAME|PATH|HUB_ID",
            rich_help_panel=MODELS,
        ),
    ] = MODEL,
    device: Annotated[
        str,
        typer.Option(
            help="auto (CUDA, else MPS, else the CPU); cpu, cuda, cuda:1, mps, …",
            metavar="NAME",
            rich_help_panel=MODELS,
        ),
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="Of the model: auto (float32 on the CPU, else bfloat16); float32, bfloat16 or float16.",
            metavar="NAME",
            rich_help_panel=MODELS,
        ),
    ] = "auto",
) -> None:
    """Train a predictor, which lets drawings guide a model.

    sketchguide train --data pictures/ -o my-predictor --minutes 5
    sketchguide train --data pictures/ -o my-predictor --model owner/name --batch 8
    sketchguide train --data pictures/ -o my-predictor --minutes 5 --resume
    sketchguide generate "a red apple" --sketch apple.svg --predictor my-predictor

    A few hundred captioned pictures are enough. Checkpoints are saved every
    minute and when the run is stopped (Ctrl-C); --resume, with the other
    options as before, goes on as if nothing had happened.
    """
    report = Report.of(context, as_json=as_json)
    if resume and fresh:
        raise UsageError("--resume and --fresh exclude each other.", field="resume")
    if images is not None and images < 1:
        raise UsageError(f"images is {images}; it must be at least 1.", field="images")
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"minutes is {minutes}; it must be above 0.", field="minutes")
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise UsageError(f"dtype is {dtype!r}; it must be auto, float32, bfloat16 or float16.", field="dtype")
    with report.progress("{task.fields[figures]}") as bar:
        task = bar.add_task("Loading", total=None, figures="")
        hush_libraries()
        from sketchguide.cli.environment import hardware
        from sketchguide.extractors import EXTRACTORS
        from sketchguide.loading import load_backbone
        from sketchguide.training.card import model_card, usage
        from sketchguide.training.checkpoints import Checkpoints
        from sketchguide.training.data import Pictures, find_examples, split
        from sketchguide.training.predictor import PredictorRun, PredictorTraining

        if map_kind not in EXTRACTORS:
            raise UsageError(f"Unknown map {map_kind!r}.", hint=f"Choose one of: {', '.join(EXTRACTORS)}.", field="map")
        options = {"steps": steps, "batch": batch, "rate": rate, "seed": seed}
        asked = PredictorTraining(**{name: value for name, value in options.items() if value is not None})  # pyright: ignore[reportArgumentType]
        if not SEED.low <= asked.seed <= SEED.high:
            raise UsageError(f"seed is {asked.seed}; it must lie in {SEED.low}..{SEED.high}.", field="seed")
        examples = find_examples(data, limit=images, seed=asked.seed)
        training, held_out = split(examples, seed=asked.seed)
        checkpoints = Checkpoints(output / "checkpoints")
        with _workplace(checkpoints):
            latest = checkpoints.latest()
            _check_occupied(output, latest, resume=resume, fresh=fresh)
            if resume and latest is None:
                report.warn(f"{output} has no checkpoint to resume from; the run starts at the beginning.")
            latest = latest if resume else None
            backbone = load_backbone(model, device=device, dtype=dtype)
            pictures = Pictures(training, size=backbone.default_size)
            scored = Pictures(held_out, size=backbone.default_size).fixed(SCORED) if held_out else None
            run = PredictorRun(backbone, pictures, EXTRACTORS[map_kind], asked)
            config = {**run.config, "minutes": minutes, "pictures": _digest(examples)}
            if latest is not None:
                run = _continued(run, latest, config)
            elif fresh:
                checkpoints.clear()
            session = Session(run, checkpoints, config, minutes=minutes, scored=scored, log=output / "log.jsonl")
            if latest is not None:
                session.loss, session.held_out = latest.meta["loss"], latest.meta["held_out"]
            session.rewind_log()
            stop = StopLater()
            try:
                with handling(stop):
                    for step in session:
                        total, figures = run.settings.steps, session.figures
                        bar.update(task, description="Training", completed=step, total=total, figures=figures)
                        if stop.number:
                            break
                    session.save()
                if stop.number:
                    raise Stopped(stop.number)
            except Stopped as stopped:
                if session.saved:
                    stopped.hint = f"Step {session.saved} is saved. Go on with: {_resuming(report.arguments)}"
                raise
            finally:
                for path, reason in pictures.skipped:
                    report.warn(f"{path} was left out: {reason}")
                figures = {"loss": _finite(session.loss), "held_out": _finite(session.held_out)}
                report.facts = {"steps": run.step, **figures}
            card = model_card(
                run.predictor.config,
                run.settings,
                folder=output,
                pictures=len(training),
                held_out_pictures=len(held_out),
                held_out=session.held_out,
                seconds=run.seconds,
                hardware=hardware(backbone.device.type),
            )
            file = run.predictor.save_pretrained(output, card=card)
            record = {
                "trainable_parameters": run.predictor.parameter_count,
                "training_images": len(training),
                "held_out_images": len(held_out),
                "steps": run.step,
                "seconds": round(run.seconds, 1),
                **figures,
                "device": hardware(backbone.device.type),
            }
            try:
                (output / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            except OSError as error:
                raise OutputError(f"Cannot write to {output}: {error.strerror}.", field="output") from error
    report.facts = {"predictor": str(output), **report.facts, "training_seconds": round(run.seconds, 1)}
    report.say(f"{file}: {run.step} steps in {run.seconds / 60:.1f} minutes, {session.figures}")
    report.say(f"Use it: {usage(model, output)}")


@dataclass
class Session:
    """A run with everything around it: iterate it for step numbers; it logs, scores, saves and keeps the time.

    `save` what was done since the last checkpoint only between two steps: within one, the state is that of neither.
    """

    run: PredictorRun
    checkpoints: Checkpoints
    config: Mapping[str, Any]
    minutes: float | None
    scored: tuple[Tensor, Sequence[str]] | None
    log: Path
    loss: float | None = None
    held_out: float | None = None
    saved: int = 0  # step of the last checkpoint
    started: float = field(default_factory=time.monotonic)

    def __iter__(self) -> Generator[int]:
        self.saved = self.run.step
        before, last_save = self.run.seconds, time.monotonic()
        first: tuple[int, float] | None = None
        for step, loss, skipped in self.run:
            self.loss = loss
            now = time.monotonic()
            first = first or (step, now)
            if self.minutes is not None:
                left = self.minutes * 60 - (before + now - self.started)
                self._keep_time(step - first[0], now - first[1], left)
            due = step % SCORE_EVERY == 0 or step >= self.run.settings.steps
            if due and self.scored is not None:
                self.held_out = self.run.score(*self.scored)
            self._write({"step": step, "loss": _finite(loss), "skipped": skipped}, scored=due)
            if now - last_save >= SAVE_EVERY:
                self.save()
                last_save = time.monotonic()
            yield step

    def save(self) -> None:
        if self.run.step != self.saved:
            figures = {"loss": _finite(self.loss), "held_out": _finite(self.held_out)}
            meta = {"config": dict(self.config), "steps": self.run.settings.steps, **figures}
            self.checkpoints.save(self.run.step, self.run.state(), meta)
            self.saved = self.run.step

    @property
    def figures(self) -> str:
        """The latest loss and held-out error, in words."""
        held_out = "" if self.held_out is None else f", held-out error {self.held_out:.3f}"
        return f"loss {self.loss:.3f}{held_out}" if self.loss is not None else ""

    def rewind_log(self) -> None:
        """Drop what the log says of steps after the one that the run goes on from."""
        try:
            lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
            kept = [line for line in lines if _logged_step(line) <= self.run.step]
            if lines:
                self.log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{self.log} cannot be written: {error.strerror}.", field="output") from error

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
            line = {**line, "held_out": _finite(self.held_out)}
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OutputError(
                f"{self.log} cannot be written: {error.strerror}.",
                hint="Make room, then go on with --resume.",
                field="output",
            ) from error


@contextmanager
def _workplace(checkpoints: Checkpoints) -> Generator[None]:
    """Hold the lock of the folder; when nothing was saved in it, leave the disk as it was."""
    output = checkpoints.folder.parent
    existed = output.exists()
    if existed and not output.is_dir():
        raise UsageError(f"{output} is a file, not a folder.", hint="Give a folder for the predictor.", field="output")
    with checkpoints.lock():
        try:
            yield
        finally:
            if not any(checkpoints.folder.glob("step-*")):
                with suppress(OSError):  # not empty: it holds something of the user's
                    (checkpoints.folder / "lock").unlink()
                    checkpoints.folder.rmdir()
                    if not existed:
                        output.rmdir()


def _check_occupied(output: Path, latest: Checkpoint | None, *, resume: bool, fresh: bool) -> None:
    if resume or fresh:
        return
    if latest is not None:
        raise UsageError(
            f"{output} holds a run that has come to step {latest.step}.",
            hint="Give --resume to go on with it, --fresh to start again, or another folder.",
            field="output",
        )
    if (output / "predictor.safetensors").exists():
        raise UsageError(
            f"{output} holds a predictor.", hint="Give --fresh to replace it, or another folder.", field="output"
        )


def _continued(run: PredictorRun, latest: Checkpoint, config: Mapping[str, Any]) -> PredictorRun:
    """The run as `latest` left it, if its settings are those of `config`."""
    from sketchguide.training.checkpoints import check_config
    from sketchguide.training.predictor import PredictorRun

    check_config(latest.meta["config"], config, afresh="--fresh")
    settings: PredictorTraining = replace(run.settings, steps=latest.meta["steps"])
    return PredictorRun(run.backbone, run.pictures, run.extractor, settings, resume=latest)


def _digest(examples: Sequence[Example]) -> str:
    """The number of pictures and 8 hex digits that change with their names and captions."""
    text = json.dumps(sorted((example.name, example.caption) for example in examples))
    return f"{len(examples)} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _resuming(arguments: Sequence[str]) -> str:
    words = [word for word in arguments if word not in ("--resume", "--fresh")]
    return shlex.join(["sketchguide", *words, "--resume"])


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return math.inf


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
