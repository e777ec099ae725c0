"""From an image to its spatial map: what a predictor is trained to see in a latent.

An extractor is any callable with a `name`. The one that is built in, `Edges`, has no learned weights. It works on a
fixed grid, so that the map of an image does not depend on the image's resolution, and draws what it finds with one pen,
so that a map looks like a drawing of the outlines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from sketchguide import lines
from sketchguide.errors import UsageError

SMALLEST = 16


class Extractor(Protocol):
    """Makes spatial maps of images."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: Tensor, /) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to maps (B, 1, H, W) in [0, 1] on the same device; ink is 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Outlines and main inner lines, white on black, drawn with a pen of constant thickness.

    Canny's detector (IEEE TPAMI 8(6), 1986) on the colour gradient of Di Zenzo (CVGIP 33, 1986), which sees an edge
    between two colours of equal brightness, with the surround inhibition of Grigorescu et al. (IEEE TIP 12(7), 2003),
    which keeps outlines and drops texture. Both sides of a thin line become one stroke. All lengths are relative to the
    image: their unit is 1/64 of its longer side. Contrasts are the height of a step in RGB with channels in [0, 1].
    """

    name: str = "edges"
    grid: int = 192  # longer side, in pixels, on which edges are looked for
    blur: float = 0.6  # standard deviation of the Gaussian that removes texture
    weak: float = 0.05  # contrast of an edge that counts where it continues a strong one
    strong: float = 0.13  # contrast of an edge that counts on its own
    surround: float = 4.0  # standard deviation of the neighbourhood whose mean contrast inhibits an edge
    inhibition: float = 0.7  # share of that mean that is taken off: an edge in a crowd counts less
    merge: float = 2.2  # edges nearer to each other than this become one stroke
    shortest: float = 5.0  # length of the shortest edge kept
    smallest: float = 1.0  # area of the smallest patch of paper kept between merged edges
    thickness: float = 1.5  # of the pen

    def __call__(self, images: Tensor, /) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to maps (B, 1, H, W) in [0, 1] on the same device; H, W >= 16.

        The centre of a line is 1; its border falls from 1 to 0 over one pixel. Each map depends on its own image only.
        """
        check_images(images)
        height, width = images.shape[-2:]
        scale = self.grid / max(height, width)
        rows, columns = max(round(height * scale), 3), max(round(width * scale), 3)
        unit = self.grid / 64
        picture = (images.float() + 1) / 2
        picture = F.interpolate(picture, size=(rows, columns), mode="bicubic", antialias=scale < 1)
        # Thinning shortens the ends of lines; those that leave the picture must end outside it.
        margin = math.ceil(self.merge * unit)
        picture = F.pad(picture, (margin, margin, margin, margin), mode="replicate")
        picture = gaussian_blur(picture, sigma=self.blur * unit)
        contrast, direction = colour_gradient(picture, sigma=self.blur * unit)
        surround = gaussian_blur(contrast, sigma=self.surround * unit)
        ridges = (contrast - self.inhibition * surround) * is_ridge(contrast, direction)
        strokes = hysteresis(ridges, weak=self.weak, strong=self.strong)
        strokes = drop_small(strokes, least=self.shortest * unit)
        strokes = distance_to(strokes) <= self.merge / 2 * unit
        strokes = thin(fill_holes(strokes, least=self.smallest * unit**2))
        distance = distance_to(strokes)[..., margin : margin + rows, margin : margin + columns]
        distance = F.interpolate(distance, size=(height, width), mode="bilinear") / scale
        return lines.round_pen(distance, width=self.thickness * max(height, width) / 64)


EXTRACTORS: Mapping[str, Extractor] = MappingProxyType({"edges": Edges()})


def check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise UsageError(
            f"Images of shape {tuple(images.shape)}, {images.dtype}, were given; (B, 3, H, W) floats are needed.",
            field="images",
        )
    if min(images.shape[-2:]) < SMALLEST:
        raise UsageError(
            f"Images of {images.shape[-1]}x{images.shape[-2]} pixels were given; {SMALLEST} a side is the least.",
            hint="Resize them first.",
            field="images",
        )


def gaussian_blur(picture: Tensor, *, sigma: float) -> Tensor:
    """Blur (B, C, H, W) with a Gaussian of `sigma` pixels; the border is repeated."""
    # A sum of shifted copies, not a convolution: its rounding does not depend on the batch.
    radius = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    for axis, pad in ((-1, (radius, radius, 0, 0)), (-2, (0, 0, radius, radius))):
        padded = F.pad(picture, pad, mode="replicate")
        picture = sum(
            (padded.narrow(axis, k, picture.shape[axis]) * (w / sum(weights)) for k, w in enumerate(weights)),
            start=torch.zeros_like(picture),
        )
    return picture


def colour_gradient(picture: Tensor, *, sigma: float) -> tuple[Tensor, Tensor]:
    """The contrast (B, 1, H, W) of a blurred picture and the unit vector (B, 2, H, W), x before y, across its edges.

    `sigma` is the blur in pixels: a step of height h has the contrast h at its centre, times the root of the number of
    channels that have it.
    """
    around = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    dx = (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]) / 2
    dy = (around[..., 2:, 1:-1] - around[..., :-2, 1:-1]) / 2
    xx, yy, xy = ((a * b).sum(dim=1, keepdim=True) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    largest = (xx + yy + ((xx - yy).square() + 4 * xy.square()).sqrt()) / 2
    angle = torch.atan2(2 * xy, xx - yy) / 2
    return largest.sqrt() * (sigma * math.sqrt(2 * math.pi)), torch.cat([angle.cos(), angle.sin()], dim=1)


def is_ridge(contrast: Tensor, direction: Tensor) -> Tensor:
    """True (B, 1, H, W) where `contrast` is not below either neighbour along `direction`, one pixel away."""
    height, width = contrast.shape[-2:]
    rows = torch.arange(height, device=contrast.device, dtype=contrast.dtype)[:, None]
    columns = torch.arange(width, device=contrast.device, dtype=contrast.dtype)[None, :]
    ridge = torch.ones_like(contrast, dtype=torch.bool)
    for sign in (1, -1):
        x = (columns + sign * direction[:, :1]).clamp(0, width - 1)
        y = (rows + sign * direction[:, 1:]).clamp(0, height - 1)
        left, top = x.floor().clamp(max=width - 2), y.floor().clamp(max=height - 2)
        fx, fy = x - left, y - top
        first = (top * width + left).long().flatten(2)
        flat = contrast.flatten(2)
        corners = [flat.gather(2, first + step).view_as(contrast) for step in (0, 1, width, width + 1)]
        above = corners[0] * (1 - fx) + corners[1] * fx
        below = corners[2] * (1 - fx) + corners[3] * fx
        beside = above * (1 - fy) + below * fy
        # Of two equal pixels side by side one is kept.
        ridge &= contrast > beside if sign > 0 else contrast >= beside
    return ridge


def hysteresis(ridges: Tensor, *, weak: float, strong: float) -> Tensor:
    """The 8-connected lines (B, 1, H, W), bool, of `ridges` above `weak` that are above `strong` somewhere."""
    candidates = ridges > weak
    labels = connected(candidates, diagonally=True)
    strongest = torch.zeros(int(labels.max()) + 1, device=ridges.device)
    strongest.scatter_reduce_(0, labels.flatten(), ridges.flatten(), reduce="amax")
    return candidates & (strongest > strong)[labels]


def drop_small(ink: Tensor, *, least: float) -> Tensor:
    """`ink` (B, 1, H, W), bool, without its 8-connected parts of fewer than `least` pixels."""
    labels = connected(ink, diagonally=True)
    return ink & (labels.flatten().bincount() >= least)[labels]


def fill_holes(ink: Tensor, *, least: float) -> Tensor:
    """`ink` (B, 1, H, W), bool, with the 4-connected parts of its paper of fewer than `least` pixels inked."""
    labels = connected(~ink, diagonally=False)
    return ink | (labels.flatten().bincount() < least)[labels]


def connected(mask: Tensor, *, diagonally: bool) -> Tensor:
    """Numbers the connected parts of `mask` (B, 1, H, W), bool, from 1 through the whole batch; outside it stands 0."""
    structure = np.zeros((3, 3, 3, 3), bool)
    structure[1, 1] = ndimage.generate_binary_structure(2, 2 if diagonally else 1)  # neighbours are in the same image
    labels = np.zeros(mask.shape, np.int64)
    ndimage.label(mask.cpu().numpy(), structure=structure, output=labels)
    return torch.from_numpy(labels).to(mask.device)


def distance_to(ink: Tensor) -> Tensor:
    """`lines.distance_to` of a batch (B, 1, H, W), bool: float32, on the same device."""
    return torch.from_numpy(lines.distance_to(ink.cpu().numpy())).float().to(ink.device)


def thin(ink: Tensor) -> Tensor:
    """`lines.thin` of a batch (B, 1, H, W), bool, on the same device."""
    return torch.from_numpy(lines.thin(ink.cpu().numpy())).to(ink.device)
