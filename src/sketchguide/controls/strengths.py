"""How far a gradient moves the next latent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sketchguide.controls.base import Strength
from sketchguide.errors import UsageError
from sketchguide.levels import Level, check_one_or_each
from sketchguide.solvers import Carried

LEAST_SIGNAL = 1e-3  # alpha; below are levels of zero terminal SNR, where the shift of the clean estimate has no limit


@dataclass(frozen=True)
class Proportional:
    """A fraction `beta` of the length of the step that the sampler just took, against the gradient:
    `-beta * |z_t - z_(t-1)| / |g| * g`, norms per image (LGP, Voynov et al. 2022, eq. 4).

    `beta` is one number for all images or one per image; at least 0. `even` (0..1) shares the same way out among the
    latent pixels: each keeps the direction of its own gradient, whose length is raised to the power 1 - `even`. At 0,
    the paper's rule, the few pixels that are furthest off take most of it; at 1 all that have a gradient go as far.
    """

    beta: float | Sequence[float] = 1.6
    even: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.even <= 1:
            raise UsageError(f"even is {self.even}; it must lie in 0..1.", field="even")
        if not all(math.isfinite(b) and b >= 0 for b in self._each()):
            raise UsageError(f"strength is {self.beta}; it must be finite and at least 0.", field="strength")

    def _each(self) -> tuple[float, ...]:
        return tuple(self.beta) if isinstance(self.beta, Iterable) else (float(self.beta),)

    def __bool__(self) -> bool:
        return any(self._each())

    def times(self, share: float) -> Proportional:
        """`share` of it."""
        return replace(self, beta=tuple(share * beta for beta in self._each()))

    def __call__(self, gradient: Tensor, move: Tensor, now: Level, carried: Carried) -> Tensor:
        del now, carried
        beta = torch.tensor(self._each(), device=gradient.device, dtype=gradient.dtype)
        check_one_or_each(beta, gradient, "strengths", field="strength")
        direction = _unit(gradient)
        if self.even:
            pixels = direction.norm(dim=1, keepdim=True).clamp_min(1e-12)
            direction = _unit(direction * pixels**-self.even)
        scale = beta * move.flatten(1).norm(dim=1)
        return -scale[:, None, None, None] * direction


def _unit(gradient: Tensor) -> Tensor:
    """Of length 1 per image; a gradient of zero has no direction and stays 0.

    Where squares would leave float32 it is first multiplied by a power of two, which changes no digit.
    """
    power = gradient.flatten(1).abs().amax(dim=1).log2().round().clamp(-126, 126)
    factor = torch.where(power.abs() > 38, 2.0**-power, 1.0)
    gradient = gradient * factor[:, None, None, None]
    return gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]


@dataclass(frozen=True)
class Score:
    """The displacement that shifting the score by `scale` times the gradient causes in the solver's step.

    With a loss of -log p(y | x_t) this is classifier guidance, eps - sqrt(1 - a_t) * grad log p
    (Dhariwal & Nichol 2021, eq. 14): the clean estimate moves by sigma²/alpha, the noise estimate by sigma.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise UsageError(f"scale is {self.scale}; it must be finite.", field="strength")

    def __bool__(self) -> bool:
        return self.scale != 0

    def __call__(self, gradient: Tensor, move: Tensor, now: Level, carried: Carried) -> Tensor:
        del move
        if now.alpha < LEAST_SIGNAL:
            return torch.zeros_like(gradient)
        return -self.scale * now.sigma * (carried.clean / now.alpha * now.sigma - carried.noise) * gradient


@dataclass(frozen=True, eq=False)
class Within:
    """`strength`, but only where `mask` (1 or B, 1, h, w) is 1: nothing elsewhere moves, or counts for how far."""

    strength: Strength
    mask: Tensor

    def __bool__(self) -> bool:
        return bool(self.strength)

    def __call__(self, gradient: Tensor, move: Tensor, now: Level, carried: Carried) -> Tensor:
        check_one_or_each(self.mask, gradient, "masks", field="mask")
        return self.strength(gradient * self.mask, move * self.mask, now, carried)
