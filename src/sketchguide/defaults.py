"""The default and the allowed range of every setting: for requests, training and help texts, free of heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

from sketchguide.errors import UsageError

Number = TypeVar("Number", int, float)

Branches = Literal["both", "conditional"]  # of classifier-free guidance
Decay = Literal["linear", "constant", "exponential"]
SourceKind = Literal["inverted", "noised", "generated"]
Start = Literal["source", "noise"]
Polarity = Literal["auto", "dark-on-light", "light-on-dark"]
DType = Literal["auto", "float32", "bfloat16", "float16"]


class Setting(NamedTuple, Generic[Number]):
    """A number that people choose; `low` and `high` are allowed themselves."""

    default: Number
    low: Number
    high: Number

    def __str__(self) -> str:
        return f"{self.low} to {self.high}, default {self.default}"


def find_dtype(name: str) -> DType:
    """The DType called `name`; UsageError where there is none."""
    known: tuple[DType, ...] = get_args(DType)
    for dtype in known:
        if dtype == name:
            return dtype
    raise UsageError(f"dtype is {name!r}; it must be {', '.join(known[:-1])} or {known[-1]}.", field="dtype")


MODEL = "icons-128"

STRENGTH = Setting[float](2.3, 0, 20)  # where the drawing pulls as often as EVERY.default
EVEN = Setting[float](0.0, 0, 1)
BLANK = Setting[float](0.5, 0, 1)
WIDEN = Setting[float](1.5, 1, 8)
STOP = Setting[float](0.85, 0, 1)
HANDOVER = Setting[float](0.4, 0, 1)
EVERY = Setting[int](2, 1, 100)
FEW_STEPS = 15  # up to which a drawing pulls at every one
SOFT_STEPS = 12  # below which it pulls the softer the fewer there are
STEPS = Setting[int](30, 1, 1000)
SCALE = Setting[float](4.0, 0, 50)
NEGATIVE_TIME = Setting[float](0.3, 0, 4)
SEED = Setting[int](0, 0, 2**32 - 1)
LORA_SCALE = Setting[float](1.0, -4, 4)
COUNT = Setting[int](1, 1, 256)
TRIES = Setting[int](1, 1, 20)
SURE = Setting[float](0.75, 0, 1)

# settings of a request that go together where a recogniser looks at what follows a drawing, and none of them is given
RECOGNISED: Mapping[str, Any] = MappingProxyType(
    {"steps": 20, "solver": "euler-karras", "every": 1, "strength": 1.2, "tries": 5}
)

# settings of a request on which it depends whether those are taken
DECIDING = (
    "prompt",
    "sketch",
    "model",
    "lora",
    "class_name",
    "sketch_loss",
    "attention",
    "controlnet",
    "t2i_adapter",
    "recogniser",
)

# settings of a request that act where LGP pulls, and nowhere else
PULLING = ("strength", "stop", "every", "even", "blank", "widen", "handover")

# settings of a request that act on the pictures between two
INTERPOLATING = (
    "seed",
    "negative",
    *PULLING,
    "steps",
    "scale",
    "negative_time",
    "size",
    "model",
    "lora",
    "lora_scale",
    "device",
    "dtype",
)

TAU_F = Setting[float](0.8, 0, 1)
TAU_A = Setting[float](0.5, 0, 1)
SHARE = Setting[float](1.0, 0, 1)
NEAR = Setting[float](0.0, 0, 0.5)
ALPHA = Setting[float](1.0, 0, 1)
RECURRENCE = Setting[int](0, 0, 10)

AMOUNT = Setting[float](0.8, 0.01, 1)
MARGIN = Setting[float](0.1, 0, 1)
MAX_PADDING = 8192  # pixels around what an edit crops to: the longest side of a picture
ATTENTION_SCALE = Setting[float](1.0, 0, 4)
ADAPTER_SCALE = Setting[float](1.0, 0, 4)
ADAPTER_START = Setting[float](0.0, 0, 1)
ADAPTER_END = Setting[float](1.0, 0, 1)
MOST_MODES = 1000  # kinds of images that a ControlNet knows: far more than any does
CLASS_SCALE = Setting[float](2.0, 0, 100)
SKETCH_LOSS = Setting[float](0.0, 0, 20)
IDENTITY = Setting[float](0.4, 0, 1)

TRAINING_STEPS = Setting[int](300, 1, 10**6)
TRAINING_BATCH = Setting[int](32, 2, 1024)
TRAINING_RATE = Setting[float](2e-3, 1e-7, 1)

SYNONYMS: Mapping[str, str] = MappingProxyType(  # what others call settings and options, and what we do
    {
        "beta": "strength",
        "num_inference_steps": "steps",
        "control_guidance_start": "controlnet_start",
        "control_guidance_end": "controlnet_end",
        "mask_image": "mask",
        "fps": "rate",
        **dict.fromkeys(("neg", "negative_prompt"), "negative"),
        **dict.fromkeys(("checkpoint", "ckpt", "base_model"), "model"),
        **dict.fromkeys(("cfg", "cfg_scale", "guidance", "guidance_scale"), "scale"),
        **dict.fromkeys(("resolution", "width", "height"), "size"),
        **dict.fromkeys(("n", "num", "number", "n_iter", "batch_count", "batch_size"), "count"),
        "num_images_per_prompt": "count",
        "generator": "seed",
        **dict.fromkeys(("scheduler", "sampler"), "solver"),
        **dict.fromkeys(("denoise", "denoising", "denoising_strength"), "amount"),
        **dict.fromkeys(("control_weight", "controlnet_conditioning_scale"), "controlnet_scale"),
        **dict.fromkeys(("lora_weight", "lora_strength"), "lora_scale"),
        **dict.fromkeys(("only_masked", "inpaint_only_masked", "only_masked_padding"), "padding_mask_crop"),
    }
)
