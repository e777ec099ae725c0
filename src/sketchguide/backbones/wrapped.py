"""Backbones told of an image: by a ControlNet or a T2I-Adapter, as diffusers has them, or by sketch attention."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sketchguide.attention import SketchAttention
from sketchguide.backbones.base import Backbone, Condition
from sketchguide.backbones.controlnets import (
    BLOCKS,
    ControlNetBackbone,
    FluxControlNetBackbone,
    StreamControlNetBackbone,
)
from sketchguide.backbones.told import Told
from sketchguide.errors import MismatchError, UsageError
from sketchguide.images import as_picture, to_grey, to_tensor
from sketchguide.levels import Window
from sketchguide.sketch import Sketch, SpatialMap
from sketchguide.taps import tapped

Shown = Tensor | Image.Image | SpatialMap | str | Path

_KINDS: Mapping[str, type[Told]] = {
    "ControlNetModel": ControlNetBackbone,
    "SD3ControlNetModel": StreamControlNetBackbone,
    "FluxControlNetModel": FluxControlNetBackbone,
}
CONTROLNETS = {told.made_for: kind for kind, told in _KINDS.items()}  # diffusers' classes, by the family of a backbone


def with_controlnet(
    backbone: Backbone,
    controlnet: nn.Module,
    image: Shown,
    *,
    scale: float = 1.0,
    window: Window = (0, 1),
    mode: int | None = None,
) -> Told:
    """`backbone`, told what a ControlNet makes of `image` (Zhang et al. 2023, 2302.05543): of diffusers a
    `ControlNetModel`, `SD3ControlNetModel` or `FluxControlNetModel`.

    `image` has the size of the picture to be made: a tensor (B or 1, C, H, W) in [0, 1] as in diffusers' pipelines, a
    PIL picture or its file, or a `Sketch.rasterize`d drawing, which is shown white on black. What is added is
    multiplied by `scale` (at 0 nothing is) and only at levels whose progress lies in `window`. The ControlNet is put
    into eval mode and frozen. It stays on its device, which must be the backbone's. `mode` says what kind of image it
    is to one of Flux that knows several (Union).

    Raises MismatchError for one made for another network, UsageError for an image or setting that cannot be used.
    """
    kind = _check_is(_KINDS, controlnet, "with_controlnet")
    config: Any = controlnet.eval().requires_grad_(False).config
    image = _as_tensor(image, channels=config.get("conditioning_channels", 3))
    if kind == "FluxControlNetModel":
        return FluxControlNetBackbone(backbone, controlnet, image, scale, window, mode)
    if mode is not None:
        raise UsageError(f"mode is {mode}, but a {kind} knows one kind of image.", field="mode")
    return _KINDS[kind](backbone, controlnet, image, scale, window)


def with_t2i_adapter(
    backbone: Backbone, adapter: nn.Module, image: Shown, *, scale: float = 1.0, window: Window = (0, 1)
) -> T2IAdapterBackbone:
    """`backbone`, told what a diffusers `T2IAdapter` makes of `image` (Mou et al. 2023, 2302.08453).

    Everything else is as in `with_controlnet`. The adapter looks at the image once, here, and not at every step.
    """
    _check_is(["T2IAdapter"], adapter, "with_t2i_adapter")
    config: Any = adapter.eval().requires_grad_(False).config
    return T2IAdapterBackbone(backbone, adapter, _as_tensor(image, channels=config.in_channels), scale, window)


def _as_tensor(image: Shown, *, channels: int) -> Tensor:
    """(B, C, H, W); of a map or picture one image, grey where there is one channel."""
    if isinstance(image, SpatialMap):
        return torch.tensor(image.ink).expand(1, channels, -1, -1)
    if isinstance(image, Tensor):
        return image
    if isinstance(image, Sketch):
        raise UsageError("A Sketch has no size.", hint="Give sketch.rasterize(size=(width, height)).", field="image")
    rgb = as_picture(image)
    return torch.tensor(to_grey(rgb))[None, None] if channels == 1 else (to_tensor([rgb]) + 1) / 2


def _check_is(kinds: Collection[str], control: nn.Module, wrap: str) -> str:
    """Which of diffusers' classes it is an instance of, even where torch compiled it; MismatchError for none."""
    plain: nn.Module = getattr(control, "_orig_mod", control)
    for kind in kinds:
        if isinstance(plain, getattr(diffusers, kind)):
            return kind
    raise MismatchError(
        f"This is a {type(plain).__name__}; {wrap} takes a {' or '.join(kinds)}.",
        hint=f"Several act together by {wrap} of what {wrap} gives.",
        field="adapter" if "T2IAdapter" in kinds else "controlnet",
    )


def with_sketch_attention(
    backbone: Backbone, attention: SketchAttention, ink: Tensor, *, scale: float = 1.0, window: Window = (0, 1)
) -> SketchAttentionBackbone:
    """`backbone`, whose self-attention sees the tokens of a drawing too (DiffSketching, 2305.18812).

    `ink` (B or 1, 1, H, W) in [0, 1], ink 1; of pictures larger than those it learned from, yet from as large latents,
    it sees the mean. Everything else is as in `with_controlnet`. The drawing is looked at once.
    """
    return SketchAttentionBackbone(backbone, attention.eval().requires_grad_(False), ink, scale, window)


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
                f"This T2I-Adapter ({adapter.config.adapter_type}, channels {list(adapter.config.channels)}, "
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
        return {BLOCKS: [(self.scale * feature).expand(rows) for feature in self.features]}


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
        if self.inner.stride % config.pixels:
            raise MismatchError(
                f"This sketch attention is for latents smaller than pictures by {config.pixels} and does not fit "
                f"{self.inner.name!r}, whose are by {self.inner.stride}.",
                field="attention",
            )
        if self.image.shape[1] != 1:
            raise UsageError(
                f"The image has {self.image.shape[1]} channels; sketch attention takes 1, the ink.", field="image"
            )
        ink = F.avg_pool2d(self.image, self.inner.stride // config.pixels)
        object.__setattr__(self, "tokens", self.control.encode(ink))

    @contextmanager
    def _telling(self, latent: Tensor, times: Tensor, condition: Condition) -> Generator[Condition]:
        rewrites = self.control.rewrites(self.tokens, scale=self.scale) if self.scale else {}
        with super()._telling(latent, times, condition) as told, tapped(self.network, (), rewrites):
            yield told


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
