"""`sketchguide edit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sketchguide.cli.job import MOVABLE, Job, carry_out, named_in
from sketchguide.cli.options import INPUT, OutputOption, PolarityOption, given, with_options
from sketchguide.cli.outputs import check_output
from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.defaults import AMOUNT, MARGIN, MAX_PADDING, SourceKind

CHANGE = "Change"


@with_options()
def command(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(help="The picture to change.", metavar="IMAGE")],
    prompt: Annotated[str, typer.Argument(help="What it shows afterwards.")],
    sketch: Annotated[
        Path | None,
        typer.Option(
            help="The drawing to follow, on a canvas of the picture's aspect: SVG, a picture, Quick, Draw! ndjson.",
            metavar="FILE",
            rich_help_panel=INPUT,
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="A picture of IMAGE's aspect that says what changes, white on black, in place of --margin; with it "
            "there need be no --sketch.",
            metavar="FILE",
            rich_help_panel=INPUT,
        ),
    ] = None,
    polarity: PolarityOption = None,
    output: OutputOption = None,
    as_json: JsonFlag = False,
    amount: Annotated[
        float | None,
        typer.Option(
            help=f"How much changes, as the part of the steps that are walked again: {AMOUNT}.",
            metavar="A",
            rich_help_panel=CHANGE,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Change only what is inside the drawing and so near to it, as part of the longer side: "
            f"{MARGIN}. More takes away what the old thing shows beyond; 1 changes everything, and needs no --sketch.",
            metavar="D",
            rich_help_panel=CHANGE,
        ),
    ] = None,
    source: Annotated[
        SourceKind | None,
        typer.Option(
            help="Begin with IMAGE noised by the seed, inverted (DDIM, one more pass per step, keeps more), or "
            "generated: a PNG of sketchguide's by the latents that made it, with its model and steps. Default noised.",
            rich_help_panel=CHANGE,
        ),
    ] = None,
    source_prompt: Annotated[
        str | None, typer.Option(help="What IMAGE shows, for the inversion.", metavar="TEXT", rich_help_panel=CHANGE)
    ] = None,
    padding_mask_crop: Annotated[
        int | None,
        typer.Option(
            help="Show the model a crop, what changes and N pixels of IMAGE around it, at its full resolution: 0 to "
            f"{MAX_PADDING}, 32 as a rule. Default: the whole picture.",
            metavar="N",
            rich_help_panel=CHANGE,
        ),
    ] = None,
    **options: Any,
) -> None:
    """Change a picture by drawing on it.

    sketchguide edit room.png "a red apple" --sketch apple.svg
    sketchguide edit cat.png "a cat" --sketch cat.svg --margin 1
    sketchguide edit cat.png "a cat" --sketch cat.svg --attention icons-64-parts
    sketchguide edit photo.jpg "a cup" --sketch cup.svg --padding-mask-crop 32
    sketchguide edit photo.jpg "a cup" --mask mask.png
    sketchguide edit dog.png "a cat" --margin 1 --amount 0.6

    What lies further from the drawing than --margin keeps its pixels, and the
    picture its size. The last line is image-to-image by the prompt alone.
    The lines pull by LGP, and by sketch attention where it is given
    (docs/diffsketching.md). The PNG carries the picture and all else that is
    needed to make it again: sketchguide generate --from.
    """
    report = Report.of(context, as_json=as_json)
    like: Path | None = options.pop("like")
    check_output(output)
    settings = given(
        amount=amount,
        margin=margin,
        source=source,
        source_prompt=source_prompt,
        padding_mask_crop=padding_mask_crop,
        **options,
    )
    with named_in(image if source == "generated" else None, settings, movable=MOVABLE):
        with report.progress() as bar:
            bar.add_task("Loading", total=None)
            hush_libraries()
            from sketchguide.editing import request_of
            from sketchguide.sketch import Sketch

            if sketch is None and polarity is not None:
                report.warn("--polarity changes nothing without --sketch.")
            drawing = None if sketch is None else Sketch.open(sketch, polarity=polarity or "auto")
            request, backbone = request_of(image, prompt, sketch=drawing, mask=mask, like=like, **settings)
        job = Job(request=request, backbone=backbone, inputs=(image, sketch, mask, like))
        carry_out(job, report, output=output)
