"""The job of a command that makes pictures: a request, carried out, and its pictures written."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sketchguide.cli.outputs import check_writable, place
from sketchguide.cli.report import Report, hush_libraries
from sketchguide.cli.signals import Stopped, unstopped
from sketchguide.errors import ModelNotFoundError

if TYPE_CHECKING:
    from sketchguide.backbones.base import Backbone
    from sketchguide.pictures import Picture
    from sketchguide.request import Request

MOVABLE = ("model", "lora", "predictor")  # of a generated source; its other parts are found by its recipe alone
_ROOMY = 96  # pixels: below, the longest seed has no room for a word before it


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
                check_writable(place(output, "", number=number), inputs=job.inputs)
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
                    path = place(output, event.request.prompt, number=finished + 1 if several else None)
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
                path = place(output, job.request.prompt)
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
