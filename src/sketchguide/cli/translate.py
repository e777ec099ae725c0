"""`sketchguide translate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sketchguide.cli.job import MOVABLE, Job, carry_out, named_in
from sketchguide.cli.options import KindOption, OutputOption, PolarityOption, SketchOption, given, with_options
from sketchguide.cli.outputs import check_output
from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.defaults import (
    ALPHA,
    NEAR,
    RECURRENCE,
    SHARE,
    TAU_A,
    TAU_F,
    Branches,
    Decay,
    Polarity,
    SourceKind,
    Start,
)

LAYOUT, LEAVING = "Layout", "Leaving the source behind"


@with_options()
def command(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(help="The picture whose layout is kept, or a drawing.", metavar="IMAGE")],
    prompts: Annotated[
        list[str],
        typer.Argument(help="What the new picture shows. Several prompts share one pass over IMAGE.", metavar="PROMPT"),
    ],
    kind: KindOption = None,
    sketch: SketchOption = None,
    polarity: PolarityOption = None,
    output: OutputOption = None,
    as_json: JsonFlag = False,
    source: Annotated[
        SourceKind | None,
        typer.Option(
            help="How IMAGE is shown to the network: inverted (DDIM, one more pass per step, keeps most), noised "
            "(Ctrl-X, cheaper, leaks less), or generated: a PNG of sketchguide's by the latents it was made by, with "
            "its model and steps. Default inverted.",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    tau_f: Annotated[
        float | None,
        typer.Option(
            help=f"Part of the steps that borrow the features f: {TAU_F}, of sketches 0.5.",
            metavar="T",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    tau_a: Annotated[
        float | None,
        typer.Option(
            help=f"Part of the steps that borrow queries and keys of self-attention: {TAU_A}.",
            metavar="T",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Taps that are borrowed as f, with + between them. Default: the published one, or its like; of Stable "
            "Diffusion 3 and Flux none.",
            metavar="PATH[+PATH…]",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            help=f"How much of what is borrowed is IMAGE's: {SHARE}. 0 leaves the picture its own.",
            metavar="S",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    near: Annotated[
        float | None,
        typer.Option(
            help=f"Borrow only so near to strokes (of --sketch, else of IMAGE), as part of the longer side: {NEAR}. "
            "0 borrows everywhere.",
            metavar="D",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    branches: Annotated[
        Branches | None,
        typer.Option(help="Whether the negative pass of guidance borrows too. Default both.", rich_help_panel=LAYOUT),
    ] = None,
    start: Annotated[
        Start | None,
        typer.Option(
            help="Begin with IMAGE's noise or with the seed's. Default: noise where it is noised, else source.",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    source_prompt: Annotated[
        str | None, typer.Option(help="What IMAGE shows, as far as known.", metavar="TEXT", rich_help_panel=LEAVING)
    ] = None,
    decay: Annotated[
        Decay | None,
        typer.Option(
            help="Guidance turns to moving away from --source-prompt, with this schedule. Default: it does not.",
            rich_help_panel=LEAVING,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help=f"Share of the plain negative prompt at the first step of --decay: {ALPHA}.",
            metavar="A",
            rich_help_panel=LEAVING,
        ),
    ] = None,
    recurrence: Annotated[
        int | None,
        typer.Option(
            help=f"How often each step from 10 to 50 % is taken again, without IMAGE: {RECURRENCE}.",
            metavar="N",
            rich_help_panel=LEAVING,
        ),
    ] = None,
    **options: Any,
) -> None:
    """Make a picture of a prompt with the layout of another picture, or of a drawing.

    sketchguide translate photo.jpg "a green apple" -o green.png
    sketchguide translate photo.jpg "a green apple" "a pear" "an onion"
    sketchguide translate apple.svg "a red apple" --sketch apple.svg
    sketchguide translate photo.jpg "a pear" --source noised --tau-f 0.6

    Plug-and-Play features give the layout (docs/plug-and-play.md); with
    --sketch the lines are pulled to a drawing too. Every PNG carries all that
    is needed to make it again, IMAGE included: sketchguide generate --from.
    """
    report = Report.of(context, as_json=as_json)
    like: Path | None = options.pop("like")
    check_output(output)
    if len(prompts) > 1 and all(len(prompt.split()) == 1 for prompt in prompts):
        quoted = f'"{" ".join(prompts)}"'
        report.warn(f"{len(prompts)} prompts of one word each are given. If they are one, put it in quotes: {quoted}.")
    settings = given(
        source=source,
        source_prompt=source_prompt,
        start=start,
        tau_f=tau_f,
        tau_a=tau_a,
        features=features,
        share=share,
        branches=branches,
        near=near,
        decay=decay,
        alpha=alpha,
        recurrence=recurrence,
        **options,
    )
    with named_in(image if source == "generated" else None, settings, movable=MOVABLE):
        with report.progress() as bar:
            bar.add_task("Loading", total=None)
            hush_libraries()
            from sketchguide.images import read_file
            from sketchguide.sketch import Sketch, holds_strokes
            from sketchguide.translation import request_of

            read_as: Polarity = polarity or "auto"
            request, backbone = request_of(
                image,
                prompts,
                drawn=None if kind is None else kind == "sketch",
                polarity=read_as,
                sketch=None if sketch is None else Sketch.open(sketch, polarity=read_as),
                like=like,
                **settings,
            )
            drawn = request.layout is not None and request.layout.drawn
            report.facts["taken_for"] = "sketch" if drawn else "picture"
            if drawn and kind is None and not holds_strokes(read_file(image)):
                report.say(f"{image} is taken for a drawing; --as picture takes it for a picture.")
            if polarity is not None and sketch is None and not drawn:
                ignored = "--polarity changes nothing: IMAGE is taken for a picture."
                report.warn(f"{ignored} --as sketch takes it for a drawing.")
        job = Job(request=request, prompts=prompts, backbone=backbone, inputs=(image, sketch, like))
        carry_out(job, report, output=output)
    cost: dict[str, int] = report.facts["evaluations"]
    parts = ", ".join(f"{number} {name}" for name, number in cost.items() if number)
    report.say(f"{sum(cost.values())} network evaluations: {parts}.")
