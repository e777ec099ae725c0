"""Between two latents: straight, along the sphere, or along a quarter of a circle (DiffSketching, 2305.18812).

Noise of n numbers has a length near the root of n, and a network has seen no other. A straight line between two noises
passes closer to the origin, where it makes flat, pale pictures; the other two keep the length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from sketchguide.errors import UsageError

Interpolation = Callable[[Tensor, Tensor, float], Tensor]
"""Two latents (B, C, h, w) and a place in [0, 1], 0 the first and 1 the second, to the latent there; row by row."""


def linear(first: Tensor, second: Tensor, place: float) -> Tensor:
    """(1 - b) x0 + b x1: shrinks the length, of independent noises to 0.71 of it in the middle."""
    return (1 - place) * first + place * second


def trigonometric(first: Tensor, second: Tensor, place: float) -> Tensor:
    """cos(t) x0 + sin(t) x1, t from 0 to pi/2, which keeps the length of independent noises; of ends that are alike it
    is brought to the length between theirs."""
    mixed = math.cos(place * math.pi / 2) * first + math.sin(place * math.pi / 2) * second
    lengths = [x.flatten(1).norm(dim=1)[:, None, None, None] for x in (first, second, mixed)]
    return mixed * ((1 - place) * lengths[0] + place * lengths[1]) / lengths[2].clamp_min(1e-12)


def spherical(first: Tensor, second: Tensor, place: float) -> Tensor:
    """Along the great circle at an even pace (Shoemake 1985); the length goes evenly from one to the other.

    Opposite latents, between which there is no one shortest way, and equal ones are joined by a straight line.
    """
    one, other = first.flatten(1), second.flatten(1)
    lengths = [x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in (one, other)]
    one, other = one / lengths[0], other / lengths[1]
    angle = (one * other).sum(dim=1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    near = sine < 1e-4
    safe = torch.where(near, torch.ones_like(sine), sine)
    before = torch.where(near, 1 - place + torch.zeros_like(sine), ((1 - place) * angle).sin() / safe)
    after = torch.where(near, place + torch.zeros_like(sine), (place * angle).sin() / safe)
    length = (1 - place) * lengths[0] + place * lengths[1]
    return ((before * one + after * other) * length).view_as(first)


INTERPOLATIONS: Mapping[str, Interpolation] = MappingProxyType(
    {"spherical": spherical, "linear": linear, "trigonometric": trigonometric}
)


def between(first: Tensor, second: Tensor, *, frames: int, way: str = "spherical") -> Tensor:
    """`frames` latents (frames, C, h, w), at least 2, evenly from `first` to `second` (1, C, h, w), both included.

    Raises UsageError for an unknown way, too few frames, and latents of different shapes.
    """
    if way not in INTERPOLATIONS:
        raise UsageError(f"There is no way {way!r}.", hint=f"Choose one of: {', '.join(INTERPOLATIONS)}.", field="way")
    if frames < 2:
        raise UsageError(f"frames is {frames}; it must be at least 2, both ends.", field="frames")
    if first.shape != second.shape or len(first) != 1:
        raise UsageError(
            f"The ends are {tuple(first.shape)} and {tuple(second.shape)}; both must be (1, C, h, w).", field="size"
        )
    return torch.cat([INTERPOLATIONS[way](first, second, i / (frames - 1)) for i in range(frames)])
