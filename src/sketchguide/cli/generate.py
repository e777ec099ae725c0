"""`sketchguide generate`."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shlex
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.cli.signals import Stopped
from sketchguide.defaults import BLANK, COUNT, EVERY, LORA_SCALE, MODEL, SCALE, SEED, STEPS, STOP, STRENGTH
from sketchguide.errors import OutputError, UsageError

if TYPE_CHECKING:
    from sketchguide.generation import Picture
    from sketchguide.request import Request

INPUT, OUTPUT, GUIDANCE, SAMPLING, MODELS = "Input", "Output", "Guidance", "Sampling", "Model"
LONGEST_NAME = 40


def command(
    context: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="What the picture shows. With --from it may be left out.")
    ] = None,
    sketch: Annotated[
        Path | None,
        typer.Option(
            help="The drawing to follow: SVG, a picture (PNG, JPEG, WebP, …), Quick, Draw! ndjson. "
            "Without one, plain text-to-image.",
            metavar="FILE",
            rich_help_panel=INPUT,
        ),
    ] = None,
    negative: Annotated[
        str | None,
        typer.Option(help="What the picture should not show.", metavar="TEXT", rich_help_panel=INPUT),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Repeat a picture that sketchguide wrote, bit for bit. Other options, where given, change it.",
            metavar="IMAGE.png",
            rich_help_panel=INPUT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The PNG to write, replaced if it exists; several pictures are numbered: apple-1.png, apple-2.png. "
            "Default: a name after the prompt that is still free.",
            metavar="OUT.png",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            help=f"How many pictures: {COUNT}.",
            metavar="N",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_sheet: Annotated[
        bool, typer.Option("--sheet", help="Write all pictures as one contact sheet.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: JsonFlag = False,
    strength: Annotated[
        float | None,
        typer.Option(
            help=f"β, how hard the drawing pulls: {STRENGTH}. 0 ignores it.",
            metavar="BETA",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    stop: Annotated[
        float | None,
        typer.Option(
            help=f"Part of the steps after which the drawing lets go: {STOP}.",
            metavar="S",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            help=f"The drawing pulls at every N-th step: {EVERY}. 1 follows closest; more is faster and more natural.",
            metavar="N",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    blank: Annotated[
        float | None,
        typer.Option(
            help=f"How strongly blank paper binds, where ink is 1: {BLANK}. Less leaves room for lines not drawn.",
            metavar="W",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    predictor: Annotated[
        str | None,
        typer.Option(
            help="What reads the drawing off the model: a folder that `sketchguide train` wrote, or a hub id. "
            "Default: the model's own.",
            metavar="NAME|PATH|HUB_ID",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            help=f"Classifier-free guidance, how closely the prompt is followed: {SCALE}. 1 switches it off.",
            metavar="CFG",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help=f"Steps of the solver: {STEPS}. More take longer.",
            metavar="N",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help=f"Seed of the first picture: {SEED.low} to {SEED.high}, default random. The next ones count up. "
            "The same seed is the same picture.",
            metavar="N",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Width and height in pixels, each 16 to 4096, in steps that depend on the model. "
            "Default: the model's own.",
            metavar="WxH",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="ddim, ddpm, euler, euler-ancestral, dpm++2m, or lcm for models distilled for it. "
            "Default: the model's own.",
            metavar="NAME",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model that is shipped (see `sketchguide models`), a diffusers folder or a hub id. "
            f"Default {MODEL}.",
            metavar="NAME|PATH|HUB_ID",
            rich_help_panel=MODELS,
        ),
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option(
            help="A LoRA on top of the model: a folder that `sketchguide finetune` wrote, a file or a hub id.",
            metavar="PATH|HUB_ID",
            rich_help_panel=MODELS,
        ),
    ] = None,
    lora_scale: Annotated[
        float | None,
        typer.Option(
            help=f"How much of the LoRA: {LORA_SCALE}. 0 is the model as it was.",
            metavar="R",
            rich_help_panel=MODELS,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Default auto (CUDA, else MPS, else the CPU); cpu, cuda, cuda:1, mps, …",
            metavar="NAME",
            rich_help_panel=MODELS,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Default auto (float32 on the CPU, else bfloat16); float32, bfloat16 or float16.",
            metavar="NAME",
            rich_help_panel=MODELS,
        ),
    ] = None,
) -> None:
    """Make pictures of a prompt that follow a drawing.

    sketchguide generate "a red apple" --sketch apple.svg -o apple.png
    sketchguide generate "a red apple" --sketch apple.svg --strength 2.5 --seed 7
    sketchguide generate "a sailboat, flat icon" --count 9 --sheet -o boats.png
    sketchguide generate --from apple.png --steps 50 -o finer.png

    Every PNG carries all that is needed to make it again: see --from.
    """
    report = Report.of(context, as_json=as_json)
    if prompt is None and source is None:
        raise UsageError(
            "There is no prompt.",
            hint='Say what the picture shows: sketchguide generate "a red apple".',
            field="prompt",
        )
    check_output(output)
    options: dict[str, Any] = {
        "prompt": prompt,
        "negative": negative,
        "sketch": None if sketch is None else _read_sketch(sketch),
        "model": model,
        "predictor": predictor,
        "lora": lora,
        "lora_scale": lora_scale,
        "strength": strength,
        "stop": stop,
        "every": every,
        "blank": blank,
        "steps": steps,
        "scale": scale,
        "seed": seed,
        "count": count,
        "size": None if size is None else parse_size(size),
        "solver": solver,
        "device": device,
        "dtype": dtype,
    }
    given = {name: value for name, value in options.items() if value is not None}
    job = _fresh(given) if source is None else _recalled(source, given)
    idle = [name for name in ("predictor", "strength", "stop", "every", "blank") if name in given]
    if idle and job.request.sketch is None:
        report.warn(f"There is no drawing: --{' and --'.join(idle)} change nothing.")
    _carry_out(job, report, output=output, as_sheet=as_sheet or job.sheet)


@dataclass(frozen=True, kw_only=True)
class Job:
    request: Request
    only: int | None = None  # this one of the request's pictures
    sheet: bool = False  # the picture to repeat is a sheet
    made_with: Mapping[str, str]  # what a repeated picture was made with, where it should be the same now


def _fresh(given: Mapping[str, Any]) -> Job:
    from sketchguide.request import Request

    request = Request.checked(**{"seed": 0, **given})  # before the slow import of what draws a seed
    if "seed" not in given:
        from sketchguide.seeds import random_seed

        request = request.model_copy(update={"seed": random_seed()})
    return Job(request=request, made_with={})


def _recalled(source: Path, given: Mapping[str, Any]) -> Job:
    """The stored request with the options `given` in place of its own.

    A new seed or count starts from the stored picture; anything else changes that picture alone.
    """
    from sketchguide.generation import RECIPE_KEY, recall
    from sketchguide.images import read_png_text
    from sketchguide.request import Request

    request, index, made_with = recall(source)
    sheet = bool(json.loads(read_png_text(source)[RECIPE_KEY]).get("sheet"))
    values = {**request.model_dump(), **given}
    only = None if sheet else index
    if "seed" in given or "count" in given:
        start = {} if sheet else {"seed": request.seed + index, "count": 1}
        values, only = {**values, **start, **given}, None
    changed = {
        "model": {"model", "predictor"},
        "lora": {"model"},
        "lora_scale": {"model"},
        "predictor": {"predictor"},
        "device": {"device", "dtype"},
    }
    meant = {"dtype"} & given.keys() | {name for option in given for name in changed.get(option, ())}
    kept = {name: value for name, value in made_with.items() if name not in meant}
    return Job(request=Request.checked(**values), only=only, sheet=sheet, made_with=kept)


def _carry_out(job: Job, report: Report, *, output: Path | None, as_sheet: bool) -> None:
    with report.progress() as bar:
        task = bar.add_task("Loading", total=None)
        hush_libraries()
        from sketchguide.generation import Progress, run

        several = not as_sheet and job.only is None and job.request.count > 1
        made: list[Picture] = []
        files = report.facts["pictures"] = list[dict[str, Any]]()
        try:
            for event in run(job.request, only=job.only):
                if isinstance(event, Progress):
                    bar.update(task, description="Drawing", completed=event.done, total=event.total)
                    continue
                if not made:
                    _compare(job.made_with, event.made_with, report)
                made.append(event)
                if not as_sheet:
                    path = _place(output, event.request.prompt, number=len(made) if several else None)
                    event.save(path)
                    files.append({"path": str(path), "seed": event.seed})
                    report.say(f"{path} (seed {event.seed})")
        except Stopped as stopped:
            if made:
                stopped.hint = f"{len(made)} of {job.request.count} pictures were finished and are kept."
            raise
        finally:
            if as_sheet and made:
                path = _place(output, job.request.prompt)
                _save_sheet(made, path)
                files += [{"path": str(path), "seed": picture.seed} for picture in made]
                report.say(f"{path} (seeds {made[0].seed} to {made[-1].seed})")
    again = shlex.join(["sketchguide", "generate", "--from", files[0]["path"]])
    report.say(f"Make it again: {again}")


def _compare(before: Mapping[str, str], now: Mapping[str, str], report: Report) -> None:
    differing = [
        f"{name} {before[name]}, now {now[name]}" for name in before if now.get(name, before[name]) != before[name]
    ]
    if differing:
        report.warn(f"The picture may differ from the one it repeats, which was made with {'; '.join(differing)}.")


def _save_sheet(pictures: list[Picture], path: Path) -> None:
    from sketchguide.generation import RECIPE_KEY
    from sketchguide.images import save_png, sheet

    page = sheet(
        [picture.image for picture in pictures],
        columns=math.ceil(math.sqrt(len(pictures))),
        labels=[f"seed {picture.seed}" for picture in pictures],
    )
    first = pictures[0]
    request = first.request.model_copy(update={"count": len(pictures)})
    recipe = {**first.recipe, "request": request.model_dump(mode="json"), "sheet": True}
    save_png(page, path, text={RECIPE_KEY: json.dumps(recipe)})


def _read_sketch(path: Path) -> dict[str, Any]:
    from sketchguide.sketch import Sketch

    return Sketch.open(path).to_json()


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of a text such as 512x768."""
    found = re.fullmatch(r"(\d{1,6})[x×](\d{1,6})", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        raise UsageError(
            f"size is {text!r}; it must be width x height in pixels.", hint="For example --size 512x768.", field="size"
        )
    return int(found[1]), int(found[2])


def check_output(path: Path | None) -> None:
    """UsageError or OutputError where a PNG cannot be written at `path`: before the work, not after it."""
    folder = Path() if path is None else path.parent
    if path is not None:
        if path.is_dir():
            raise UsageError(f"{path} is a folder.", hint=f"Give a file in it: {path / 'picture.png'}.", field="output")
        if path.suffix.lower() != ".png":
            raise UsageError(
                f"The output {str(path)!r} does not end in .png.",
                hint="Pictures are written as PNG, which carries what is needed to make them again.",
                field="output",
            )
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is a device, not a file.", field="output")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"The folder {folder} {what}.", hint="Create it first.", field="output")
    trial = folder / f".{secrets.token_hex(8)}.part"
    try:
        os.close(os.open(trial, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        trial.unlink()
    except OSError as error:
        raise OutputError(
            f"Nothing can be written to {folder.absolute()}: {error.strerror}.",
            hint="Choose another folder with -o.",
            field="output",
        ) from error


def _place(output: Path | None, prompt: str, *, number: int | None = None) -> Path:
    """Where a picture goes: numbered beside `output` where several do, else the first free name after the prompt."""
    if output is not None:
        return output if number is None else output.with_stem(f"{output.stem}-{number}")
    stem, suffix = slug(prompt), 1
    while (path := Path(f"{stem}.png" if suffix == 1 else f"{stem}-{suffix}.png")).exists():
        suffix += 1
    return path


def slug(prompt: str) -> str:
    """A short file name for a prompt: its letters and digits in lower case, words joined by hyphens."""
    text = unicodedata.normalize("NFKC", prompt).lower()
    words = "".join(c if c.isalnum() else " " for c in text).split()
    name = ""
    for word in words:
        if name and len(name) + 1 + len(word) > LONGEST_NAME:
            break
        name = f"{name}-{word}" if name else word[:LONGEST_NAME]
    return name or "picture"
