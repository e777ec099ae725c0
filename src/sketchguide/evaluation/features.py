"""What a network that no generator was trained with sees in a picture.

Realism and likeness are measured on such features. The weights of `SqueezeNet` are not part of the package:
`load_squeezenet` is given the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sketchguide.perception import Features, load_features

BATCH = 32  # pictures that it sees at once, however many there are


class Look(NamedTuple):
    """What one pass over a batch of pictures tells."""

    stages: tuple[Tensor, ...]  # four, (B, C, h, w)
    places: Tensor  # (B, N, C)
    embedding: Tensor  # (B, D)


@dataclass(frozen=True)
class SqueezeNet:
    """SqueezeNet 1.0 (Iandola et al., arXiv 1602.07360) trained on ImageNet, without its classifier.

    Images (B, 3, H, W) in [-1, 1], H, W >= 16, are resized until their shorter side has 224 pixels, as in training.
    No gradient is kept. The heads that LPIPS ships for "squeeze" belong to SqueezeNet 1.1 and do not fit.
    """

    features: Features

    @torch.no_grad()
    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """Four maps of features >= 0; of a square picture (B, 96, 109, 109), (B, 256, 54, 54), (B, 512, 27, 27) and
        (B, 512, 13, 13)."""
        return self.features(images)

    def places(self, images: Tensor) -> Tensor:
        """The third stage, (B, 27 * 27, 512) of a square picture; row by row."""
        return _vectors(self.stages(images)[2])

    def embedding(self, images: Tensor) -> Tensor:
        """The direction of the mean of the last stage over the picture: (B, 512) of length sqrt(512), all >= 0.

        Any number of images: they pass in parts. Lengths differ threefold between icons, and under the cubic kernel of
        `realism.kid` a few long ones would decide; so the kernel sees (cosine + 1)^3, and the distance is below 7.
        """
        return torch.cat([_direction(self.stages(part)[-1]) for part in images.split(BATCH)])

    def look(self, images: Tensor) -> Look:
        """`stages`, `places` and `embedding`, from one pass."""
        stages = self.stages(images)
        return Look(stages, _vectors(stages[2]), _direction(stages[-1]))


def _vectors(stage: Tensor) -> Tensor:
    return stage.flatten(2).mT


def _direction(stage: Tensor) -> Tensor:
    unit = F.normalize(stage.mean(dim=(2, 3)))
    return unit * unit.shape[1] ** 0.5


def load_squeezenet(path: Path) -> SqueezeNet:
    """The network with the weights of a safetensors file that holds torchvision's `squeezenet1_0` tensors, on the CPU.

    Raises `WeightsError` where the file is missing, damaged, not finite, or of another network.
    """
    return SqueezeNet(load_features(f"torchvision:squeezenet1_0={path}"))
