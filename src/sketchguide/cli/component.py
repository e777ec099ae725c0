"""`sketchguide component`."""

from __future__ import annotations

import json
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
from sketchguide.defaults import MODEL
from sketchguide.errors import UsageError
from sketchguide.files import write_text
from sketchguide.training.session import Session, finite

NAMES = ("latent-classifier", "classifier", "drawing-classifier", "sketcher", "sketch-attention")


def command(
    context: typer.Context,
    part: Annotated[str, typer.Argument(help=f"Which: {', '.join(NAMES)}.", metavar="PART")],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of pictures. Captions come from metadata.jsonl or .csv, a .txt beside each picture, or the "
            "name of the sub-folder it is in: for classifiers the class, for sketch-attention the prompt. Drawings are "
            "white on black.",
            metavar="FOLDER",
            rich_help_panel=DATA,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the weights, PART-report.json, PART-log.jsonl and the checkpoints.",
            metavar="DIR",
            rich_help_panel=OUTPUT,
        ),
    ],
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures that the part is scored on. Default: one in ten of the data.",
            metavar="FOLDER",
            rich_help_panel=DATA,
        ),
    ] = None,
    resume: ResumeOption = False,
    fresh: FreshOption = False,
    as_json: JsonFlag = False,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps. Default 2000, latent-classifier 6000, sketcher 1500.",
            metavar="N",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    minutes: MinutesOption = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Pictures per step. Default 64, latent-classifier 128, sketcher 16, sketch-attention 32.",
            metavar="N",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate at the start; it falls to 0 along a cosine. Default 2e-3, latent-classifier 4e-3, "
            "sketch-attention 1e-3 after a rise from 0.",
            metavar="F",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    bf16: Annotated[
        bool,
        typer.Option(
            "--bf16",
            help="Compute in bfloat16 where torch's autocast allows it: faster where the processor has it.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of everything drawn.", metavar="N", rich_help_panel=TRAINING)] = 0,
    model: Annotated[
        str,
        typer.Option(
            help="The model whose latents, picture size and attention it is for.",
            metavar="NAME|PATH|HUB_ID",
            rich_help_panel=MODELS,
        ),
    ] = MODEL,
    device: TrainDeviceOption = "auto",
) -> None:
    """Train a part that DiffSketching needs: what judges pictures and drawings, and what edits by a drawing.

    sketchguide component latent-classifier --data classes/ -o my-parts
    sketchguide component classifier --data classes/ -o my-parts
    sketchguide component drawing-classifier --data drawings/ -o my-parts
    sketchguide component sketcher --data pictures/ -o my-parts --minutes 10
    sketchguide component sketch-attention --data pictures/ -o my-parts --minutes 20

    PART-report.json says what the part is worth on pictures held out. Where
    several pictures were made of one, hold them out together: --held-out.
    """
    report = Report.of(context, as_json=as_json)
    if part not in NAMES:
        raise UsageError(f"There is no part {part!r}.", hint=f"Choose one of: {', '.join(NAMES)}.", field="part")
    check_run(resume=resume, fresh=fresh, minutes=minutes, seed=seed)
    with report.progress("{task.fields[figures]}") as bar:
        task = bar.add_task("Loading", total=None, figures="")
        hush_libraries()
        from sketchguide.training.checkpoints import Checkpoints, check_config
        from sketchguide.training.data import digest, find_examples, split
        from sketchguide.training.parts import PARTS, WATCHED

        recipes = part == "sketch-attention"  # for the others a caption is a class
        examples = find_examples(data, recipes=recipes)
        if held_out is None:
            training, scored = split(examples, seed=seed)
        else:
            training, scored = examples, find_examples(held_out, recipes=recipes)
            if both := {one.path.resolve() for one in training} & {one.path.resolve() for one in scored}:
                report.warn(f"{len(both)} of the held-out pictures are trained on too: what they say is too good.")
        options = {"steps": steps, "batch": batch, "rate": rate, "bf16": bf16, "seed": seed}
        given = {name: value for name, value in options.items() if value is not None}
        checkpoints = Checkpoints(output / f"{part}-checkpoints")
        files = (f"{part}.safetensors", f"{part}-log.jsonl", f"{part}-report.json")
        with workplace(checkpoints, files):
            latest = earlier(checkpoints, files, report, resume=resume, fresh=fresh)
            trainee = PARTS[part](model, training, scored, device=device, given=given)
            run = trainee.run()
            config = {**run.config, "part": part, "minutes": minutes, "model": trainee.model}
            config |= {"pictures": digest(training), "held_out": digest(scored), "weights": trainee.weights}
            if latest is not None:
                check_config(latest.meta["config"], config, afresh="--fresh")
                run.go_on(latest)
            session = Session(
                run,
                checkpoints,
                config,
                minutes=minutes,
                score=(lambda: run.score(*trainee.scored(WATCHED))) if trainee.held_out else None,
                log=output / f"{part}-log.jsonl",
                replaced=files if fresh else (),
            )
            carry_through(session, report, bar, task, description="Training", latest=latest, pictures=trainee.pictures)
            file = output / f"{part}.safetensors"
            trainee.save(run, file)
            worth = trainee.worth(run) if trainee.held_out else {}
            facts = {"part": str(file), "steps": run.step, "loss": finite(session.loss), **worth}
            facts = {name: finite(value) if isinstance(value, float) else value for name, value in facts.items()}
            facts |= {"training_images": len(trainee.pictures.used), "seconds": round(run.seconds, 1)}
            if trainee.unknown:
                report.warn(
                    f"{len(trainee.unknown)} classes have held-out pictures only and are not learned: "
                    f"{', '.join(trainee.unknown[:5])}{', …' if len(trainee.unknown) > 5 else ''}."
                )
            write_text(output / f"{part}-report.json", json.dumps(facts, indent=1) + "\n")
    # `--json` has the seconds of the whole command
    report.facts = {"training_seconds" if name == "seconds" else name: value for name, value in facts.items()}
    report.say(f"{file}: {run.step} steps in {run.seconds / 60:.1f} minutes")
    for name, value in facts.items():
        if name not in ("part", "steps", "training_images", "seconds"):
            report.say(f"{name}: {value}")
