"""`sketchguide train`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from sketchguide.cli.options import (
    DATA,
    MODELS,
    OUTPUT,
    TRAINING,
    FreshOption,
    MinutesOption,
    ResumeOption,
    TrainDeviceOption,
)
from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.cli.session import carry_through, check_run, earlier, workplace
from sketchguide.defaults import MODEL, SEED, TRAINING_BATCH, TRAINING_RATE, TRAINING_STEPS, find_dtype
from sketchguide.errors import UsageError
from sketchguide.files import write_text
from sketchguide.training.session import Session, finite

SCORED = 32  # held-out pictures that are scored
FILES = ("predictor.safetensors", "README.md", "training.json", "log.jsonl")


def command(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of pictures. Captions come from metadata.jsonl or .csv, a .txt beside each picture, the "
            "prompt in a PNG of ours or of a web UI, or the name of the sub-folder it is in.",
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
    reads: Annotated[
        str | None,
        typer.Option(
            help="What the predictor says of a map, how likely each of its pixels is ink or, as in the paper, its "
            "latent: ink (default) or latent.",
            metavar="KIND",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            help="Use this many pictures, drawn by the seed; at least 1, default all.",
            metavar="N",
            rich_help_panel=DATA,
        ),
    ] = None,
    resume: ResumeOption = False,
    fresh: FreshOption = False,
    as_json: JsonFlag = False,
    steps: Annotated[
        int | None,
        typer.Option(
            help=f"Training steps: {TRAINING_STEPS}.",
            metavar="N",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    minutes: MinutesOption = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help=f"Noised latents per step, four of each picture: {TRAINING_BATCH}. Fewer need less memory.",
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
        int,
        typer.Option(
            help=f"Of the weights, the order of the pictures and the noise: {SEED}.",
            metavar="N",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = SEED.default,
    model: Annotated[
        str,
        typer.Option(
            help="The model to read: shipped (see `sketchguide models`), a diffusers folder, a checkpoint of one file "
            "or a hub id.",
            metavar="NAME|PATH|HUB_ID",
            rich_help_panel=MODELS,
        ),
    ] = MODEL,
    device: TrainDeviceOption = "auto",
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

    A few hundred captioned pictures are enough; where you have none, let the
    model make them (`sketchguide generate --prompts`). Checkpoints are saved every
    minute and when the run is stopped (Ctrl-C); --resume, with the other
    options as before, goes on as if nothing had happened.
    """
    report = Report.of(context, as_json=as_json)
    check_run(resume=resume, fresh=fresh, minutes=minutes, seed=seed)
    chosen = find_dtype(dtype)
    if images is not None and images < 1:
        raise UsageError(f"images is {images}; it must be at least 1.", field="images")
    with report.progress("{task.fields[figures]}") as bar:
        task = bar.add_task("Loading", total=None, figures="")
        hush_libraries()
        from sketchguide.extractors import EXTRACTORS
        from sketchguide.fingerprints import dtype_of, fingerprint_of_model
        from sketchguide.loading import load_backbone
        from sketchguide.machine import hardware
        from sketchguide.training.card import model_card, usage
        from sketchguide.training.checkpoints import Checkpoints, check_config
        from sketchguide.training.data import Pictures, digest, find_examples, readable, split
        from sketchguide.training.predictor import PredictorRun, PredictorTraining
        from sketchguide.training.run import warn_of_long_captions

        if map_kind not in EXTRACTORS:
            raise UsageError(f"Unknown map {map_kind!r}.", hint=f"Choose one of: {', '.join(EXTRACTORS)}.", field="map")
        options = {"steps": steps, "batch": batch, "rate": rate, "reads": reads, "seed": seed}
        asked = PredictorTraining(**{name: value for name, value in options.items() if value is not None})  # pyright: ignore[reportArgumentType]
        examples = find_examples(data, limit=images, seed=asked.seed, recipes=True)
        if images is not None and (found := len({example.name for example in examples})) < images:
            report.warn(f"images is {images}, but {data} has only {found}.")
        examples = readable(examples)
        training, held_out = split(examples, seed=asked.seed)
        checkpoints = Checkpoints(output / "checkpoints")
        with workplace(checkpoints, FILES):
            latest = earlier(checkpoints, FILES, report, resume=resume, fresh=fresh)
            if latest is not None:
                asked = asked.as_saved(latest.meta["config"], but=options)
            backbone = load_backbone(model, device=device, dtype=chosen)
            warn_of_long_captions(backbone, [example.caption for example in examples])
            pictures = Pictures(training, size=backbone.default_size)
            others = Pictures(held_out, size=backbone.default_size, beside=pictures) if held_out else None
            scored = others.fixed(SCORED) if others else None
            run = PredictorRun(backbone, pictures, EXTRACTORS[map_kind], asked)
            config = {**run.config, "minutes": minutes, "pictures": digest(examples)}
            config |= {"weights": fingerprint_of_model(backbone), "dtype": dtype_of(backbone)}
            if latest is not None:
                check_config(latest.meta["config"], config, afresh="--fresh")
                run.go_on(latest)
            score = (lambda: run.score(*scored)) if scored and scored[1] else None
            session = Session(
                run,
                checkpoints,
                config,
                minutes=minutes,
                score=score,
                log=output / "log.jsonl",
                replaced=FILES if fresh else (),
            )
            carry_through(session, report, bar, task, description="Training", latest=latest, pictures=pictures)
            if score is not None:
                _warn_of_useless(session.held_out, report)
            held_out_pictures = len({example.name for example in held_out})
            card = model_card(
                run.predictor.config,
                run.settings,
                folder=output,
                pictures=len(pictures.used),
                held_out_pictures=held_out_pictures,
                held_out=session.held_out,
                seconds=run.seconds,
                hardware=hardware(backbone.device.type),
            )
            file = run.predictor.save_pretrained(output, card=card)
            record = {
                "trainable_parameters": run.predictor.parameter_count,
                "training_images": len(pictures.used),
                "held_out_images": held_out_pictures,
                "steps": run.step,
                "seconds": round(run.seconds, 1),
                "loss": finite(session.loss),
                "held_out": finite(session.held_out),
                "device": hardware(backbone.device.type),
            }
            write_text(output / "training.json", json.dumps(record, indent=1) + "\n")
    report.facts = {"predictor": str(output), **report.facts, "training_seconds": round(run.seconds, 1)}
    report.say(f"{file}: {run.step} steps in {run.seconds / 60:.1f} minutes, {session.figures}")
    report.say(f"Use it: {usage(model, output)}")


def _warn_of_useless(held_out: float | None, report: Report) -> None:
    """Warn of a predictor that guides nowhere; `held_out` is the score of a run that has come to its end."""
    if held_out is None or math.isnan(held_out):
        report.warn("No edges were found in the pictures held out: what the predictor is worth is not known.")
    elif held_out >= 1:
        report.warn("The predictor reads no better than a constant: train longer or on more pictures.")
