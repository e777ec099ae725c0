"""`sketchguide trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sketchguide.cli.outputs import check_writable
from sketchguide.cli.report import JsonFlag, Report
from sketchguide.errors import UsageError


def command(
    context: typer.Context,
    picture: Annotated[
        Path, typer.Argument(help="A photograph, a painting: PNG, JPEG, WebP, BMP, GIF, TIFF.", metavar="PICTURE")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The PNG to write, replaced if it exists.", metavar="OUT.png")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Find the lines in a photograph, as a drawing to change or to make pictures by.

    sketchguide trace photo.jpg -o lines.png
    sketchguide generate "a cat" --sketch lines.png

    A drawing needs no tracing: give it as --sketch as it is.
    """
    report = Report.of(context, as_json=as_json)
    if output.suffix.lower() != ".png":
        raise UsageError(
            f"The output {str(output)!r} does not end in .png.", hint="Drawings are written as PNG.", field="output"
        )
    check_writable(output, inputs=(picture,))
    with report.progress() as bar:
        bar.add_task("Tracing", total=None)
        from sketchguide.images import from_grey, save_png
        from sketchguide.tracing import trace

        lines = trace(picture).raster
        assert lines is not None  # a tracing has no strokes
        save_png(from_grey(1 - lines), output)
    report.facts = {"output": str(output), "width": lines.shape[1], "height": lines.shape[0]}
    report.say(f"{output}: the lines of {picture}. Take away what you do not mean, or give it as --sketch.")
