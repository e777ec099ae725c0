"""A backbone around a backbone: the same network, told more. ControlNet and T2I-Adapter, as diffusers has them, and
sketch attention.

All add tensors to what the network computes, everywhere at once; taps, latents and levels stay those of the network,
so guides, injections and classifier-free guidance act on the result as on any backbone. A wrapped backbone can be
wrapped again: what is added sums up.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from sketchguide.attention import SketchAttention
from sketchguide.backbones.base import Backbone, Condition
from sketchguide.backbones.unet import arguments
from sketchguide.errors import MismatchError, UsageError
from sketchguide.levels import Level, Prediction, PredictionKind, Window, check_window, is_open
from sketchguide.solvers import SolverChoice
from sketchguide.taps import TapInfo, tapped

# What diffusers' UNet2DConditionModel calls that which is added to it.
_SKIPS = "down_block_additional_residuals"
_MIDDLE = "mid_block_additional_residual"
_BLOCKS = "down_intrablock_additional_residuals"


def with_controlnet(
    backbone: Backbone,
    controlnet: nn.Module,
    image: Tensor,
    *,
    scale: float = 1.0,
    window: Window = (0, 1),
) -> ControlNetBackbone:
    """`backbone`, told what a diffusers `ControlNetModel` makes of `image` (Zhang et al. 2023, 2302.05543).

    `image` (B or 1, C, H, W), in [0, 1] as in diffusers' pipelines, has the size of the picture to be made. What is
    added is multiplied by `scale` (at 0 nothing is) and only at levels whose progress lies in `window`. The ControlNet
    is put into eval mode and frozen. It stays on its device, which must be the backbone's.

    Raises MismatchError for one made for another network, UsageError for an image or setting that cannot be used.
    """
    _check_is("ControlNetModel", controlnet, "with_controlnet")
    return ControlNetBackbone(backbone, controlnet.eval().requires_grad_(False), image, scale, window)


def with_t2i_adapter(
    backbone: Backbone, adapter: nn.Module, image: Tensor, *, scale: float = 1.0, window: Window = (0, 1)
) -> T2IAdapterBackbone:
    """`backbone`, told what a diffusers `T2IAdapter` makes of `image` (Mou et al. 2023, 2302.08453).

    Everything else is as in `with_controlnet`. The adapter looks at the image once, here, and not at every step.
    """
    _check_is("T2IAdapter", adapter, "with_t2i_adapter")
    return T2IAdapterBackbone(backbone, adapter.eval().requires_grad_(False), image, scale, window)


def _check_is(kind: str, control: nn.Module, wrap: str) -> None:
    """MismatchError unless it is one of diffusers' `kind`, or one that torch compiled."""
    plain: nn.Module = getattr(control, "_orig_mod", control)
    if not isinstance(plain, getattr(diffusers, kind)):
        raise MismatchError(
            f"This is a {type(plain).__name__}; {wrap} takes a {kind}.",
            hint=f"Several act together by {wrap} of what {wrap} gives.",
            field="adapter" if kind == "T2IAdapter" else "controlnet",
        )


def with_sketch_attention(
    backbone: Backbone, attention: SketchAttention, ink: Tensor, *, scale: float = 1.0, window: Window = (0, 1)
) -> SketchAttentionBackbone:
    """`backbone`, whose self-attention sees the tokens of a drawing too (DiffSketching, 2305.18812).

    `ink` (B or 1, 1, H, W) in [0, 1], ink 1. Everything else is as in `with_controlnet`. The drawing is looked at once.
    """
    return SketchAttentionBackbone(backbone, attention.eval().requires_grad_(False), ink, scale, window)


@dataclass(frozen=True, eq=False)
class Told(ABC):
    """`inner`, whose network gets more arguments. `replace(told, image=…)` tells it of another image."""

    inner: Backbone
    control: Any  # the network that looks at the image
    image: Tensor
    scale: float = 1.0
    window: Window = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.inner.family != "unet":
            raise MismatchError(
                f"{type(self.control).__name__} is for UNets and does not fit {self.inner.name!r} "
                f"({self.inner.family}).",
                field="model",
            )
        if not math.isfinite(self.scale):
            raise UsageError(f"scale is {self.scale}; it must be a number, usually 0 to 2.", field="scale")
        check_window(self.window)
        if self.image.ndim != 4 or not self.image.is_floating_point():
            raise UsageError(
                f"An image of shape {tuple(self.image.shape)}, {self.image.dtype}, was given; (B, C, H, W) floats are "
                "needed.",
                field="image",
            )
        if bool((self.image.amin() < 0) | (self.image.amax() > 1)):
            low, high = float(self.image.amin()), float(self.image.amax())
            raise UsageError(
                f"The image has values from {low:g} to {high:g}; they must lie in 0..1.",
                hint="Pictures in [-1, 1] become (picture + 1) / 2.",
                field="image",
            )
        wrong = [side for side in self.image.shape[-2:] if side % self.inner.multiple]
        if wrong:
            raise UsageError(
                f"The image is {self.image.shape[-1]}x{self.image.shape[-2]}; {self.inner.name} needs multiples of "
                f"{self.inner.multiple} pixels.",
                field="image",
            )
        object.__setattr__(self, "image", self.image.to(self.inner.device, self.control.dtype))
        self._check_fits()

    @abstractmethod
    def _check_fits(self) -> None:
        """MismatchError, naming both, unless the control was made for this network."""

    def _added(self, latent: Tensor, times: Tensor, condition: Condition) -> Mapping[str, Any]:
        """What the network's `forward` is given besides: tensors, and lists of them."""
        del latent, times, condition
        return {}

    @contextmanager
    def _telling(self, latent: Tensor, times: Tensor, condition: Condition) -> Generator[Condition]:
        """Within the block, one pass of the network under the condition that is yielded is told of the image."""
        if self.scale == 0:
            yield condition
            return
        stride = self.inner.stride
        size = (self.image.shape[-2] // stride, self.image.shape[-1] // stride)
        if size != latent.shape[-2:]:
            raise UsageError(
                f"The image is {self.image.shape[-1]}x{self.image.shape[-2]}, the picture "
                f"{latent.shape[-1] * stride}x{latent.shape[-2] * stride}.",
                hint="Resize the image to the size of the picture.",
                field="image",
            )
        if len(self.image) not in (1, len(latent)):
            raise UsageError(f"{len(self.image)} images for {len(latent)} pictures.", field="image")
        extras = dict(condition.extras)
        for name, value in self._added(latent, times, condition).items():
            before: Any = extras.get(name)
            if before is None:
                extras[name] = value
            elif isinstance(value, list):
                pairs: Any = zip_longest(before, value, fillvalue=0)
                extras[name] = [one + other for one, other in pairs]
            else:
                extras[name] = before + value
        yield replace(condition, extras=extras)

    def predict(self, latent: Tensor, level: Level, condition: Condition) -> Prediction:
        if not is_open(self.window, level):
            return self.inner.predict(latent, level, condition)
        with self._telling(latent, torch.tensor([level.time], device=latent.device), condition) as told:
            return self.inner.predict(latent, level, told)

    def run(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """As `Backbone.run`; times are not progress, so the window is taken as open."""
        with self._telling(latent, times, condition) as told:
            return self.inner.run(latent, times, told)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def family(self) -> str:
        return self.inner.family

    @property
    def network(self) -> nn.Module:
        return self.inner.network

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        inner = self.inner.networks
        return {**inner, f"control {len(inner)}": self.control}

    @property
    def taps(self) -> Sequence[TapInfo]:
        return self.inner.taps

    @property
    def device(self) -> torch.device:
        return self.inner.device

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    @property
    def latent_channels(self) -> int:
        return self.inner.latent_channels

    @property
    def stride(self) -> int:
        return self.inner.stride

    @property
    def multiple(self) -> int:
        return self.inner.multiple

    @property
    def prediction_kind(self) -> PredictionKind:
        return self.inner.prediction_kind

    @property
    def default_size(self) -> tuple[int, int]:
        return self.inner.default_size

    @property
    def solvers(self) -> Mapping[str, SolverChoice]:
        return self.inner.solvers

    def levels(self, steps: int, solver: str | None = None) -> list[Level]:
        return self.inner.levels(steps, solver)

    def level(self, progress: float) -> Level:
        return self.inner.level(progress)

    def describe(self, prompts: Sequence[str]) -> Condition:
        return self.inner.describe(prompts)

    def encode(self, images: Tensor) -> Tensor:
        return self.inner.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.inner.decode(latents)


class ControlNetBackbone(Told):
    """Made by `with_controlnet`: a copy of the encoder reads latent, prompt and image; its outputs join the skips."""

    def _check_fits(self) -> None:
        ours, theirs = self.control.config, _config(self.inner)
        if ours.get("global_pool_conditions"):
            raise MismatchError(
                "This ControlNet pools what it sees over the whole picture (global_pool_conditions), which is not "
                "supported.",
                hint="Use one that reads lines, poses, depth or the like.",
                field="controlnet",
            )
        for key in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
            if _plain(ours[key]) != _plain(theirs.get(key)):
                raise MismatchError(
                    f"This ControlNet has {key} {_plain(ours[key])} and does not fit {self.inner.name!r}, which has "
                    f"{_plain(theirs.get(key))}.",
                    hint="Use one made for this model: `ControlNetModel.from_unet`, then train it.",
                    field="controlnet",
                )
        stride = 2 ** (len(ours["conditioning_embedding_out_channels"]) - 1)
        if stride != self.inner.stride:
            raise MismatchError(
                f"This ControlNet shrinks its image by {stride} and does not fit {self.inner.name!r}, whose latents "
                f"are smaller than pictures by {self.inner.stride}.",
                hint="`conditioning_embedding_out_channels` has one entry more than there are halvings.",
                field="controlnet",
            )
        if self.image.shape[1] != ours["conditioning_channels"]:
            raise UsageError(
                f"The image has {self.image.shape[1]} channels; this ControlNet takes {ours['conditioning_channels']}.",
                field="image",
            )

    def _added(self, latent: Tensor, times: Tensor, condition: Condition) -> Mapping[str, Any]:
        dtype: torch.dtype = self.control.dtype
        shared = {k: v for k, v in condition.extras.items() if k not in (_SKIPS, _MIDDLE, _BLOCKS)}
        skips, middle = self.control(
            latent.to(dtype),
            times,
            controlnet_cond=self.image,
            conditioning_scale=self.scale,
            **arguments(replace(condition, extras=shared), latent, stride=self.inner.stride, dtype=dtype),
            return_dict=False,
        )
        return {_SKIPS: [skip.to(self.dtype) for skip in skips], _MIDDLE: middle.to(self.dtype)}


@dataclass(frozen=True, eq=False)
class T2IAdapterBackbone(Told):
    """Made by `with_t2i_adapter`: a small network reads the image alone; its outputs join those of the down blocks."""

    features: tuple[Tensor, ...] = field(init=False)  # (B or 1, C, h, w) each: per down block, perhaps for the middle

    def _check_fits(self) -> None:
        adapter: Any = self.control
        channels = adapter.config.in_channels
        if self.image.shape[1] != channels:
            raise UsageError(
                f"The image has {self.image.shape[1]} channels; this T2I-Adapter takes {channels}.", field="image"
            )
        places = _places(self.inner.network, [side // self.inner.stride for side in self.image.shape[-2:]])
        divisible = not any(side % adapter.downscale_factor for side in self.image.shape[-2:])
        object.__setattr__(self, "features", tuple(adapter(self.image)) if divisible else ())
        made = [tuple(feature.shape[1:]) for feature in self.features]
        if len(made) < len(places) - 1 or made != places[: len(made)]:
            raise MismatchError(
                f"This T2I-Adapter ({adapter.config.adapter_type}, channels {_plain(adapter.config.channels)}, "
                f"downscale_factor {adapter.downscale_factor}) makes features of {_sizes(made)} and does not fit "
                f"{self.inner.name!r}, which takes {_sizes(places)}, the last of them or not.",
                hint="Use one made for this model. `full_adapter_xl` is for networks whose first block has no "
                "attention, `full_adapter` for those where all but the last have.",
                field="adapter",
            )

    def _added(self, latent: Tensor, times: Tensor, condition: Condition) -> Mapping[str, Any]:
        del times, condition
        # The network leaves out a middle feature that has not one row per picture, and takes the list apart.
        rows = (len(latent), -1, -1, -1)
        return {_BLOCKS: [(self.scale * feature).to(self.dtype).expand(rows) for feature in self.features]}


@dataclass(frozen=True, eq=False)
class SketchAttentionBackbone(Told):
    """Made by `with_sketch_attention`: heads beside the self-attention look at picture and drawing."""

    tokens: Mapping[int, Tensor] = field(init=False)  # stride -> (B or 1, D, h, w)

    def _check_fits(self) -> None:
        config = self.control.config
        ours = {tap.path: (tap.channels, tap.stride) for tap in self.inner.taps}
        for path, channels, stride in zip(config.paths, config.channels, config.strides, strict=True):
            if ours.get(path) != (channels, stride):
                raise MismatchError(
                    f"This sketch attention was made for {config.backbone!r}, where {path!r} has {channels} channels "
                    f"at stride {stride}, and does not fit {self.inner.name!r}.",
                    hint="Train one for this model: sketchguide component sketch-attention.",
                    field="attention",
                )
        if config.pixels != self.inner.stride:
            raise MismatchError(
                f"This sketch attention is for latents smaller than pictures by {config.pixels} and does not fit "
                f"{self.inner.name!r}, whose are by {self.inner.stride}.",
                field="attention",
            )
        if self.image.shape[1] != 1:
            raise UsageError(
                f"The image has {self.image.shape[1]} channels; sketch attention takes 1, the ink.", field="image"
            )
        object.__setattr__(self, "tokens", self.control.encode(self.image))

    @contextmanager
    def _telling(self, latent: Tensor, times: Tensor, condition: Condition) -> Generator[Condition]:
        rewrites = self.control.rewrites(self.tokens, scale=self.scale) if self.scale else {}
        with super()._telling(latent, times, condition) as told, tapped(self.network, (), rewrites):
            yield told


def _config(backbone: Backbone) -> Mapping[str, Any]:
    return getattr(backbone.network, "config", {})


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has made lists of tuples


def _sizes(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes) or "no size (the image does not divide)"


def _places(network: Any, size: Sequence[int]) -> list[tuple[int, ...]]:
    """Where a UNet on latents of `size` (h, w) takes features (channels, h, w): in every down block, then the middle.

    Blocks with attention take them before they shrink, others after (diffusers, `UNet2DConditionModel.forward`).
    """
    places: list[tuple[int, ...]] = []
    channels = 0
    for block, channels in zip(network.down_blocks, network.config.block_out_channels, strict=True):
        before = getattr(block, "has_cross_attention", False)
        if before:
            places.append((channels, *size))
        if block.downsamplers is not None:
            size = [-(-side // 2) for side in size]
        if not before:
            places.append((channels, *size))
    return [*places, (channels, *size)]
