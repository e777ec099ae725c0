"""A backbone around a backbone: the same network, told more.

What is told adds tensors to what the network computes, everywhere at once; taps, latents and levels stay those of the
network, so guides, injections and classifier-free guidance act on the result as on any backbone. A wrapped backbone can
be wrapped again: what is added sums up.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, ClassVar

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn

from sketchguide.backbones.around import Around
from sketchguide.backbones.base import Condition
from sketchguide.backbones.pipeline import check_keeps_weights, is_same_device
from sketchguide.errors import MismatchError, UsageError
from sketchguide.levels import Level, Prediction, Window, check_one_or_each, check_window, is_open

_FAMILIES = {"unet": "UNets", "transformer": "Stable Diffusion 3's transformers", "flux": "Flux's transformers"}


@dataclass(frozen=True, eq=False)
class Told(Around, ABC):
    """`inner`, whose network gets more arguments. `replace(told, image=…)` tells it of another image."""

    control: Any  # the network that looks at the image
    image: Tensor
    scale: float = 1.0
    window: Window = (0.0, 1.0)
    made_for: ClassVar[str] = "unet"  # the family of networks that can be told so

    def __post_init__(self) -> None:
        if self.inner.family != self.made_for:
            raise MismatchError(
                f"{type(self.control).__name__} is for {_FAMILIES[self.made_for]} and does not fit "
                f"{self.inner.name!r} ({self.inner.family}).",
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
        own, device = get_module_execution_device(self.control), self.inner.device
        if not is_same_device(own, device):
            raise UsageError(
                f"The {type(self.control).__name__} is on {own}, the model computes on {device}.",
                hint=f"Move it there: .to({str(device)!r}).",
                field="model",
            )
        object.__setattr__(self, "image", self.image.to(self.inner.device, self.control.dtype))
        self._check_fits()

    @abstractmethod
    def _check_fits(self) -> None:
        """MismatchError, naming both, unless the control was made for this network."""

    def _added(self, latent: Tensor, times: Tensor, condition: Condition) -> Mapping[str, Any]:
        """What the network's `forward` is given besides: tensors, and lists of them, of any floating dtype."""
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
        check_keeps_weights(self.control, latent)
        check_one_or_each(self.image, latent, "images", field="image")
        added = self._added(latent, times, condition)
        if not added:
            yield condition
            return
        extras, dtype = dict(condition.extras), self.dtype
        for name, value in added.items():
            value = [one.to(dtype) for one in value] if isinstance(value, list) else value.to(dtype)
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
    def networks(self) -> Mapping[str, nn.Module]:
        inner = self.inner.networks
        return {**inner, f"control {len(inner)}": self.control}
