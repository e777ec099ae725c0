"""`sketchguide generate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sketchguide.cli.job import Job, carry_out, named_in
from sketchguide.cli.options import (
    INPUT,
    OUTPUT,
    OutputOption,
    PolarityOption,
    SketchOption,
    TrimOption,
    given,
    with_options,
)
from sketchguide.cli.outputs import check_output
from sketchguide.cli.report import JsonFlag, Report
from sketchguide.defaults import DECIDING, RECOGNISED, Polarity
from sketchguide.errors import UsageError, warn

if TYPE_CHECKING:
    from sketchguide.sketch import Sketch

SMALL = 0.1  # of a picture: what fills less of it hardly becomes a thing
LOOSE = 1.6  # times as much would be filled without the paper around: the shipped models draw what fills a picture


@with_options()
def command(
    context: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="What the picture shows. With --from it may be left out.")
    ] = None,
    listed: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="A text file with a prompt on each line: pictures of each of them, as many as --count says.",
            metavar="FILE.txt",
            rich_help_panel=INPUT,
        ),
    ] = None,
    sketch: SketchOption = None,
    polarity: PolarityOption = None,
    trim: TrimOption = False,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Repeat a picture that sketchguide wrote, on the same CPU bit for bit. Other options, where given, "
            "change it.",
            metavar="IMAGE.png",
            rich_help_panel=INPUT,
        ),
    ] = None,
    output: OutputOption = None,
    as_sheet: Annotated[
        bool, typer.Option("--sheet", help="Write all pictures as one contact sheet.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: JsonFlag = False,
    **options: Any,
) -> None:
    """Make pictures of a prompt that follow a drawing.

    sketchguide generate "a red apple" --sketch apple.svg -o apple.png
    sketchguide generate "a red apple" --sketch apple.svg --strength 2 --seed 7
    sketchguide generate "a noto sailboat" --count 9 --sheet -o boats.png
    sketchguide generate --prompts things.txt --count 3 -o things/picture.png
    sketchguide generate --from apple.png --steps 50 -o finer.png

    Every PNG carries all that is needed to make it again: see --from.
    """
    report = Report.of(context, as_json=as_json)
    prompts = () if listed is None else _read_prompts(listed)
    if prompts and (prompt is not None or source is not None or as_sheet):
        other = "PROMPT" if prompt is not None else "--from" if source is not None else "--sheet"
        raise UsageError(f"--prompts and {other} exclude each other.", hint="Leave one of them out.", field="prompts")
    if prompt is None and source is None and not prompts:
        raise UsageError(
            "There is no prompt.",
            hint='Say what the picture shows: sketchguide generate "a red apple".',
            field="prompt",
        )
    check_output(output)
    if polarity is not None and sketch is None:
        read = "its drawing was read by the polarity of then" if source is not None else "there is none"
        raise UsageError(
            f"--polarity says what is ink in a drawing, and {read}.", hint="Give --sketch.", field="polarity"
        )
    if trim and sketch is None and source is None:
        raise UsageError("--trim cuts a drawing, and there is none.", hint="Give --sketch.", field="trim")
    like: Path | None = options["like"]
    prompt = prompts[0] if prompts else prompt
    options = given(prompt=prompt, **options)
    drawing = None if sketch is None else _drawing(sketch, polarity or "auto", trim=trim)
    if drawing is not None:
        options["sketch"] = drawing.to_json()
    job = _fresh(options) if source is None else _recalled(source, options, trim=trim and drawing is None)
    if drawing is not None and drawing.filled > 0:
        _warn_of_small(drawing, sized="size" in options, model=job.request.model)
    job = replace(job, prompts=prompts, inputs=(sketch, like, source))
    if as_sheet and job.only is not None:
        report.warn("--sheet changes nothing: one picture of several is made again.")
    again = job.sheet and job.request.count > 1
    with named_in(source, options):
        carry_out(job, report, output=output, as_sheet=again or (as_sheet and job.only is None))


def _read_prompts(path: Path) -> tuple[str, ...]:
    """The lines of a text file that are not blank; UsageError where there are none, or one is no prompt."""
    from sketchguide.request import Request

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"The prompts {path} cannot be read: {error.strerror}.", field="prompts") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The prompts {path} are not UTF-8 text.", hint="Save them as UTF-8.", field="prompts"
        ) from error
    prompts: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompts.append(Request.checked(prompt=line.strip(), seed=0).prompt)
        except UsageError as error:
            raise UsageError(f"In {path}, line {number}: {error.message}", hint=error.hint, field="prompts") from error
    if not prompts:
        raise UsageError(f"The file {path} has no prompts.", hint="Write one on each line.", field="prompts")
    return tuple(prompts)


def _drawing(path: Path, polarity: Polarity, *, trim: bool) -> Sketch:
    from sketchguide.sketch import Sketch

    drawing = Sketch.open(path, polarity=polarity)
    return drawing.trimmed() if trim else drawing


def _warn_of_small(drawing: Sketch, *, sized: bool, model: str) -> None:
    """Say what is to be done about a drawing that fills little of a square picture; `sized`: it need not be square."""
    from sketchguide.shipped import shipped

    fills, long = f"The drawing fills {max(drawing.filled, 0.01):.0%} of the picture", drawing.elongation
    sides = ("wide", "high", "a wider") if long > 1 else ("high", "wide", "a higher")
    could = drawing.trimmed().filled
    if drawing.filled >= SMALL:
        if could >= LOOSE * drawing.filled and any(one.name == model for one in shipped()):
            warn(f"{fills}, and {model} draws what fills it; --trim cuts off the paper around it.")
    elif could >= SMALL:
        warn(f"{fills}; --trim cuts off the paper around it.")
    elif not sized:
        times = max(long, 1 / long)
        warn(
            "{}: it is {:.0f} times as {} as {}. Crop it to one thing, or give {} --size.".format(fills, times, *sides)
        )


def _fresh(options: Mapping[str, Any]) -> Job:
    from sketchguide.request import Request

    request = Request.checked(**{"seed": 0, **options})  # before the slow import of what draws a seed
    if "seed" not in options:
        from sketchguide.seeds import random_seed

        request = request.model_copy(update={"seed": random_seed()})
    return Job(request=request)


def _recalled(source: Path, options: Mapping[str, Any], *, trim: bool) -> Job:
    """The stored request with the `options` given in place of its own, and with its own drawing trimmed if asked to.

    A new seed or count starts from the stored picture; anything else changes that picture alone. Settings that nobody
    chose are chosen anew where what decides about them changes.
    """
    from sketchguide.pictures import recall
    from sketchguide.request import Request

    recipe = recall(source)
    values = recipe.request.model_dump()
    anew = not options.keys().isdisjoint(DECIDING) and options.keys().isdisjoint(RECOGNISED)
    if anew := anew and all(values[name] == usual for name, usual in RECOGNISED.items()):
        values = {name: value for name, value in values.items() if name not in RECOGNISED}
    values |= options
    if trim:
        from sketchguide.sketch import Sketch

        stored = recipe.request
        if stored.sketch is None or stored.layout is not None or stored.edit is not None:
            why = "follows none" if stored.sketch is None else "follows one that lies on another picture"
            raise UsageError(f"--trim cuts a drawing, and {source} {why}.", hint="Leave it out.", field="trim")
        values["sketch"] = Sketch.from_json(stored.sketch).trimmed().to_json()
    only = None if recipe.sheet else recipe.index
    if "seed" in options or "count" in options:
        start = {} if recipe.sheet else {"seed": recipe.request.seed + recipe.index, "count": 1}
        values, only = {**values, **start, **options}, None
    changed = {
        "model": recipe.made_with.keys() - {"sketchguide", "torch", "threads"},
        "steps": {"levels"},
        "size": {"levels"},
        "solver": {"levels", "solver"},
        "dtype": {"dtype", "model", "controlnet", "t2i_adapter"},
        "lora": {"model"},
        "lora_scale": {"model"},
        "predictor": {"predictor"},
        "attention": {"attention"},
        "controlnet": {"controlnet"},
        "t2i_adapter": {"t2i_adapter"},
        "classifier": {"classifier"},
        "sketcher": {"sketcher"},
        "drawing_features": {"drawing_features"},
        "picture_features": {"picture_features"},
        "recogniser": {"recogniser"},
        "tries": {"recogniser"},
        "device": {"device", "dtype", "model", "controlnet", "t2i_adapter"},
    }
    meant = {name for option in (*options, *(RECOGNISED if anew else ())) for name in changed.get(option, ())}
    kept = {name: value for name, value in recipe.made_with.items() if name not in meant}
    return Job(request=Request.checked(**values), only=only, sheet=recipe.sheet, made_with=kept)
