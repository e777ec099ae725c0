"""What a network that no generator was trained with sees in a picture.

Realism and likeness are measured on such features. `SqueezeNet` is one source of them, and its weights are not part of
the package: `load_squeezenet` is given the file. The metrics take any function of the same shape in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import squeezenet

from sketchguide.errors import WeightsError
from sketchguide.extractors import check_images
from sketchguide.weights import read_weights

Stages = Callable[[Tensor], Sequence[Tensor]]
"""Images (B, 3, H, W) in [-1, 1] to feature maps (B, C, h, w), from fine to coarse."""

Places = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in [-1, 1] to a vector for each of N places, (B, N, C): the keys of a ViT, for instance."""

_STAGES = (1, 5, 10, 12)  # the last layer before each halving of the size, and the last of all
BATCH = 32  # pictures that it sees at once, however many there are


class Look(NamedTuple):
    """What one pass over a batch of pictures tells."""

    stages: tuple[Tensor, ...]  # four, (B, C, h, w)
    places: Tensor  # (B, N, C)
    embedding: Tensor  # (B, D)


@dataclass(frozen=True)
class SqueezeNet:
    """SqueezeNet 1.0 (Iandola et al., arXiv 1602.07360) trained on ImageNet, without its classifier.

    Images (B, 3, H, W) in [-1, 1], H, W >= 16, are resized until their shorter side has `side` pixels, as in training.
    No gradient is kept. The heads that LPIPS ships for "squeeze" belong to SqueezeNet 1.1 and do not fit.
    """

    network: squeezenet.SqueezeNet
    side: int = 224

    @torch.no_grad()
    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """Four maps of features >= 0; of a square picture at 224 pixels (B, 96, 109, 109), (B, 256, 54, 54),
        (B, 512, 27, 27) and (B, 512, 13, 13)."""
        return tuple(self._layers(images, _STAGES))

    @torch.no_grad()
    def places(self, images: Tensor) -> Tensor:
        """The third stage, (B, 27 * 27, 512) of a square picture at 224 pixels; row by row."""
        return _vectors(next(self._layers(images, _STAGES[2:3])))

    @torch.no_grad()
    def embedding(self, images: Tensor) -> Tensor:
        """The direction of the mean of the last stage over the picture: (B, 512) of length sqrt(512), all >= 0.

        Any number of images: they pass in parts. Lengths differ threefold between icons, and under the cubic kernel of
        `realism.kid` a few long ones would decide; so the kernel sees (cosine + 1)^3, and the distance is below 7.
        """
        check_images(images)
        return torch.cat([_direction(next(self._layers(part, _STAGES[-1:]))) for part in images.split(BATCH)])

    def look(self, images: Tensor) -> Look:
        """`stages`, `places` and `embedding`, from one pass."""
        stages = self.stages(images)
        return Look(stages, _vectors(stages[2]), _direction(stages[-1]))

    def _layers(self, images: Tensor, wanted: Collection[int]) -> Iterator[Tensor]:
        check_images(images)
        weight = next(self.network.parameters())
        feature = (images.to(weight) + 1) / 2
        height, width = feature.shape[-2:]
        scale = self.side / min(height, width)
        size = (round(height * scale), round(width * scale))
        feature = F.interpolate(feature, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
        mean, deviation = weight.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        feature = (feature - mean) / deviation
        for index, layer in enumerate(self.network.features[: max(wanted) + 1]):
            feature = layer(feature)
            if index in wanted:
                yield feature


def _vectors(stage: Tensor) -> Tensor:
    return stage.flatten(2).mT


def _direction(stage: Tensor) -> Tensor:
    unit = F.normalize(stage.mean(dim=(2, 3)))
    return unit * unit.shape[1] ** 0.5


def load_squeezenet(path: Path, *, device: torch.device | str = "cpu") -> SqueezeNet:
    """The network with the weights of a safetensors file that holds torchvision's `squeezenet1_0` tensors.

    Raises `WeightsError` where the file is missing, damaged, not finite, or of another network.
    """
    tensors, _ = read_weights(path, field="path")
    with torch.device("meta"):
        network = squeezenet.squeezenet1_0()
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise WeightsError(
            f"{path} does not hold the weights of SqueezeNet 1.0: {len(wrong)} tensors are missing, unknown or of "
            f"another shape ({', '.join(wrong[:3])}).",
            hint="Give the path of torchvision's squeezenet1_0 weights in safetensors format.",
            field="path",
        )
    network.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    return SqueezeNet(network.to(device).eval().requires_grad_(False))
