"""`sketchguide trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sketchguide.cli.outputs import check_writable, place
from sketchguide.cli.report import JsonFlag, Report
from sketchguide.errors import UsageError


def command(
    context: typer.Context,
    picture: Annotated[
        Path, typer.Argument(help="A photograph, a painting: PNG, JPEG, WebP, BMP, GIF, TIFF.", metavar="PICTURE")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The PNG to write, replaced if it exists. Default: a name made of PICTURE's, here.",
            metavar="OUT.png",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find the lines in a photograph, as a drawing to change or to make pictures by.

    sketchguide trace photo.jpg -o lines.png
    sketchguide generate "a cat" --sketch lines.png

    A drawing needs no tracing: give it as --sketch as it is.
    """
    report = Report.of(context, as_json=as_json)
    if output is not None and output.suffix.lower() != ".png":
        raise UsageError(
            f"The output {str(output)!r} does not end in .png.", hint="Drawings are written as PNG.", field="output"
        )
    check_writable(output, inputs=(picture,))
    with report.progress() as bar:
        bar.add_task("Tracing", total=None)
        from sketchguide.images import from_grey, open_image, save_png
        from sketchguide.ink import looks_drawn
        from sketchguide.tracing import trace

        opened = open_image(picture, field="picture")
        if looks_drawn(opened):
            report.warn(f"{picture} looks drawn already: both sides of its lines are traced. Give it as --sketch.")
        lines = trace(opened).raster
        assert lines is not None  # a tracing has no strokes
        output = place(output, f"{picture.stem} lines")
        save_png(from_grey(1 - lines), output)
    report.facts = {"output": str(output), "width": lines.shape[1], "height": lines.shape[0]}
    report.say(f"{output}: the lines of {picture}. Take away what you do not mean, or give it as --sketch.")
