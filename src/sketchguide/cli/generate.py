"""`sketchguide generate`."""

from __future__ import annotations

import math
import os
import re
import secrets
import shlex
import stat
import unicodedata
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sketchguide.cli.options import (
    INPUT,
    OUTPUT,
    OutputOption,
    PolarityOption,
    SketchOption,
    TrimOption,
    with_options,
)
from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.cli.signals import Stopped, unstopped
from sketchguide.defaults import Polarity
from sketchguide.errors import ModelNotFoundError, OutputError, UsageError, warn
from sketchguide.files import look_at

if TYPE_CHECKING:
    from sketchguide.backbones.base import Backbone
    from sketchguide.pictures import Picture
    from sketchguide.request import Request
    from sketchguide.sketch import Sketch

LONGEST_NAME = 40
MOVABLE = ("model", "lora", "predictor")  # of a generated source; its other parts are found by its recipe alone
SMALL = 0.1  # of a picture: what fills less of it hardly becomes a thing
_ROOMY = 96  # pixels: below, the longest seed has no room for a word before it


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
    options = given(prompt=prompt, sketch=sketch, polarity=polarity, trim=trim, **options)
    job = _fresh(options) if source is None else _recalled(source, options, trim=trim and sketch is None)
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


@contextmanager
def named_in(
    source: Path | None, options: Mapping[str, Any], *, movable: Collection[str] | None = None
) -> Generator[None]:
    """Within the block a ModelNotFoundError of what `source` names, and the given `options` do not, says whence; and
    that an option can say where it is now, where it is one of those that are `movable`, None being all.
    """
    try:
        yield
    except ModelNotFoundError as error:
        known = movable is None or error.field in movable
        if source is not None and error.field not in options:
            error.hint += f" {source} names it as seen from the folder where it was made: run this there"
            error.hint += f", or say where it is now with --{error.field.replace('_', '-')}." if known else "."
        raise


def given(
    *,
    sketch: Path | None,
    polarity: Polarity | None,
    like: Path | None,
    size: str | None,
    trim: bool | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The options that were given, as fields of a Request. Where the command has `trim`, None being without it, a
    drawing that fills little of the picture is warned of.
    """
    values = {name: value for name, value in options.items() if value is not None}
    if sketch is not None:
        from sketchguide.sketch import Sketch

        drawing = Sketch.open(sketch, polarity=polarity or "auto")
        drawing = drawing.trimmed() if trim else drawing
        if trim is not None and 0 < drawing.filled < SMALL:
            _warn_of_small(drawing, sized=size is not None)
        values["sketch"] = drawing.to_json()
    if like is not None:
        from sketchguide.images import carried

        values["like"] = carried(like, field="like")
    if size is not None:
        values["size"] = parse_size(size)
    return values


def _warn_of_small(drawing: Sketch, *, sized: bool) -> None:
    """Say what is to be done about a drawing that fills little of a square picture; `sized`: it need not be square."""
    fills, long = f"The drawing fills {max(drawing.filled, 0.01):.0%} of the picture", drawing.elongation
    sides = ("wide", "high", "a wider") if long > 1 else ("high", "wide", "a higher")
    if drawing.trimmed().filled >= SMALL:
        warn(f"{fills}; --trim cuts off the paper around it.")
    elif not sized:
        times = max(long, 1 / long)
        warn(
            "{}: it is {:.0f} times as {} as {}. Crop it to one thing, or give {} --size.".format(fills, times, *sides)
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    request: Request
    only: int | None = None  # this one of the request's pictures
    sheet: bool = False  # the picture to repeat is a sheet
    # What a repeated picture was made with, where it should be the same now.
    made_with: Mapping[str, str] = field(default_factory=dict[str, str])
    prompts: Sequence[str] = ()  # in place of the request's own
    inputs: Sequence[Path | None] = ()  # files that must stay
    backbone: Backbone | None = None  # already loaded


def _fresh(options: Mapping[str, Any]) -> Job:
    from sketchguide.request import Request

    request = Request.checked(**{"seed": 0, **options})  # before the slow import of what draws a seed
    if "seed" not in options:
        from sketchguide.seeds import random_seed

        request = request.model_copy(update={"seed": random_seed()})
    return Job(request=request)


def _recalled(source: Path, options: Mapping[str, Any], *, trim: bool) -> Job:
    """The stored request with the `options` given in place of its own, and with its own drawing trimmed if asked to.

    A new seed or count starts from the stored picture; anything else changes that picture alone.
    """
    from sketchguide.pictures import recall
    from sketchguide.request import Request

    recipe = recall(source)
    values = {**recipe.request.model_dump(), **options}
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
        "model": {"model", "predictor", "levels", "solver"},
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
        "device": {"device", "dtype", "model", "controlnet", "t2i_adapter"},
    }
    meant = {name for option in options for name in changed.get(option, ())}
    kept = {name: value for name, value in recipe.made_with.items() if name not in meant}
    return Job(request=Request.checked(**values), only=only, sheet=recipe.sheet, made_with=kept)


def carry_out(job: Job, report: Report, *, output: Path | None, as_sheet: bool = False) -> None:
    """Make the pictures of a job and write them, each as soon as it is finished."""
    if not all(prompt.strip() for prompt in job.prompts or [job.request.prompt]):
        report.warn("The prompt is empty: the picture shows anything.")
    with report.progress() as bar:
        task = bar.add_task("Loading", total=None)
        hush_libraries()
        from sketchguide.generation import Progress, run

        wanted = 1 if job.only is not None else job.request.count * max(1, len(job.prompts))
        several = not as_sheet and wanted > 1
        finished = 0
        on_sheet: list[Picture] = []
        if output is not None:
            for number in range(1, wanted + 1) if several else [None]:
                check_writable(_place(output, "", number=number), inputs=job.inputs)
        files = report.facts["pictures"] = list[dict[str, Any]]()
        try:
            for event in run(job.request, prompts=job.prompts, backbone=job.backbone, only=job.only):
                if isinstance(event, Progress):
                    bar.update(task, description="Drawing", completed=event.done, total=event.total)
                    report.facts["evaluations"] = event.evaluations._asdict()
                    continue
                if not finished:
                    _compare(job.made_with, event.made_with, report)
                if as_sheet:
                    on_sheet.append(event)
                    finished += 1
                else:
                    path = _place(output, event.request.prompt, number=finished + 1 if several else None)
                    with unstopped():
                        event.save(path)
                        files.append(_facts(event, path))
                        report.say(f"{path} ({_told(event)})")
                        finished += 1
        except Stopped as stopped:
            if finished:
                stopped.hint = f"{finished} of {wanted} pictures were finished and are kept."
            raise
        finally:
            if on_sheet:
                path = _place(output, job.request.prompt)
                _save_sheet(on_sheet, path)
                files += [_facts(one, path) for one in on_sheet]
                first, last = on_sheet[0].seed, on_sheet[-1].seed
                seeds = f"seeds {first} to {last}" if len(on_sheet) > 1 else f"seed {first}"
                report.say(f"{path} ({seeds})")
    again = shlex.join(["sketchguide", "generate", "--from", files[0]["path"]])
    report.say(f"Make it again: {again}")


def _facts(picture: Picture, path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": str(path), "seed": picture.seed, "prompt": picture.request.prompt}
    if picture.confidence is not None:
        facts |= {"tried": picture.tried, "confidence": picture.confidence}
    return facts


def _told(picture: Picture) -> str:
    """What is said of a picture beside its file."""
    told = f"seed {picture.seed}"
    if picture.confidence is not None:
        told += f", try {picture.tried} of {picture.request.tries}, recognised with {picture.confidence:.0%}"
    return told


def _compare(before: Mapping[str, str], now: Mapping[str, str], report: Report) -> None:
    differing = [
        f"{name} {before[name]}, now {now[name]}" for name in before if now.get(name, before[name]) != before[name]
    ]
    if differing:
        report.warn(f"The picture may differ from the one it repeats, which was made with {'; '.join(differing)}.")


def _save_sheet(pictures: list[Picture], path: Path) -> None:
    from sketchguide.images import save_png, sheet
    from sketchguide.pictures import RECIPE_KEY

    page = sheet(
        [picture.image for picture in pictures],
        columns=math.ceil(math.sqrt(len(pictures))),
        labels=[f"seed {picture.seed}" if picture.image.width >= _ROOMY else str(picture.seed) for picture in pictures],
    )
    first = pictures[0]
    request = first.request.model_copy(update={"count": len(pictures)})
    recipe = first.recipe.model_copy(update={"request": request, "sheet": True})
    save_png(page, path, text={RECIPE_KEY: recipe.model_dump_json()})


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
    check_writable(path)
    if path is not None and path.suffix.lower() != ".png":
        folder = f" For a folder, give a file in one that exists: {path / 'picture.png'}." if not path.suffix else ""
        raise UsageError(
            f"The output {str(path)!r} does not end in .png.",
            hint=f"Pictures are written as PNG, which carries what is needed to make them again.{folder}",
            field="output",
        )


def check_writable(path: Path | None, *, inputs: Sequence[Path | None] = ()) -> None:
    """UsageError or OutputError where no file can be written at `path`, None being a name in this folder, or where it
    is one of the `inputs`, which would be lost.
    """
    folder = Path() if path is None else Path(os.path.realpath(path)).parent  # where a link leads to
    trial = folder / f".{secrets.token_hex(8)}.part"
    try:
        if path is not None and (there := look_at(path)) is not None:
            if stat.S_ISDIR(there.st_mode):
                file = path / "picture.png"
                raise UsageError(f"{path} is a folder.", hint=f"Give a file in it: {file}.", field="output")
            if not stat.S_ISREG(there.st_mode):
                raise UsageError(f"{path} is a device, not a file.", field="output")
            if any(one and one.exists() and path.samefile(one) for one in inputs):
                raise UsageError(
                    f"{path} is what the picture is made from; it would be lost.",
                    hint="Give another name with -o.",
                    field="output",
                )
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise UsageError(f"The folder {folder} {what}.", hint="Create it first.", field="output")
        os.close(os.open(trial, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        trial.unlink()
    except OSError as error:
        raise OutputError(
            f"Nothing can be written at {folder.absolute() if path is None else path}: {error.strerror}.",
            hint="Choose another place with -o.",
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
