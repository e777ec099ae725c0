"""`sketchguide finetune`."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sketchguide.cli.options import (
    INPUT,
    JUDGES,
    MODELS,
    OUTPUT,
    TRAINING,
    FreshOption,
    MinutesOption,
    PolarityOption,
    ResumeOption,
    TrainDeviceOption,
)
from sketchguide.cli.report import JsonFlag, Report, hush_libraries, was_given
from sketchguide.cli.session import carry_through, check_run, earlier, workplace
from sketchguide.defaults import MODEL, SCALE, SEED, find_dtype
from sketchguide.errors import GuidanceError, SketchError, TrainingError, UsageError, warn
from sketchguide.files import is_file
from sketchguide.training.session import Session, finite

if TYPE_CHECKING:
    from torch import Tensor

    from sketchguide.backbones.pipeline import PipelineBackbone
    from sketchguide.training.finetune import FineTuneRun

REFERENCES = 4  # made from the prompt where no photo is given
PREVIEW = (10**6, 10**6 + 1, 10**6 + 2, 10**6 + 3)  # seeds that no reference starts from
MODES = "chain, last or step"


def command(
    context: typer.Context,
    sketch: Annotated[
        list[Path],
        typer.Option(
            help="A drawing of the thing; give the option again for more. SVG, a picture, Quick, Draw! ndjson.",
            metavar="FILE",
            rich_help_panel=INPUT,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the LoRA file, previews, log.jsonl and the checkpoints.",
            metavar="DIR",
            rich_help_panel=OUTPUT,
        ),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(help="What the drawings show: a duck. Default: what the drawing classifier takes them for."),
    ] = None,
    photo: Annotated[
        list[Path] | None,
        typer.Option(
            help="A picture of such a thing; again for more. As many as drawings: they are pairs. "
            f"Default: {REFERENCES} that the model makes of the prompt.",
            metavar="FILE",
            rich_help_panel=INPUT,
        ),
    ] = None,
    resume: ResumeOption = False,
    fresh: FreshOption = False,
    polarity: PolarityOption = None,
    preview_every: Annotated[
        int,
        typer.Option(
            help="Steps between preview pictures of seeds that are not trained on; at least 1.",
            metavar="N",
            rich_help_panel=OUTPUT,
        ),
    ] = 50,
    as_json: JsonFlag = False,
    steps: Annotated[
        int, typer.Option(help="Training steps; at least 1.", metavar="N", rich_help_panel=TRAINING)
    ] = 600,
    minutes: MinutesOption = None,
    identity: Annotated[
        float,
        typer.Option(
            help="λ, 0 to 1. 0: pictures come to look like the drawings, whatever else; 1: they stay what they are.",
            metavar="LAMBDA",
            rich_help_panel=TRAINING,
        ),
    ] = 0.4,
    gradient: Annotated[
        str,
        typer.Option(
            help=f"How far the gradient goes: {MODES}. chain is the paper's, step the cheapest and the default.",
            metavar="MODE",
            rich_help_panel=TRAINING,
        ),
    ] = "step",
    last: Annotated[
        int,
        typer.Option(
            help="Steps that --gradient last goes through; at least 1.", metavar="N", rich_help_panel=TRAINING
        ),
    ] = 2,
    levels: Annotated[
        int,
        typer.Option(
            help="Steps of the chain, from noise to picture; at least 1, for some models 2.",
            metavar="N",
            rich_help_panel=TRAINING,
        ),
    ] = 8,
    depth: Annotated[
        float,
        typer.Option(
            help="Share of the chain that is walked, above 0 to 1; less keeps more of the photo.",
            metavar="D",
            rich_help_panel=TRAINING,
        ),
    ] = 1.0,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Pairs per step; at least 1. Default: 4, or 1 with fewer than 4 drawings.",
            metavar="N",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    unseen: Annotated[
        int,
        typer.Option(
            help="Pictures per step that begin with noise of their own, beside the pairs: they make other seeds follow "
            "the drawings. Each takes the time of a pair. 0: none, as in the paper.",
            metavar="N",
            rich_help_panel=TRAINING,
        ),
    ] = 6,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of Adam, above 0 to 1. Default: 3e-3 for adapters, 1e-4 for all weights.",
            metavar="F",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    rank: Annotated[int, typer.Option(help="Of the LoRA; at least 1.", metavar="N", rich_help_panel=TRAINING)] = 8,
    full: Annotated[
        bool,
        typer.Option("--full", help="Train all weights and write the whole model.", rich_help_panel=TRAINING),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            help=f"Of adapters, order of pairs and fresh noise: {SEED}.",
            metavar="N",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = SEED.default,
    sketcher: Annotated[
        Path | None,
        typer.Option(help="The photo-to-sketch network. Default: the one shipped.", rich_help_panel=JUDGES),
    ] = None,
    style: Annotated[
        str,
        typer.Option(
            help="What the sketcher draws like: edges, outline, detail or bold.", metavar="NAME", rich_help_panel=JUDGES
        ),
    ] = "edges",
    features: Annotated[
        str | None,
        typer.Option(
            help="Network whose features say what a picture shows: a classifier file, torchvision:NAME, timm:NAME or "
            "transformers:ID; torchvision and timm also =WEIGHTS.safetensors. Default: the classifier that is shipped.",
            metavar="NAME",
            rich_help_panel=JUDGES,
        ),
    ] = None,
    drawing_features: Annotated[
        str | None,
        typer.Option(
            help="Network whose features compare drawings, named likewise. Default: the drawing classifier that is "
            "shipped.",
            metavar="NAME",
            rich_help_panel=JUDGES,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="The model to tune: shipped (see `sketchguide models`), a diffusers folder, a checkpoint of one file "
            "or a hub id.",
            metavar="NAME|PATH|HUB_ID",
            rich_help_panel=MODELS,
        ),
    ] = MODEL,
    device: TrainDeviceOption = "auto",
    dtype: Annotated[
        str,
        typer.Option(help="Of the frozen weights: auto, float32, bfloat16 or float16.", rich_help_panel=MODELS),
    ] = "auto",
) -> None:
    """Tune a model on a few drawings and photos of one thing (DiffSketching).

    sketchguide finetune "a duck" --sketch duck.svg --photo duck.jpg -o my-duck
    sketchguide finetune --sketch duck.svg -o my-duck --minutes 5
    sketchguide finetune "a duck" --sketch duck.svg -o my-duck --resume
    sketchguide generate "a duck" --lora my-duck --lora-scale 0.7

    The result is a LoRA (of icons-128 a few MB, of large models tens) that diffusers
    loads too. Ctrl-C saves.
    """
    report = Report.of(context, as_json=as_json)
    check_run(resume=resume, fresh=fresh, minutes=minutes, seed=seed)
    chosen = find_dtype(dtype)
    if preview_every < 1:
        raise UsageError(f"preview-every is {preview_every}; it must be at least 1.", field="preview_every")
    with report.progress("{task.fields[figures]}") as bar:
        task = bar.add_task("Loading", total=None, figures="")
        hush_libraries()
        from sketchguide.advice import warn_of_text
        from sketchguide.fingerprints import dtype_of, fingerprint, fingerprint_of_model
        from sketchguide.loading import load_backbone
        from sketchguide.lora import LORA_FILE
        from sketchguide.perception import load_features
        from sketchguide.shipped import find_features, find_part
        from sketchguide.sketch import Sketch
        from sketchguide.sketchers import Sketcher
        from sketchguide.training.checkpoints import Checkpoints, check_config
        from sketchguide.training.finetune import FineTuneRun, FineTuning, Judges, config_of, pair_up, tunable

        settings = FineTuning(
            steps=steps,
            batch=batch,
            unseen=unseen,
            rate=rate,
            identity=identity,
            gradient=gradient,  # pyright: ignore[reportArgumentType]
            last=last,
            levels=levels,
            depth=depth,
            rank=rank,
            full=full,
            style=style,
            seed=seed,
        )
        if full and was_given(context, "rank"):
            report.warn("--rank changes nothing with --full: there is no LoRA.")
        if gradient != "last" and was_given(context, "last"):
            report.warn("--last changes nothing without --gradient last.")
        sketches = [Sketch.open(path, polarity=polarity or "auto") for path in sketch]
        photos = _opened(photo or [])
        drawer = find_part(sketcher, "sketcher", field="sketcher", model=model)
        seeing = find_features(features, "classifier", field="features", model=model)
        comparing = find_features(drawing_features, "drawing-classifier", field="drawing_features", model=model)
        checkpoints = Checkpoints(output / "checkpoints")
        files = ("model" if full else LORA_FILE, "log.jsonl", "preview-*.png")
        with workplace(checkpoints, files):
            latest = earlier(checkpoints, files, report, resume=resume, fresh=fresh)
            if (other := output / (LORA_FILE if full else "model")).exists():
                report.warn(f"{other} is not of this run, and stays; do not take it for what this run makes.")
            backbone = tunable(load_backbone(model, device=device, dtype=chosen))
            paired = len(photos) == len(sketches)
            if paired:
                sketches = _laid(sketches, sketch, photos, backbone.default_size, report)
            drawings = _rasterized(sketches, sketch, backbone.default_size)
            if prompt is None:
                prompt = _recognised(drawings, comparing, report)
            warn_of_text([prompt], backbone)
            if not photos:
                _warn_of_unknown(prompt, comparing, report)
            judges = Judges(
                Sketcher.load(drawer).to(backbone.device),
                load_features(seeing, device=backbone.device),
                load_features(comparing, device=backbone.device, field="drawing_features"),
            )
            references = _references(photos, backbone, prompt, report, paired=paired)
            config = config_of(settings, backbone, prompt, pair_up(len(references), len(drawings), paired=paired))
            # References that the model makes differ a little from machine to machine: the prompt stands for them.
            config |= {"minutes": minutes, "pictures": _digest(*([references] if photos else []), drawings)}
            networks = {"sketcher": judges.sketcher, "features": judges.identity.network}
            networks["drawing_features"] = judges.drawing.network
            config |= {name: fingerprint(network) for name, network in networks.items()}
            config |= {"dtype": dtype_of(backbone), "weights": fingerprint_of_model(backbone)}
            if latest is not None:
                check_config(latest.meta["config"], config, afresh="--fresh")
            run = FineTuneRun(backbone, references, drawings, judges, settings, prompt=prompt, paired=paired)
            if latest is not None:
                run.go_on(latest)
            frozen = finite(_preview(run, output / "preview-frozen.png")) if latest is None else latest.meta["frozen"]
            session = Session(
                run,
                checkpoints,
                config,
                minutes=minutes,
                score=lambda: _preview(run, output / f"preview-{run.step:05d}.png"),
                log=output / "log.jsonl",
                score_every=preview_every,
                facts={"frozen": frozen},
                replaced=(*files[:2], "preview-[0-9]*.png") if fresh else (),
            )
            try:
                carry_through(session, report, bar, task, description="Tuning", latest=latest)
            except TrainingError as error:
                if run.updates:
                    error.hint = f"{error.hint} The last good weights are in {run.save(output)}."
                raise
            file = run.save(output)
    before, after, fidelity = frozen, session.held_out, run.fidelity()
    report.facts = {
        "result": str(file),
        "prompt": prompt,
        "steps": run.step,
        "loss": finite(session.loss),
        "sketch_distance": {"frozen": before, "tuned": finite(after)},
        "inversion_psnr": finite(fidelity),
        "training_seconds": round(run.seconds, 1),
    }
    report.say(f"{file}: {run.step} steps in {run.seconds / 60:.1f} minutes, {session.figures}")
    report.say(f"The inversion leads back to the references with {fidelity:.1f} dB.")
    if before is not None and finite(after) is not None:
        report.say(f"Distance from the drawings on seeds not trained on: {before:.3f} before, {after:.3f} now.")
    use = ["--model", str(file)] if full else ["--model", model, "--lora", str(output)]
    report.say(f"Use it: {shlex.join(['sketchguide', 'generate', prompt, *use])}")


def _opened(paths: Sequence[Path]) -> list[Any]:
    from sketchguide.images import open_image

    return [open_image(path, field="photo") for path in paths]


def _rasterized(sketches: Sequence[Any], paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    import torch

    maps = [one.rasterize(size=size) for one in sketches]
    if blank := [str(path) for path, one in zip(paths, maps, strict=True) if one.blank]:
        raise SketchError(f"{blank[0]} is blank.", hint="Draw something, or leave it out.", field="sketch")
    return torch.stack([torch.tensor(one.ink)[None] for one in maps])


def _laid(
    sketches: Sequence[Any], paths: Sequence[Path], photos: Sequence[Any], size: tuple[int, int], report: Report
) -> list[Any]:
    """Each drawing laid on its photo and cut as that is, so that the two stay aligned."""
    from sketchguide.translation import laid_on

    laid: list[Any] = []
    for sketch, path, photo in zip(sketches, paths, photos, strict=True):
        _warn_of_cropping(photo, size, report, and_drawing=True)
        laid.append(laid_on(photo, sketch).on_canvas(size[0] / size[1], cut=True))
        if laid[-1].rasterize(size=size).blank and not sketch.rasterize(size=size).blank:
            raise SketchError(
                f"Nothing of {path} is left where its photo of {photo.width} × {photo.height} is cut.",
                hint="Draw nearer to the middle, or crop the photo.",
                field="sketch",
            )
    return laid


def _warn_of_cropping(photo: Any, size: tuple[int, int], report: Report, *, and_drawing: bool = False) -> None:
    from sketchguide.sizes import cut_off

    if cut_off(photo.size, size):
        also = ", and its drawing with it" if and_drawing else ""
        report.warn(f"A photo of {photo.width} × {photo.height} is cut at the middle{also}.")


def _recognised(drawings: Tensor, comparing: str, report: Report) -> str:
    """The class that the drawing classifier, the one that compares or else that shipped, sees in all the drawings."""
    from sketchguide.classifiers import load_classifier
    from sketchguide.images import from_ink
    from sketchguide.shipped import find_part

    own = is_file(Path(comparing))
    classifier = load_classifier(Path(comparing) if own else find_part(None, "drawing-classifier", field="prompt"))
    chances = classifier(from_ink(drawings)).log_softmax(dim=1).mean(dim=0)
    name, *others = (classifier.classes[i] for i in chances.topk(min(3, len(chances))).indices.tolist())
    report.warn(f"No prompt was given: the drawings are taken for {name!r}; next would be {', '.join(others)}.")
    return name


def _warn_of_unknown(prompt: str, comparing: str, report: Report) -> None:
    """References that are made of a misspelt prompt show anything."""
    from sketchguide.classifiers import classes_in, find_class_in

    if not is_file(Path(comparing)):  # a published network: its classes are no prompts
        return
    try:
        find_class_in(prompt, classes_in(Path(comparing)))
    except UsageError as unknown:
        report.warn(f"The pictures to tune to are made from {prompt!r}. {unknown.message} {unknown.hint}")


def _references(
    photos: Sequence[Any], backbone: PipelineBackbone, prompt: str, report: Report, *, paired: bool
) -> Tensor:
    """The photos at the model's size, cut at the middle; without any, pictures that the model makes of the prompt."""
    from sketchguide.images import to_tensor
    from sketchguide.request import Request
    from sketchguide.walking import walk

    if photos:
        if not paired:
            for photo in photos:
                _warn_of_cropping(photo, backbone.default_size, report)
        return to_tensor(photos, size=backbone.default_size)
    request = Request.checked(prompt=prompt, seed=0)
    *_, made = walk(request, backbone, prompts=[prompt] * REFERENCES, seeds=range(REFERENCES))
    return backbone.decode(made.latent).clamp(-1, 1).cpu()


def _digest(*tensors: Tensor) -> str:
    """8 hex digits that change with the pictures."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update((tensor * 100).round().char().numpy().tobytes())
    return digest.hexdigest()[:8]


def _preview(run: FineTuneRun, path: Path) -> float:
    """Draw the preview seeds with the averaged weights, and tell how far they are from the drawings; NaN with a warning
    where they cannot be drawn."""
    from sketchguide.images import save_png, sheet, to_images

    try:
        with run.averaged():
            pictures = run.pictures(PREVIEW, scale=SCALE.default)
        save_png(sheet(to_images(pictures), columns=len(PREVIEW)), path)
    except GuidanceError as error:  # guidance goes further than training does, which is no reason to end that
        warn(f"Step {run.step} has no preview. {error.message} Try float32{', or a lower --rate' if run.step else ''}.")
        return math.nan
    return run.sketch_distance(pictures)
