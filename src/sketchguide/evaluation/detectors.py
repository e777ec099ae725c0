"""A learned edge detector that measures how well a picture follows a drawing.

The network is small and its weights are not part of the package: `load_detector` is given the file. Score a picture
with a detector that the predictor was not trained on; without one, `extractors.EXTRACTORS["edges"]` takes its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sketchguide.errors import WeightsError
from sketchguide.extractors import check_images
from sketchguide.weights import read_weights

_MARGIN = 16  # pixels of border around a picture


class Enrichment(nn.Module):
    """Sees a feature at five ranges and sums what it sees."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 32, 3, padding=1)
        self.conv1 = nn.Conv2d(32, 32, 3, padding=4, dilation=4)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=8, dilation=8)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=12, dilation=12)
        self.conv4 = nn.Conv2d(32, 32, 3, padding=16, dilation=16)

    def forward(self, feature: Tensor) -> Tensor:
        near = self.conv(feature).relu()
        wider = [conv(near).relu() for conv in (self.conv1, self.conv2, self.conv3, self.conv4)]
        return torch.stack([near, *wider]).sum(dim=0)


class Tin2(nn.Module):
    """TIN with two stages.

    Wibisono and Hang, "Traditional method inspired deep neural network for edge detection", ICIP 2020.
    """

    def __init__(self) -> None:
        super().__init__()
        for stage, (inside, outside) in ((1, (3, 16)), (2, (16, 64))):
            for layer, channels in ((1, inside), (2, outside)):
                self.add_module(f"conv{stage}_{layer}", nn.Conv2d(channels, outside, 3, padding=1))
                self.add_module(f"em{stage}_{layer}", Enrichment(outside))
                self.add_module(f"conv{stage}_{layer}_down", nn.Conv2d(32, 8, 1))
            self.add_module(f"score_stage{stage}", nn.Conv2d(8, 1, 1))
        self.score_final = nn.Conv2d(2, 1, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Blue, green, red (B, 3, H, W) in 0..255 to edge probabilities (B, 1, H, W); H and W even."""
        first, fine = self.stage(1, pixels)
        _, coarse = self.stage(2, F.max_pool2d(first, 2))
        coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.score_final(torch.cat([fine, coarse], dim=1)).sigmoid()

    def stage(self, stage: int, feature: Tensor) -> tuple[Tensor, Tensor]:
        summed: list[Tensor] = []
        for layer in (1, 2):
            feature = self.get_submodule(f"conv{stage}_{layer}")(feature).relu()
            seen = self.get_submodule(f"em{stage}_{layer}")(feature)
            summed.append(self.get_submodule(f"conv{stage}_{layer}_down")(seen))
        return feature, self.get_submodule(f"score_stage{stage}")(summed[0] + summed[1])


@dataclass(frozen=True)
class Detector:
    """A learned edge detector; an `Extractor` like any other."""

    network: Tin2
    name: str = "tin2"
    least: int = 128  # pixels; a picture whose longer side is shorter is enlarged by a whole factor first

    @torch.no_grad()
    def __call__(self, images: Tensor, /) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], H, W >= 16, to soft edges (B, 1, H, W) in [0, 1] on the network's device."""
        check_images(images)
        height, width = images.shape[-2:]
        factor = math.ceil(self.least / max(height, width))
        pixels = (images.to(next(self.network.parameters())).flip(1) + 1) * 127.5
        if factor > 1:
            size = (height * factor, width * factor)
            pixels = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False).clamp(0, 255)
        # The border is repeated outwards: the zeros that convolutions put there look like an edge.
        right, below = (-pixels.shape[-1] % 2, -pixels.shape[-2] % 2)
        padded = F.pad(pixels, (_MARGIN, _MARGIN + right, _MARGIN, _MARGIN + below), mode="replicate")
        edges = self.network(padded)
        edges = edges[..., _MARGIN : _MARGIN + height * factor, _MARGIN : _MARGIN + width * factor]
        return F.avg_pool2d(edges, factor) if factor > 1 else edges


def load_detector(path: Path) -> Detector:
    """TIN2 with the weights that the safetensors file at `path` holds, on the CPU.

    Raises `WeightsError` where the file is missing, damaged, not finite, or of another network.
    """
    tensors, _ = read_weights(path, field="path")
    with torch.device("meta"):
        network = Tin2()
    try:
        network.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    except RuntimeError as error:
        first = ", ".join(sorted(tensors)[:3])
        raise WeightsError(
            f"{path} holds {len(tensors)} tensors ({first}, ...), which are not those of TIN2.",
            hint="Give the path of a TIN2 file in safetensors format.",
            field="path",
        ) from error
    return Detector(network.eval().requires_grad_(False))
