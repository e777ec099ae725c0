"""The one description of a picture to make: for the library, the command line and the text inside every PNG."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sketchguide.defaults import (
    ALPHA,
    AMOUNT,
    ATTENTION_SCALE,
    BLANK,
    CLASS_SCALE,
    COUNT,
    EVERY,
    HANDOVER,
    LORA_SCALE,
    MARGIN,
    MODEL,
    NEAR,
    RECURRENCE,
    SCALE,
    SEED,
    SHARE,
    SKETCH_LOSS,
    STEPS,
    STOP,
    STRENGTH,
    TAU_A,
    TAU_F,
    Branches,
    Decay,
    SourceKind,
    Start,
)
from sketchguide.errors import UsageError

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Checked(BaseModel):
    """Validation refuses unknown fields, NaN and control characters; `checked` words it for people."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("prompt", "negative", "source_prompt", check_fields=False)
    @classmethod
    def _printable(cls, text: str) -> str:
        if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n" for c in text):
            raise ValueError("contains control characters or broken Unicode")
        return " ".join(text.split())

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """The values themselves, or a UsageError that says in one sentence what was given and what is allowed."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
            if not name:
                raise UsageError(f"{reason[0].upper()}{reason[1:]}.") from error
            given = repr(first["input"])
            given = given if len(given) <= 60 else given[:57] + "…"
            raise UsageError(f"{name} is {given}: it {_worded(reason)}.", field=name) from error


class LayoutSettings(Checked):
    """How a picture keeps the layout of another one: Plug-and-Play (Tumanyan et al. 2023, 2211.12572)."""

    source: SourceKind = Field(
        default="inverted", description="its latents: walked up by DDIM inversion, or noised afresh (Ctrl-X)"
    )
    source_prompt: str = Field(default="", max_length=10_000, description="what the source shows, as far as known")
    start: Start | None = Field(
        default=None, description="begin with the source's noise or the seed's; none: an inverted one with its own"
    )
    tau_f: Finite = Field(
        default=TAU_F.default, ge=TAU_F.low, le=TAU_F.high, description="part of the steps that borrow features f"
    )
    tau_a: Finite = Field(
        default=TAU_A.default, ge=TAU_A.low, le=TAU_A.high, description="part that borrows queries and keys"
    )
    features: tuple[str, ...] | None = Field(
        default=None, description="taps that are borrowed as f, also one text with + between them; none: the published"
    )
    share: Finite = Field(
        default=SHARE.default, ge=SHARE.low, le=SHARE.high, description="how much is the source's; the rest its own"
    )
    branches: Branches = Field(default="both", description="whether the negative pass of guidance borrows too")
    near: Finite = Field(
        default=NEAR.default,
        ge=NEAR.low,
        le=NEAR.high,
        description="borrow only so near to strokes, as part of the longer side; 0: everywhere",
    )
    decay: Decay | None = Field(
        default=None,
        description="how guidance turns to moving away from the source prompt; none: it does not",
    )
    alpha: Finite = Field(
        default=ALPHA.default, ge=ALPHA.low, le=ALPHA.high, description="share of the plain negative prompt at first"
    )
    recurrence: int = Field(
        default=RECURRENCE.default,
        ge=RECURRENCE.low,
        le=RECURRENCE.high,
        description="how often steps of the first half are taken again without the source",
    )

    @field_validator("features", mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        return given.split("+") if isinstance(given, str) else given

    @property
    def starts_from(self) -> Start:
        return self.start or ("source" if self.source == "inverted" else "noise")


class Layout(LayoutSettings):
    """A picture whose layout is kept, and how."""

    picture: str = Field(description="PNG in base64, at the size of the pictures to make")
    drawn: bool = Field(default=False, description="it is a drawing: dark ink on white paper")


class EditSettings(Checked):
    """How much of a picture changes, and where."""

    amount: Finite = Field(
        default=AMOUNT.default, ge=AMOUNT.low, le=AMOUNT.high, description="part of the steps that are walked again"
    )
    margin: Finite = Field(
        default=MARGIN.default,
        ge=MARGIN.low,
        le=MARGIN.high,
        description="only what is inside the drawing or so near to it changes, as part of the longer side; 1: all",
    )
    source: SourceKind = Field(
        default="noised", description="its latents: with the noise of the seed, or walked up by DDIM inversion"
    )
    source_prompt: str = Field(default="", max_length=10_000, description="what it shows, for the inversion")


class Edit(EditSettings):
    """A picture that is changed, and how."""

    picture: str = Field(description="PNG in base64, at the size of the pictures to make")


# Drawings have no texture that could help, and white paper that must not leak.
FOR_DRAWINGS: Mapping[str, Any] = MappingProxyType({"tau_f": 0.5, "tau_a": 0.5})


class Request(Checked):
    """What to make."""

    prompt: str = Field(max_length=10_000, description="what the picture shows")
    negative: str = Field(default="", max_length=10_000, description="what it should not show")
    sketch: dict[str, Any] | None = Field(default=None, description="the drawing, as Sketch.to_json() writes it")
    model: str = Field(default=MODEL, description="shipped name, diffusers folder or hub id")
    predictor: str | None = Field(default=None, description="shipped name, folder or hub id; none: the model's own")
    lora: str | None = Field(default=None, description="folder, file or hub id of a LoRA; none: the model as it is")
    lora_scale: Finite = Field(
        default=LORA_SCALE.default, ge=LORA_SCALE.low, le=LORA_SCALE.high, description="0 ignores the LoRA"
    )
    strength: Finite = Field(
        default=STRENGTH.default, ge=STRENGTH.low, le=STRENGTH.high, description="beta: how hard the drawing pulls"
    )
    stop: Finite = Field(
        default=STOP.default, ge=STOP.low, le=STOP.high, description="part of the steps after which it lets go"
    )
    every: int = Field(
        default=EVERY.default, ge=EVERY.low, le=EVERY.high, description="it pulls at every so many-th step"
    )
    blank: Finite = Field(
        default=BLANK.default, ge=BLANK.low, le=BLANK.high, description="how strongly blank paper binds; ink is 1"
    )
    handover: Finite | None = Field(
        default=None,
        ge=HANDOVER.low,
        le=HANDOVER.high,
        description="part of the steps after which the lines are read off the predicted picture, not the activations; "
        f"none: {HANDOVER.default} where the predictor can",
    )
    class_name: str | None = Field(default=None, description="a class that a noise-aware classifier pulls to")
    class_scale: Finite = Field(
        default=CLASS_SCALE.default, ge=CLASS_SCALE.low, le=CLASS_SCALE.high, description="how hard it pulls"
    )
    classifier: str | None = Field(default=None, description="folder or file of that classifier; none: a shipped one")
    sketch_loss: Finite = Field(
        default=SKETCH_LOSS.default,
        ge=SKETCH_LOSS.low,
        le=SKETCH_LOSS.high,
        description="how hard DiffSketching's sketch loss pulls, beside strength",
    )
    sketcher: str | None = Field(default=None, description="folder or file of its sketcher; none: a shipped one")
    drawing_features: str | None = Field(
        default=None, description="what it compares drawings by, as `load_features` names it; none: a shipped one"
    )
    steps: int = Field(default=STEPS.default, ge=STEPS.low, le=STEPS.high, description="network steps")
    scale: Finite = Field(
        default=SCALE.default, ge=SCALE.low, le=SCALE.high, description="classifier-free guidance; 1 switches it off"
    )
    seed: int = Field(ge=SEED.low, le=SEED.high, description="seed of the first picture; the next ones count up")
    count: int = Field(default=COUNT.default, ge=COUNT.low, le=COUNT.high, description="how many pictures")
    size: tuple[int, int] | None = Field(default=None, description="width and height in pixels; none: the model's own")
    solver: str | None = Field(default=None, description="none: the model's own, or ddim where it is none of ours")
    layout: Layout | None = Field(default=None, description="a picture whose layout is kept: `sketchguide translate`")
    edit: Edit | None = Field(default=None, description="a picture that is changed by the sketch: `sketchguide edit`")
    attention: str | None = Field(default=None, description="folder or file of sketch attention; none: without it")
    attention_scale: Finite = Field(
        default=ATTENTION_SCALE.default,
        ge=ATTENTION_SCALE.low,
        le=ATTENTION_SCALE.high,
        description="how much of what sketch attention adds; 0 ignores it",
    )
    device: str = Field(default="auto", max_length=64)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @field_validator("size")
    @classmethod
    def _sensible(cls, size: tuple[int, int] | None) -> tuple[int, int] | None:
        if size is not None and not all(16 <= side <= 4096 for side in size):
            raise ValueError("each side must lie in 16..4096 pixels")
        return size

    @model_validator(mode="after")
    def _seeds_fit(self) -> Request:
        if self.seed + self.count - 1 > SEED.high:
            raise ValueError(f"seed {self.seed} with count {self.count} counts beyond the last seed, {SEED.high}")
        return self

    @model_validator(mode="after")
    def _one_picture(self) -> Request:
        if self.edit is not None and (self.layout is not None or self.sketch is None):
            raise ValueError("an edit needs a sketch, and no layout beside it")
        return self


def _worded(reason: str) -> str:
    reason = reason[0].lower() + reason[1:]
    return reason if reason.startswith(("should", "contains", "must", "each")) else f"is not allowed ({reason})"
