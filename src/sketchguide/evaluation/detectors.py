"""Learned edge detectors that measure how well a picture follows a drawing.

The networks are small and their weights are not part of the package: `load_detector` is given the file. Score a picture
with a detector that the predictor was not trained on; without one, `extractors.EXTRACTORS["edges"]` takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sketchguide.errors import WeightsError
from sketchguide.extractors import check_images
from sketchguide.weights import read_weights


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

    multiple = 2
    margin = 16

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


def smish(x: Tensor) -> Tensor:
    """Wang, Ren and Wang, "Smish", Electronics 11(4), 2022."""
    return x * x.sigmoid().log1p().tanh()


class Smish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return smish(x)


class ConvPair(nn.Module):
    def __init__(self, channels: int, outside: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outside, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)

    def forward(self, feature: Tensor) -> Tensor:
        return self.conv2(smish(self.conv1(feature)))


class Named(nn.Module):
    """One part under the name that the weight file gives it."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


def upsampler(*channels: int) -> Named:
    """Doubles the size `len(channels) - 1` times and ends with one channel."""
    doublings = len(channels) - 1
    kernel = 2**doublings
    layers: list[nn.Module] = []
    for inside, outside in pairwise(channels):
        layers += [
            nn.Conv2d(inside, outside, 1),
            Smish(),
            nn.ConvTranspose2d(outside, outside, kernel, stride=2, padding=kernel // 2 - 1),
        ]
    return Named(features=nn.Sequential(*layers))


class Teed(nn.Module):
    """TEED (Soria et al., "Tiny and efficient model for the edge detection generalization", 2023).

    It learned from photographs of streets and misses edges between saturated colours: prefer TIN2 for icons.
    """

    multiple = 8
    margin = 16

    def __init__(self) -> None:
        super().__init__()
        self.block_1 = ConvPair(3, 16, stride=2)
        self.block_2 = ConvPair(16, 32, stride=1)
        self.side_1 = Named(conv=nn.Conv2d(16, 32, 1, stride=2))
        self.pre_dense_3 = Named(conv=nn.Conv2d(32, 48, 1))
        self.dblock_3 = Named(
            denselayer1=Named(conv1=nn.Conv2d(32, 48, 3, padding=2), smish1=Smish(), conv2=nn.Conv2d(48, 48, 3))
        )
        self.up_block_1 = upsampler(16, 1)
        self.up_block_2 = upsampler(32, 1)
        self.up_block_3 = upsampler(48, 16, 1)
        self.block_cat = nn.ModuleDict(
            {
                "DWconv1": nn.Conv2d(3, 24, 3, padding=1, groups=3),
                "DWconv2": nn.Conv2d(24, 24, 3, padding=1, groups=24),
            }
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Blue, green, red (B, 3, H, W) in 0..255 to edge probabilities (B, 1, H, W); H and W multiples of 8."""
        mean = pixels.new_tensor([103.939, 116.779, 123.68])[:, None, None]
        first = smish(self.block_1(pixels - mean))
        second = self.block_2(first)
        down = F.max_pool2d(second, 3, stride=2, padding=1)
        third = (self.dblock_3(smish(down + self.side_1(first))) + self.pre_dense_3(down)) / 2
        sides = torch.cat([self.up_block_1(first), self.up_block_2(second), self.up_block_3(third)], dim=1)
        wide = self.block_cat["DWconv1"](smish(sides))
        fused = smish((wide + self.block_cat["DWconv2"](smish(wide))).sum(dim=1, keepdim=True))
        # Smish is about 0 on paper and negative nowhere by more than 0.26, so paper comes out of the sigmoid near 0.5.
        return (fused.sigmoid() * 2 - 1).clamp(min=0)


NETWORKS: dict[str, type[Tin2] | type[Teed]] = {"tin2": Tin2, "teed": Teed}


@dataclass(frozen=True)
class Detector:
    """A learned edge detector; an `Extractor` like any other."""

    name: str
    network: Tin2 | Teed
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
        margin, multiple = self.network.margin, self.network.multiple
        right, below = (-pixels.shape[-1] % multiple, -pixels.shape[-2] % multiple)
        padded = F.pad(pixels, (margin, margin + right, margin, margin + below), mode="replicate")
        edges = self.network(padded)
        edges = edges[..., margin : margin + height * factor, margin : margin + width * factor]
        return F.avg_pool2d(edges, factor) if factor > 1 else edges


def load_detector(path: Path, *, device: torch.device | str = "cpu") -> Detector:
    """The TIN2 or TEED network whose weights the safetensors file at `path` holds; its tensors say which.

    Raises `WeightsError` where the file is missing, damaged, not finite, or of neither network.
    """
    tensors, _ = read_weights(path, field="path")
    name = next((name for name in NETWORKS if shapes(build(name).state_dict()) == shapes(tensors)), None)
    if name is None:
        first = ", ".join(sorted(tensors)[:3])
        raise WeightsError(
            f"{path} holds {len(tensors)} tensors ({first}, ...), which are neither those of TIN2 nor of TEED.",
            hint="Give the path of a TIN2 or TEED file in safetensors format.",
            field="path",
        )
    network = build(name)
    network.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    return Detector(name, network.to(device).eval().requires_grad_(False))


def build(name: str) -> Tin2 | Teed:
    """The network of that name without memory for its weights."""
    with torch.device("meta"):
        return NETWORKS[name]()


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}
