"""The one description of a picture to make: for the library, the command line and the text inside every PNG."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sketchguide.defaults import BLANK, COUNT, EVERY, LORA_SCALE, MODEL, SCALE, SEED, STEPS, STOP, STRENGTH
from sketchguide.errors import UsageError

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Request(BaseModel):
    """What to make. Validation refuses unknown fields, NaN and control characters; `checked` words it for people."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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
    steps: int = Field(default=STEPS.default, ge=STEPS.low, le=STEPS.high, description="network steps")
    scale: Finite = Field(
        default=SCALE.default, ge=SCALE.low, le=SCALE.high, description="classifier-free guidance; 1 switches it off"
    )
    seed: int = Field(ge=SEED.low, le=SEED.high, description="seed of the first picture; the next ones count up")
    count: int = Field(default=COUNT.default, ge=COUNT.low, le=COUNT.high, description="how many pictures")
    size: tuple[int, int] | None = Field(default=None, description="width and height in pixels; none: the model's own")
    solver: str | None = Field(default=None, description="none: the model's own")
    device: str = Field(default="auto", max_length=64)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @field_validator("prompt", "negative")
    @classmethod
    def _printable(cls, text: str) -> str:
        if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n" for c in text):
            raise ValueError("contains control characters or broken Unicode")
        return " ".join(text.split())

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

    @classmethod
    def checked(cls, **values: Any) -> Request:
        """A Request, or a UsageError that says in one sentence what was given and what is allowed."""
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


def _worded(reason: str) -> str:
    reason = reason[0].lower() + reason[1:]
    return reason if reason.startswith(("should", "contains", "must", "each")) else f"is not allowed ({reason})"
