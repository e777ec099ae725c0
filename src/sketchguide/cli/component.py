"""`sketchguide component`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sketchguide.cli.options import FreshOption, ResumeOption
from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.cli.session import carry_through, check_run, earlier, workplace
from sketchguide.defaults import MODEL
from sketchguide.errors import UsageError
from sketchguide.files import write_text
from sketchguide.training.session import Session, finite

if TYPE_CHECKING:
    from sketchguide.training.checkpoints import Checkpoint
    from sketchguide.training.data import Example, Pictures

PARTS = ("latent-classifier", "classifier", "drawing-classifier", "sketcher", "sketch-attention")
DATA, OUTPUT, TRAINING, MODELS = "Data", "Output", "Training", "Model"
SCORED = 512  # held-out pictures that are scored at the end
WATCHED = 64  # and while training
PART = 64  # pictures that are encoded at once
FEWEST = 100  # pictures that temperatures are fitted on: fewer tell none
OF_THE_MODEL = ("latent-classifier", "sketch-attention")  # the others need no more than its name and picture size


def command(
    context: typer.Context,
    part: Annotated[str, typer.Argument(help=f"Which: {', '.join(PARTS)}.", metavar="PART")],
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
    device: Annotated[
        str, typer.Option(help="auto (CUDA, else MPS, else the CPU); cpu, cuda, mps, …", rich_help_panel=MODELS)
    ] = "auto",
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
    if part not in PARTS:
        raise UsageError(f"There is no part {part!r}.", hint=f"Choose one of: {', '.join(PARTS)}.", field="part")
    check_run(resume=resume, fresh=fresh, minutes=minutes, seed=seed)
    with report.progress("{task.fields[figures]}") as bar:
        task = bar.add_task("Loading", total=None, figures="")
        hush_libraries()
        from sketchguide.training.checkpoints import Checkpoints, check_config
        from sketchguide.training.data import digest, find_examples, split

        examples = find_examples(data)
        if held_out is None:
            training, scored = split(examples, seed=seed)
        else:
            training, scored = examples, find_examples(held_out)
            if both := {one.path.resolve() for one in training} & {one.path.resolve() for one in scored}:
                report.warn(f"{len(both)} of the held-out pictures are trained on too: what they say is too good.")
        options = {"steps": steps, "batch": batch, "rate": rate, "bf16": bf16, "seed": seed}
        given = {name: value for name, value in options.items() if value is not None}
        checkpoints = Checkpoints(output / f"{part}-checkpoints")
        files = (f"{part}.safetensors", f"{part}-log.jsonl", f"{part}-report.json")
        with workplace(checkpoints, files):
            latest = earlier(checkpoints, files, report, resume=resume, fresh=fresh)
            trainee = _Trainee(part, model, device, training, scored, given)
            run = trainee.run()
            config = {**run.config, "part": part, "minutes": minutes, "model": trainee.model}
            config |= {"pictures": digest(training), "held_out": digest(scored), "weights": trainee.weights}
            if latest is not None:
                check_config(latest.meta["config"], config, afresh="--fresh")
                given["steps"] = latest.meta["steps"]
                run = trainee.run(latest)
            elif fresh:
                checkpoints.clear()
            session = Session(
                run,
                checkpoints,
                config,
                minutes=minutes,
                score=(lambda: run.score(*trainee.scored(WATCHED))) if trainee.held_out else None,
                log=output / f"{part}-log.jsonl",
            )
            carry_through(session, report, bar, task, description="Training", latest=latest, pictures=trainee.pictures)
            file = trainee.save(run, output / f"{part}.safetensors")  # before what may fail
            if trainee.fit(run):
                trainee.save(run, file)
            facts = {"part": str(file), "steps": run.step, "loss": finite(session.loss), **trainee.worth(run)}
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


class _Trainee:
    """One part: how its run is made, scored and saved."""

    def __init__(
        self,
        part: str,
        model: str,
        device: str,
        training: list[Example],
        held_out: list[Example],
        given: dict[str, Any],
    ) -> None:
        from sketchguide.fingerprints import fingerprint_of_model
        from sketchguide.loading import choose_device, load_backbone
        from sketchguide.training.classifier import classes_of
        from sketchguide.training.data import Augmentation

        classifying = part.endswith("classifier")
        self.part = part
        self.count = WATCHED if part == "sketch-attention" else SCORED  # of the pictures that it is scored on
        self.given = given
        self.device = choose_device(device)
        lasting = part in OF_THE_MODEL
        backbone = load_backbone(model, device=device if lasting else "cpu", dtype="float32")
        self.model, self.size, self.weights = backbone.name, backbone.default_size, fingerprint_of_model(backbone)
        self.backbone = backbone if lasting else None  # a large model must not stay in memory for nothing
        self.classes = classes_of(training) if classifying else ()
        loose = Augmentation(scale=(0.75, 1.15), rotate=12.0, shift=0.1)
        self.pictures = self._pictures(training, loose)
        self.unknown: list[str] = []
        if classifying:
            self.unknown = sorted({example.caption for example in held_out} - set(self.classes))
            held_out = [example for example in held_out if example.caption in self.classes]
        others = self._pictures(held_out, loose, self.pictures) if held_out else None
        self.held_out = others if others and others.fixed(1)[1] else None

    def _pictures(self, examples: list[Example], augmentation: Any, beside: Pictures | None = None) -> Pictures:
        from sketchguide.training.data import Pictures

        return Pictures(examples, size=self.size, augmentation=augmentation, beside=beside)

    def scored(self, count: int) -> tuple[Any, list[str]]:
        assert self.held_out is not None
        return self.held_out.fixed(count)

    def run(self, resume: Checkpoint | None = None) -> Any:
        from sketchguide.extractors import EXTRACTORS
        from sketchguide.training.classifier import ClassifierTraining, LatentClassifierRun, PictureClassifierRun
        from sketchguide.training.sketcher import SketcherRun, SketcherTraining
        from sketchguide.training.told import ToldRun, ToldTraining, begin_sketch_attention

        if self.part == "sketch-attention":
            assert self.backbone is not None
            wanted = ToldTraining(**self.given)
            told = begin_sketch_attention(self.backbone, seed=wanted.seed)
            return ToldRun(told, self.pictures, EXTRACTORS["edges"], wanted, resume=resume)
        if self.part == "sketcher":
            settings = SketcherTraining(**self.given)
            return SketcherRun(self.pictures, settings, device=self.device, resume=resume)
        if self.part == "latent-classifier":
            assert self.backbone is not None
            own: dict[str, Any] = {"steps": 6000, "batch": 128, "rate": 4e-3}
            asked = ClassifierTraining(**(own | self.given))
            return LatentClassifierRun(self.backbone, self.pictures, asked, classes=self.classes, resume=resume)
        asked = ClassifierTraining(**self.given)
        asked = replace(asked, widths=(32, 64, 128, 192))
        return PictureClassifierRun(self.pictures, asked, classes=self.classes, device=self.device, resume=resume)

    def latents(self, run: Any, count: int) -> tuple[Any, list[str]]:
        """Those of what is `scored`: pictures of a large model would not fit into memory together."""
        import torch

        assert self.held_out is not None
        parts = [(run.encode(images), texts) for images, texts in self.held_out.fixed_in_parts(count, part=PART)]
        return torch.cat([latents for latents, _ in parts]), [text for _, texts in parts for text in texts]

    def fit(self, run: Any) -> bool:
        """Temperatures, by the half of the held-out pictures that is not scored; tells whether there are enough."""
        if self.part != "latent-classifier" or self.held_out is None:
            return False
        latents, captions = self.latents(run, 2 * SCORED)
        if (half := len(latents) // 2) < FEWEST:
            return False
        run.fit_temperatures(latents[half:], captions[half:])
        self.count = half
        return True

    def save(self, run: Any, path: Path) -> Path:
        from sketchguide.classifiers import save_classifier

        if self.part in ("sketcher", "sketch-attention"):
            run.module.save(path)
        elif self.part == "latent-classifier":
            run.classifier.save(path)
        else:
            save_classifier(run.classifier, path)
        return path

    def worth(self, run: Any) -> dict[str, Any]:
        """What it is worth on pictures that it was not trained on."""
        if self.held_out is None:
            return {}
        classes = len(self.classes)
        if self.part == "latent-classifier":
            latents, captions = self.latents(run, self.count)
            temperatures = [round(value, 2) for _, value in run.classifier.config.temperatures]
            table = run.calibrate(latents, captions)
            rows = [{name: round(value, 4) for name, value in row._asdict().items()} for row in table]
            facts: dict[str, Any] = {"held_out_pictures": len(latents), "classes": classes}
            return {**facts, "temperatures": temperatures or None, "by_noise_level": rows}
        images, captions = self.scored(self.count)
        if self.part == "sketcher":
            return {"held_out_pictures": len(images), "dice_distance": round(run.score(images), 4)}
        if self.part == "sketch-attention":
            return {"held_out_pictures": len(images), "held_out_error": round(run.score(images, captions), 4)}
        accuracy = round(1 - run.score(images, captions), 4)
        return {"held_out_pictures": len(images), "classes": classes, "accuracy": accuracy}
