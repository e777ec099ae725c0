"""Options that several commands share: each is described once."""

from __future__ import annotations

import inspect
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperOption

from sketchguide.defaults import (
    ADAPTER_END,
    ADAPTER_SCALE,
    ADAPTER_START,
    ATTENTION_SCALE,
    BLANK,
    CLASS_SCALE,
    COUNT,
    EVEN,
    EVERY,
    FEW_STEPS,
    HANDOVER,
    IDENTITY,
    LORA_SCALE,
    MODEL,
    NEGATIVE_TIME,
    RECOGNISED,
    SCALE,
    SEED,
    SKETCH_LOSS,
    SOFT_STEPS,
    STEPS,
    STOP,
    STRENGTH,
    SURE,
    TRIES,
    WIDEN,
    Polarity,
)
from sketchguide.errors import UsageError
from sketchguide.files import is_file

ALONE = ("sketch", "like")  # options of which some would hope that several add up


class Command(TyperCommand):
    """Refuses a second value for those of ALONE that take one, a prompt without quotes, and a drawing in its place; of
    other options the last counts.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, left, given = self.make_parser(ctx).parse_args(args=list(args))
        prompt = values.get("prompt")
        said = [prompt] if isinstance(prompt, str) else list(values.get("prompts") or ())
        if {"prompt", "prompts"} & values.keys():
            self._refuse_files([*said, *left], image=values.get("image"))
        if left and isinstance(prompt, str):
            before = [ctx.command_path, *(str(values[name]) for name in ("image",) if name in values)]
            if any(one.name == "prompt" and isinstance(one, TyperOption) for one in self.params):
                before = ["--prompt"]
            quoted = " ".join([*before, f'"{" ".join([prompt, *left])}"'])
            raise UsageError("The prompt has several words.", hint=f"Put it in quotes: {quoted}.", field="prompt")
        for option, times in Counter(given).items():
            single = isinstance(option, TyperOption) and not option.multiple
            if times > 1 and single and option.name in ALONE:
                raise UsageError(
                    f"{option.opts[0]} is given {times} times, and takes one.",
                    hint="Leave the others out.",
                    field=option.name,
                )
        return super().parse_args(ctx, args)

    def _refuse_files(self, words: Iterable[str], *, image: object) -> None:
        """A shell makes of `--sketch *.svg` one drawing and, it would seem, a prompt; and IMAGE and PROMPT may be
        swapped.
        """
        for word in words:
            if not Path(word).suffix or not is_file(Path(word)):
                continue
            hint = ""
            for option in (one for one in self.params if one.name == "sketch"):
                more = ", and --sketch anew for each other one" if getattr(option, "multiple", False) else ""
                hint = f"If it is the drawing, give it as --sketch {shlex.quote(word)}{more}."
            if isinstance(image, str) and not Path(image).suffix:
                hint = f"The picture comes first: {shlex.quote(word)} {shlex.quote(image)}."
            raise UsageError(f"{word} is a file, and stands where the prompt is.", hint=hint, field="prompt")


INPUT, OUTPUT, GUIDANCE, SAMPLING, MODELS = "Input", "Output", "Guidance", "Sampling", "Model"
DATA, TRAINING, JUDGES = "Data", "Training", "Judges"  # of commands that train

SketchOption = Annotated[
    Path | None,
    typer.Option(
        help="The drawing whose lines to follow: SVG, a picture (PNG, JPEG, WebP, …), Quick, Draw! ndjson.",
        metavar="FILE",
        rich_help_panel=INPUT,
    ),
]

PolarityOption = Annotated[
    Polarity | None,
    typer.Option(
        help="Which is ink in a drawing that is a picture. Default auto: it is looked at.", rich_help_panel=INPUT
    ),
]

KindOption = Annotated[
    Literal["picture", "sketch"] | None,
    typer.Option(
        "--as",
        help="What the pictures given are. Default: SVG and ndjson are sketches, and so are pictures of colourless ink "
        "on paper that sketchguide did not make.",
        rich_help_panel=INPUT,
    ),
]

TrimOption = Annotated[
    bool,
    typer.Option(
        "--trim",
        help="Cut off the blank paper around the drawing, so that it fills the picture.",
        rich_help_panel=INPUT,
    ),
]

NegativeOption = Annotated[
    str | None,
    typer.Option(help="What the picture should not show.", metavar="TEXT", rich_help_panel=INPUT),
]

OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The PNG to write, replaced if it exists; several pictures are numbered: apple-1.png, apple-2.png. "
        "Default: a name after the prompt that is still free: a-red-apple.png, a-red-apple-2.png.",
        metavar="OUT.png",
        rich_help_panel=OUTPUT,
    ),
]

CountOption = Annotated[
    int | None,
    typer.Option(
        help=f"How many pictures: {COUNT}.",
        metavar="N",
        rich_help_panel=OUTPUT,
    ),
]

StrengthOption = Annotated[
    float | None,
    typer.Option(
        help=f"β, how hard the drawing pulls: {STRENGTH} ({STRENGTH.default / EVERY.default:g} times what --every "
        f"says, less below {SOFT_STEPS} steps). 0 ignores it.",
        metavar="BETA",
        rich_help_panel=GUIDANCE,
    ),
]

StopOption = Annotated[
    float | None,
    typer.Option(
        help=f"Part of the steps after which the drawing lets go: {STOP}; at most what the predictor was trained for, "
        "0.9 as a rule.",
        metavar="S",
        rich_help_panel=GUIDANCE,
    ),
]

EveryOption = Annotated[
    int | None,
    typer.Option(
        help=f"The drawing pulls at every N-th step: {EVERY.low} to {EVERY.high}, default {EVERY.default}, and 1 up to "
        f"{FEW_STEPS} steps unless --strength is given. 1 follows closest; more is faster and more natural.",
        metavar="N",
        rich_help_panel=GUIDANCE,
    ),
]

EvenOption = Annotated[
    float | None,
    typer.Option(
        help=f"How evenly the pull is shared among the parts of the picture: {EVEN}. 0: most of it goes where the "
        "lines are furthest off.",
        metavar="W",
        rich_help_panel=GUIDANCE,
    ),
]

BlankOption = Annotated[
    float | None,
    typer.Option(
        help=f"How strongly blank paper binds, where ink is 1: {BLANK}. Less leaves room for lines not drawn.",
        metavar="W",
        rich_help_panel=GUIDANCE,
    ),
]

WidenOption = Annotated[
    float | None,
    typer.Option(
        help=f"How wide the lines are that the picture is pulled to, 1 being as they are drawn: {WIDEN}. More forgives "
        "rough lines, 1 holds to them.",
        metavar="W",
        rich_help_panel=GUIDANCE,
    ),
]

HandoverOption = Annotated[
    float | None,
    typer.Option(
        help="Part of the steps after which the lines are read off the picture as it stands, not off the network's "
        f"activations: {HANDOVER}. 1: never.",
        metavar="S",
        rich_help_panel=GUIDANCE,
    ),
]

PredictorOption = Annotated[
    str | None,
    typer.Option(
        help="What reads the drawing off the model: a folder that `sketchguide train` wrote, or a hub id. "
        "Default: the model's own.",
        metavar="NAME|PATH|HUB_ID",
        rich_help_panel=GUIDANCE,
    ),
]

AttentionOption = Annotated[
    str | None,
    typer.Option(
        help="Sketch attention, which shows the drawing to the model: a folder or file that `sketchguide component "
        "sketch-attention` wrote, or a shipped name (icons-64-parts). Default: none.",
        metavar="PATH",
        rich_help_panel=GUIDANCE,
    ),
]

AttentionScaleOption = Annotated[
    float | None,
    typer.Option(
        help=f"How much of what sketch attention adds: {ATTENTION_SCALE}. 0 ignores it.",
        metavar="S",
        rich_help_panel=GUIDANCE,
    ),
]

ControlNetOption = Annotated[
    str | None,
    typer.Option(
        "--controlnet",
        help="A ControlNet for drawings or scribbles, made for the model, that is shown the drawing, white on black: a "
        "diffusers folder, a .safetensors file or a hub id. It acts beside a predictor, or where the model has none, "
        "alone. Default: none.",
        metavar="PATH|HUB_ID",
        rich_help_panel=GUIDANCE,
    ),
]

AdapterScaleOption = Annotated[
    float | None,
    typer.Option(
        help=f"How much of what it adds: {ADAPTER_SCALE}. 0 ignores it.",
        metavar="S",
        rich_help_panel=GUIDANCE,
    ),
]

AdapterStartOption = Annotated[
    float | None,
    typer.Option(
        help=f"Part of the steps before which it adds nothing: {ADAPTER_START}.",
        metavar="T",
        rich_help_panel=GUIDANCE,
    ),
]

AdapterEndOption = Annotated[
    float | None,
    typer.Option(
        help=f"Part of the steps after which it adds nothing: {ADAPTER_END}.",
        metavar="T",
        rich_help_panel=GUIDANCE,
    ),
]

ControlNetModeOption = Annotated[
    int | None,
    typer.Option(
        "--controlnet-mode",
        help="Which kind of image the drawing is to one of Flux that knows several (Union); its page says which number "
        "is which.",
        metavar="N",
        rich_help_panel=GUIDANCE,
    ),
]

T2IAdapterOption = Annotated[
    str | None,
    typer.Option(
        "--t2i-adapter",
        help="A T2I-Adapter for drawings, likewise. Default: none.",
        metavar="PATH|HUB_ID",
        rich_help_panel=GUIDANCE,
    ),
]

ClassOption = Annotated[
    str | None,
    typer.Option(
        "--class",
        help="What a noise-aware classifier should take the picture for: one of its classes (classifier guidance).",
        metavar="NAME",
        rich_help_panel=GUIDANCE,
    ),
]

ClassScaleOption = Annotated[
    float | None,
    typer.Option(help=f"How hard it pulls: {CLASS_SCALE}.", metavar="S", rich_help_panel=GUIDANCE),
]

ClassifierOption = Annotated[
    str | None,
    typer.Option(
        help="That classifier: a folder or file that `sketchguide component latent-classifier` wrote. Default: one "
        "that comes with the package, if any does.",
        metavar="PATH",
        rich_help_panel=GUIDANCE,
    ),
]

TriesOption = Annotated[
    int | None,
    typer.Option(
        help=f"Make a picture up to N times, {TRIES}, until it is recognised as what the prompt names. Each "
        "time the drawing is followed less; without one it starts from other noise. Where a model that comes with the "
        "package follows a drawing of what it knows, and none of --tries, --strength, --every, --steps and --solver is "
        f"given, they are {RECOGNISED['tries']}, {RECOGNISED['strength']}, {RECOGNISED['every']}, "
        f"{RECOGNISED['steps']} and {RECOGNISED['solver']}; with --tries alone the others.",
        metavar="N",
        rich_help_panel=GUIDANCE,
    ),
]

SureOption = Annotated[
    float | None,
    typer.Option(
        help=f"How sure whatever recognises it must be: {SURE}. More means more tries, and a drawing that is followed "
        "less.",
        metavar="P",
        rich_help_panel=GUIDANCE,
    ),
]

RecogniserOption = Annotated[
    str | None,
    typer.Option(
        help="What recognises pictures: a folder or file that `sketchguide component classifier` wrote. Default: one "
        "that comes with the package, if any does.",
        metavar="PATH",
        rich_help_panel=GUIDANCE,
    ),
]

ScaleOption = Annotated[
    float | None,
    typer.Option(
        help=f"Classifier-free guidance, how closely the prompt is followed: {SCALE}. 1 switches it off.",
        metavar="CFG",
        rich_help_panel=GUIDANCE,
    ),
]

NegativeTimeOption = Annotated[
    float | None,
    typer.Option(
        help="Tells the negative pass of classifier-free guidance that the picture is noisier than it is, by so much "
        f"of its time step: {NEGATIVE_TIME.low} to {NEGATIVE_TIME.high}. More realistic after clean lines. Default "
        f"{NEGATIVE_TIME.default} where a predictor reads a drawing, else 0.",
        metavar="S",
        rich_help_panel=GUIDANCE,
    ),
]

StepsOption = Annotated[
    int | None,
    typer.Option(
        help=f"Steps of the solver: {STEPS}. More take longer.",
        metavar="N",
        rich_help_panel=SAMPLING,
    ),
]

SeedOption = Annotated[
    int | None,
    typer.Option(
        help=f"Seed of the first picture: {SEED.low} to {SEED.high}, default random. The next ones count up. "
        "The same seed is the same picture.",
        metavar="N",
        rich_help_panel=SAMPLING,
    ),
]

SizeOption = Annotated[
    str | None,
    typer.Option(
        help="Width and height in pixels, each 16 to 4096, in steps that depend on the model. "
        "Default: the model's own; of a picture that is changed or translated, near its aspect.",
        metavar="WxH",
        rich_help_panel=SAMPLING,
    ),
]

SolverOption = Annotated[
    str | None,
    typer.Option(
        help="ddim, ddpm, euler, euler-ancestral, euler-karras, dpm++2m, dpm++2m-karras, or lcm for models distilled "
        "for it. "
        "Default: the model's own, or ddim where that is none of these.",
        metavar="NAME",
        rich_help_panel=SAMPLING,
    ),
]

ModelOption = Annotated[
    str | None,
    typer.Option(
        help="A model that is shipped (see `sketchguide models`), a diffusers folder, a checkpoint of one file or a "
        f"hub id. Default {MODEL}.",
        metavar="NAME|PATH|HUB_ID",
        rich_help_panel=MODELS,
    ),
]

LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A LoRA on top of the model: a folder that `sketchguide finetune` wrote, a .safetensors file (of "
        "diffusers, kohya's scripts or ComfyUI), or a hub id. Several: give it again.",
        metavar="PATH|HUB_ID",
        rich_help_panel=MODELS,
    ),
]

SketchLossOption = Annotated[
    float | None,
    typer.Option(
        help="How hard DiffSketching's loss pulls: it turns the predicted picture into a drawing and compares that "
        f"with yours. {SKETCH_LOSS}. Alone with --strength 0.",
        metavar="B",
        rich_help_panel=GUIDANCE,
    ),
]

SketcherOption = Annotated[
    str | None,
    typer.Option(
        help="What draws for it: a folder or file that `sketchguide component sketcher` wrote. Default: one that comes "
        "with the package, if any does.",
        metavar="PATH",
        rich_help_panel=GUIDANCE,
    ),
]

DrawingFeaturesOption = Annotated[
    str | None,
    typer.Option(
        help="What compares the drawings: a folder or file of `sketchguide component drawing-classifier`, or a network "
        "as in `sketchguide finetune`. Default: one that comes with the package, if any does.",
        metavar="NAME",
        rich_help_panel=GUIDANCE,
    ),
]

LikeOption = Annotated[
    Path | None,
    typer.Option(
        help="A picture whose thing --sketch-loss is to keep as well.",
        metavar="FILE",
        rich_help_panel=GUIDANCE,
    ),
]

IdentityOption = Annotated[
    float | None,
    typer.Option(
        help=f"Share of the loss that keeps the thing in --like; the rest keeps to the drawing. {IDENTITY}.",
        metavar="F",
        rich_help_panel=GUIDANCE,
    ),
]

PictureFeaturesOption = Annotated[
    str | None,
    typer.Option(
        help="What compares the pictures: a folder or file of `sketchguide component classifier`, or a network as in "
        "`sketchguide finetune`. Default: one that comes with the package, if any does.",
        metavar="NAME",
        rich_help_panel=GUIDANCE,
    ),
]

LoraScaleOption = Annotated[
    list[float] | None,
    typer.Option(
        help=f"How much of the LoRA: {LORA_SCALE}. 0 is the model as it was. Of several: once for all, or for each.",
        metavar="R",
        rich_help_panel=MODELS,
    ),
]

DeviceOption = Annotated[
    str | None,
    typer.Option(
        help="Default auto (CUDA, else MPS, else the CPU); cpu, cuda, cuda:1, mps, …",
        metavar="NAME",
        rich_help_panel=MODELS,
    ),
]

DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="Default auto (float32 on the CPU, else bfloat16); float32, bfloat16 or float16.",
        metavar="NAME",
        rich_help_panel=MODELS,
    ),
]

ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint in DIR.", rich_help_panel=OUTPUT)
]

FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Start again and replace what is in DIR.", rich_help_panel=OUTPUT)
]

MinutesOption = Annotated[
    float | None,
    typer.Option(
        help="Make fewer steps, if need be, to train no longer than this. Default: no limit.",
        metavar="M",
        rich_help_panel=TRAINING,
    ),
]

TrainDeviceOption = Annotated[
    str,
    typer.Option(
        help="auto (CUDA, else MPS, else the CPU); cpu, cuda, cuda:1, mps, …", metavar="NAME", rich_help_panel=MODELS
    ),
]

# What describes a picture in every command that makes some: a field of the request each, by its name.
REQUEST: dict[str, Any] = {
    "negative": NegativeOption,
    "count": CountOption,
    "strength": StrengthOption,
    "stop": StopOption,
    "every": EveryOption,
    "even": EvenOption,
    "blank": BlankOption,
    "widen": WidenOption,
    "handover": HandoverOption,
    "predictor": PredictorOption,
    "attention": AttentionOption,
    "attention_scale": AttentionScaleOption,
    "controlnet": ControlNetOption,
    "controlnet_scale": AdapterScaleOption,
    "controlnet_start": AdapterStartOption,
    "controlnet_end": AdapterEndOption,
    "controlnet_mode": ControlNetModeOption,
    "t2i_adapter": T2IAdapterOption,
    "t2i_adapter_scale": AdapterScaleOption,
    "t2i_adapter_start": AdapterStartOption,
    "t2i_adapter_end": AdapterEndOption,
    "class_name": ClassOption,
    "class_scale": ClassScaleOption,
    "classifier": ClassifierOption,
    "sketch_loss": SketchLossOption,
    "sketcher": SketcherOption,
    "drawing_features": DrawingFeaturesOption,
    "like": LikeOption,
    "identity": IdentityOption,
    "picture_features": PictureFeaturesOption,
    "tries": TriesOption,
    "sure": SureOption,
    "recogniser": RecogniserOption,
    "scale": ScaleOption,
    "negative_time": NegativeTimeOption,
    "steps": StepsOption,
    "seed": SeedOption,
    "size": SizeOption,
    "solver": SolverOption,
    "model": ModelOption,
    "lora": LoraOption,
    "lora_scale": LoraScaleOption,
    "device": DeviceOption,
    "dtype": DtypeOption,
}


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Of a command: its `**options` become these options of REQUEST, all of them where none is named, each None where
    it is not given."""

    def wrapped(command: Callable[..., None]) -> Callable[..., None]:
        kind = inspect.Parameter.KEYWORD_ONLY
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        shared = [
            inspect.Parameter(name, kind, default=None, annotation=REQUEST[name]) for name in names or tuple(REQUEST)
        ]
        signature = inspect.Signature([*(one.replace(kind=kind) for one in own), *shared])
        command.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        return command

    return wrapped


def given(*, like: Path | None = None, size: str | None = None, **options: Any) -> dict[str, Any]:
    """The options that were given, as fields of a Request."""
    values = {name: value for name, value in options.items() if value is not None}
    if like is not None:
        from sketchguide.images import carried

        values["like"] = carried(like, field="like")
    if size is not None:
        values["size"] = parse_size(size)
    return values


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of a text such as 512x768."""
    found = re.fullmatch(r"(\d{1,6})[x×](\d{1,6})", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        raise UsageError(
            f"size is {text!r}; it must be width x height in pixels.", hint="For example --size 512x768.", field="size"
        )
    return int(found[1]), int(found[2])
