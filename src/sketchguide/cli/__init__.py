"""The command line. Nothing heavy is imported before a command needs it, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer
from typer.main import get_command

import sketchguide
from sketchguide.cli import (
    bench,
    component,
    edit,
    environment,
    finetune,
    generate,
    interpolate,
    models,
    serve,
    trace,
    train,
    translate,
)
from sketchguide.cli.options import Command
from sketchguide.cli.report import Report
from sketchguide.cli.signals import Stopped, handling, stop_now

NARROWEST = 70  # columns that help needs to show the longest names whole

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command("generate", cls=Command, rich_help_panel="Pictures")(generate.command)
app.command("translate", cls=Command, rich_help_panel="Pictures")(translate.command)
app.command("edit", cls=Command, rich_help_panel="Pictures")(edit.command)
app.command("interpolate", cls=Command, rich_help_panel="Pictures")(interpolate.command)
app.command("trace", cls=Command, rich_help_panel="Pictures")(trace.command)
app.command("serve", cls=Command, rich_help_panel="Pictures")(serve.command)
app.command("train", cls=Command, rich_help_panel="Models")(train.command)
app.command("finetune", cls=Command, rich_help_panel="Models")(finetune.command)
app.command("component", cls=Command, rich_help_panel="Models")(component.command)
app.command("bench", cls=Command, rich_help_panel="Models")(bench.command)
app.command("models", cls=Command, rich_help_panel="Models")(models.command)
app.command("env", cls=Command, rich_help_panel="Help")(environment.command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sketchguide {sketchguide.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _sketchguide(
    context: typer.Context,
    _version_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A drawing and a prompt become a picture.

    sketchguide generate "a red apple" --sketch apple.svg -o apple.png
    sketchguide generate --help
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


_command = get_command(app)


def _widen() -> None:
    """Make rich take a terminal that is too narrow for help as one that is not: it would cut names short."""
    from rich.console import Console

    if Console().width < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done. 1: asked rightly, but it did not work. 2: wrong use. 130 or 143: stopped by SIGINT or SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with suppress(AttributeError, ValueError):  # a terminal without the letters of a file name is no reason to fail
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    if not arguments or "--help" in arguments:
        _widen()
    report = Report(arguments)
    code: object = 0
    with report.warnings_shown(), handling(stop_now):
        try:
            with report.writing(only=False):
                code = _command.main(arguments, prog_name="sketchguide", standalone_mode=False, obj=report)
            report.done()
        except (Exception, Stopped) as error:
            code = report.failed(error)
    return code if isinstance(code, int) else 0
