"""What a command says: short lines for people, or with --json one object on stdout and nothing else there."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sketchguide.cli.signals import Stopped
from sketchguide.defaults import SYNONYMS
from sketchguide.errors import OutputError, SketchguideError, SketchguideWarning, described

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

JsonFlag = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout, errors too.", rich_help_panel="Output"),
]

DEBUG = "SKETCHGUIDE_DEBUG"
SPEED_OVER = 600  # seconds of a progress bar: a step may take minutes, and two are the least that tell a speed
SETTING = re.compile(  # in messages; of one word only where such words stand that nothing else can be meant
    r"^[a-z0-9_]+(?= )|(?<= )[a-z0-9]+(?:_[a-z]+)+(?=[ ,:]|\.?$|\. )"
    r"|(?<= without )[a-z]+(?= above|\.?$)|(?<= LoRA as )[a-z]+(?=,)|(?<= leave )[a-z]+(?= at \d)"
    r"|(?<= with )[a-z]+(?= \d)"
)
_ENLARGE = "Enlarge the picture elsewhere, and then: sketchguide edit LARGE.png PROMPT --margin 1 --amount 0.4 "
ELSEWHERE: Mapping[str, str] = MappingProxyType(  # options of others that no command has, and the way here
    {
        "vae": "Give the pipeline another autoencoder in Python, and save it as a folder for --model.",
        "clip-skip": "Load a text encoder with fewer layers in Python, and save the pipeline as a folder for --model.",
        **dict.fromkeys(
            ("lowvram", "medvram", "offload", "cpu-offload"),
            "Offload the pipeline in Python, and give it to from_pipe().",
        ),
        **dict.fromkeys(("hires", "hires-fix", "hr-scale", "upscale", "upscaler"), f"{_ENLARGE}--size WxH."),
        **dict.fromkeys(
            ("image", "init-image", "init-img"),
            "A picture to start from is an argument of its own: sketchguide edit IMAGE PROMPT --margin 1.",
        ),
    }
)

# the base of the usage errors of the click that typer brings
WrongUse: type[Exception] = typer.BadParameter.__mro__[2]


class Report:
    """Collects what one command has to say. `facts` is the JSON object; people get what `say` and `show` are given."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = tuple(arguments)
        self.as_json = "--json" in arguments  # a guess until the command line is parsed, for errors in it
        self.facts: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._options: dict[str, str] = {}  # settings, and how they are called on the command line
        self._result: list[RenderableType] = []
        self.started = time.monotonic()

    @classmethod
    def of(cls, context: typer.Context, *, as_json: bool) -> Report:
        """The report of the command that runs in `context`."""
        report = context.find_object(cls)
        assert report is not None  # `main` made it
        report.as_json = as_json
        for parameter in context.command.params:
            long = [name for name in parameter.opts if name.startswith("--")]
            if parameter.name and long:
                report._options[parameter.name] = long[0]
        return report

    @cached_property
    def out(self) -> Console:
        from rich.console import Console

        return Console(soft_wrap=True, highlight=False)

    @cached_property
    def err(self) -> Console:
        from rich.console import Console

        return Console(stderr=True, soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """One line of the result, for people."""
        from rich.text import Text

        self.show(Text(plain(text)))

    def show(self, what: RenderableType) -> None:
        """A part of the result that is more than a line. Results come at the end: until then bars own the terminal."""
        self._result.append(what)

    def warn(self, message: str) -> None:
        message = plain(message)
        if message in self.warnings:
            return
        self.warnings.append(message)
        if not self.as_json:
            self._line("Warning: ", "yellow", message)

    @contextmanager
    def warnings_shown(self) -> Generator[None]:
        """Within the block our own warnings are reported, and those that libraries address to programmers dropped."""

        def show(message: Warning | str, category: type[Warning], *_: object) -> None:
            if issubclass(category, SketchguideWarning) or os.environ.get(DEBUG):
                self.warn(str(message))

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show
            yield

    @contextmanager
    def progress(self, *columns: str) -> Generator[Progress]:
        """A progress bar with the time left on stderr, if that is a terminal. `columns` are shown after it."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            *(TextColumn(column) for column in columns),
            console=self.err,
            transient=True,
            redirect_stdout=False,
            refresh_per_second=4,
            speed_estimate_period=SPEED_OVER,
            disable=not self.err.is_terminal,
        ) as bar:
            yield bar

    @contextmanager
    def writing(self, *, only: bool = True) -> Generator[None]:
        """Within the block stdout is written, and with `only` no other file; OutputError where it cannot be. From then
        on it takes everything, and errors are told on stderr.
        """
        try:
            yield
            print(end="", flush=True)
        except OSError as error:
            if not (only or isinstance(error, BrokenPipeError) or _is_stuck()):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's flush at exit complains
            if isinstance(error, BrokenPipeError):  # whoever read it has seen enough
                raise SystemExit(1) from None
            self.as_json = False
            self._result.clear()
            raise OutputError(f"Nothing can be written to stdout: {error.strerror}.") from error

    def done(self) -> None:
        """Print the result of a command that succeeded. Raises OutputError."""
        with self.writing():
            if self.as_json and self.facts:
                self._print_json(self.facts)
            self._print_result()

    def failed(self, error: BaseException) -> int:
        """Report why a command did not end well, and return its exit code."""
        if os.environ.get(DEBUG):
            traceback.print_exception(error)
        described, code = describe(error, self.arguments)
        try:
            with self.writing():
                if self.as_json:
                    self._print_json({"error": described, **self.facts})
                self._print_result()
        except OutputError as unwritten:
            self.failed(unwritten)
        if not self.as_json:
            self._line("" if isinstance(error, Stopped) else "Error: ", "bold red", described["message"])
            if described["hint"]:
                self._line("", "", described["hint"])
        return code

    def _line(self, label: str, style: str, text: str) -> None:
        """A message for people: a setting that it begins with, or that is no plain word, is called by its option."""
        from rich.text import Text

        worded = SETTING.sub(lambda found: self._options.get(found[0], found[0]), plain(text))
        self.err.print(Text.assemble((label, style), worded))

    def _print_result(self) -> None:
        if not self.as_json:
            for part in self._result:
                self.out.print(part)

    def _print_json(self, facts: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self.started, 3)
        print(json.dumps({**facts, "warnings": self.warnings, "seconds": seconds}))


def _is_stuck() -> bool:
    """Whether stdout still holds what it could not write."""
    try:
        print(end="", flush=True)
    except OSError:
        return True
    return False


def plain(text: str) -> str:
    """`text` on one line and without control characters: a prompt or file name must not act on the terminal."""
    return "".join(" " if c.isspace() else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text).strip()


def describe(error: BaseException, arguments: Sequence[str] = ()) -> tuple[dict[str, str], int]:
    """`{code, message, hint, field}` of any exception, and the exit code, of a command with these `arguments`."""
    if isinstance(error, Stopped):
        told = {"code": "stopped", "message": "Stopped.", "hint": error.hint, "field": ""}
        status = error.exit_code
    elif isinstance(error, WrongUse):
        message, hint = _wrong_use(error, arguments)
        field = getattr(getattr(error, "param", None), "name", "") or ""
        told = {"code": "usage", "message": message, "hint": hint, "field": field}
        status = 2
    else:
        told = described(error)
        status = error.exit_code if isinstance(error, SketchguideError) else 1
        if told["code"] == "internal":
            told["hint"] += f" {DEBUG}=1 shows where it happened."
    return {key: plain(text) for key, text in told.items()}, status


def _wrong_use(error: Any, arguments: Sequence[str]) -> tuple[str, str]:
    """Message and hint of what typer refuses, in our words."""
    named = next((word for word in arguments if not word.startswith("-")), "")
    context = getattr(error, "ctx", None)  # a parser knows none
    where = context.command_path if context else f"sketchguide {named}".strip()
    hint = f"`{where} --help` lists what there is."
    if hasattr(error, "possibilities"):
        return f"There is no option {error.option_name}.", _other_options(error) or hint
    if not isinstance(error, typer.BadParameter) or error.param is None:
        return error.format_message(), hint

    from pydantic import ValidationError

    from sketchguide.request import refusal

    option, cause = error.param.opts[0], error.__cause__
    if choice := re.search(r"('.*') is not one of (.*?)\.?$", error.message, re.DOTALL):
        choices = choice[2].replace("'", "")
        given, known = choice[1].strip("'"), choices.split(", ")
        near = [one for one in known if given and one.startswith(given)] or get_close_matches(given, known, 1)
        meant = f"Did you mean {near[0]}?" if near else hint
        return f"{option} is {choice[1]}; it must be one of {choices}.", meant
    return refusal(cause, option) if isinstance(cause, ValidationError) else error.format_message(), hint


def _other_options(error: Any) -> str:
    """What is like an option that the command has not, and which commands have it."""
    own, others = error.ctx.command, getattr(error.ctx.find_root().command, "commands", {})
    if error.option_name == "--prompt" and any(parameter.name == "prompt" for parameter in own.params):
        return 'The prompt goes without an option, in quotes: "a red apple".'
    said = error.option_name.lstrip("-").replace("_", "-").casefold()
    if said in ELSEWHERE:
        return ELSEWHERE[said]
    called = SYNONYMS.get(said.replace("-", "_"))
    meant = f"--{(called or said).replace('_', '-')}"
    near = [meant] if _has(own, meant) else [] if called else sorted(error.possibilities or ())
    having = [f"`sketchguide {name}`" for name, command in others.items() if _has(command, meant)]
    hints = [f"Did you mean {' or '.join(near)}?"] if near else []
    if having and not _has(own, meant):
        hints.append(f"{meant if called else 'That'} is an option of {', '.join(having)}.")
    return " ".join(hints)


def _has(command: Any, option: str) -> bool:
    return any(option in parameter.opts for parameter in command.params)


def hush_libraries() -> None:
    """Keep the progress bars and messages of the libraries off the terminal; what matters reaches it as an error."""
    import diffusers.utils.logging
    import huggingface_hub.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()  # it tells of every try to reach the hub
    disable_progress_bars()


def was_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter was on the command line, and is not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
