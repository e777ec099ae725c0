"""From one noise level to the next: pure functions of the prediction and the two levels.

Deterministic DDIM in terms of (clean, noise) is `alpha' * clean + sigma' * noise`, which is also Euler's method for
variance-exploding and for flow models; ancestral Euler is DDIM with eta 1. So three rules cover the field's solvers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sketchguide.errors import UsageError
from sketchguide.levels import Level, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class Carried(NamedTuple):
    """How much of the predicted clean image and of the predicted noise is in the next latent."""

    clean: float
    noise: float


class Solver(Protocol):
    """One step: the latent (B, C, h, w) at level `to`, given the prediction at level `now`.

    `previous` is the prediction one step earlier with its level (None on the first step); `noise()` draws fresh
    standard normal noise, one generator per image. `carried` says what becomes of a shift of the prediction.
    """

    def carried(self, now: Level, to: Level) -> Carried: ...

    def __call__(
        self,
        latent: Tensor,
        prediction: Prediction,
        now: Level,
        to: Level,
        *,
        previous: tuple[Prediction, Level] | None,
        noise: Callable[[], Tensor],
    ) -> Tensor: ...


@dataclass(frozen=True)
class DDIM:
    """Song et al. 2021, eq. 12. `eta` 0 is deterministic (Euler), 1 is ancestral (DDPM, ancestral Euler)."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UsageError(f"eta is {self.eta}; it must lie in 0..1.", field="solver")

    def carried(self, now: Level, to: Level) -> Carried:
        fresh = self._fresh(now, to)
        return Carried(to.alpha, math.sqrt(max(0.0, to.sigma * to.sigma - fresh * fresh)) if fresh else to.sigma)

    def _fresh(self, now: Level, to: Level) -> float:
        """How much noise is drawn."""
        if self.eta == 0 or to.sigma == 0:
            return 0.0
        shrink = (now.alpha * to.sigma) / (to.alpha * now.sigma)
        return self.eta * to.sigma * math.sqrt(max(0.0, 1 - shrink * shrink))

    def __call__(
        self,
        latent: Tensor,
        prediction: Prediction,
        now: Level,
        to: Level,
        *,
        previous: tuple[Prediction, Level] | None,
        noise: Callable[[], Tensor],
    ) -> Tensor:
        del latent, previous
        clean, kept = self.carried(now, to)
        following = clean * prediction.clean + kept * prediction.noise
        if self.eta == 0 or to.sigma == 0:
            return following
        return following + self._fresh(now, to) * noise()


@dataclass(frozen=True)
class Multistep:
    """DPM-Solver++(2M), midpoint form (Lu et al. 2022, algorithm 2); the last step to zero noise is first order.

    It carries what its first order does: by how much the second overshoots with a shift, the step after falls back.
    """

    def carried(self, now: Level, to: Level) -> Carried:
        del now
        return Carried(to.alpha, to.sigma)

    def __call__(
        self,
        latent: Tensor,
        prediction: Prediction,
        now: Level,
        to: Level,
        *,
        previous: tuple[Prediction, Level] | None,
        noise: Callable[[], Tensor],
    ) -> Tensor:
        del noise
        if to.sigma == 0:
            return to.alpha * prediction.clean
        step = _log_snr(to) - _log_snr(now)
        if step == 0:  # where the schedule ends at the noise of its last step
            return latent
        clean = prediction.clean
        if previous is not None and previous[1].alpha > 0:
            before, level = previous
            ratio = (_log_snr(now) - _log_snr(level)) / step
            clean = clean + (clean - before.clean) / (2 * ratio)
        return to.sigma / now.sigma * latent - to.alpha * math.expm1(-step) * clean


@dataclass(frozen=True)
class Consistency:
    """Multistep consistency sampling for LCM-distilled models (Luo et al. 2023, algorithm 2)."""

    timestep_scaling: float = 10.0
    sigma_data: float = 0.5

    def carried(self, now: Level, to: Level) -> Carried:
        _, out = self._boundary(now)
        return Carried(out if to.progress == 1 else to.alpha * out, 0.0)

    def _boundary(self, now: Level) -> tuple[float, float]:
        """How much of the latent and of the predicted clean image is in the consistency function."""
        scaled = now.time * self.timestep_scaling
        skip = self.sigma_data**2 / (scaled**2 + self.sigma_data**2)
        return skip, scaled / math.sqrt(scaled**2 + self.sigma_data**2)

    def __call__(
        self,
        latent: Tensor,
        prediction: Prediction,
        now: Level,
        to: Level,
        *,
        previous: tuple[Prediction, Level] | None,
        noise: Callable[[], Tensor],
    ) -> Tensor:
        del previous
        skip, out = self._boundary(now)
        clean = skip * latent + out * prediction.clean
        return clean if to.progress == 1 else to.alpha * clean + to.sigma * noise()


def _log_snr(level: Level) -> float:
    """Half the log of the signal-to-noise ratio; very low, not infinite, where a zero-SNR schedule has no signal."""
    return math.log(max(level.alpha, 1e-8)) - math.log(level.sigma)


class SolverChoice(NamedTuple):
    solver: Solver
    scheduler: str  # the diffusers scheduler whose levels it walks
    scaled: bool = False  # whether a walk begins at noise times the first level's sigma, not at plain noise
    draws: bool = False  # whether its steps draw noise
    settings: Mapping[str, Any] = MappingProxyType({})  # of the scheduler, whatever the model's own are


# Karras et al. 2022, eq. 5, between the most and the least noise that the model knows, whatever its own spacing.
_KARRAS: Mapping[str, Any] = MappingProxyType(
    {
        "use_karras_sigmas": True,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "timestep_spacing": "linspace",
    }
)

SOLVERS: Mapping[str, SolverChoice] = {
    "ddim": SolverChoice(DDIM(), "DDIMScheduler"),
    "ddpm": SolverChoice(DDIM(eta=1.0), "DDPMScheduler", draws=True),
    "euler": SolverChoice(DDIM(), "EulerDiscreteScheduler"),
    "euler-ancestral": SolverChoice(DDIM(eta=1.0), "EulerAncestralDiscreteScheduler", draws=True),
    "euler-karras": SolverChoice(DDIM(), "EulerDiscreteScheduler", settings=_KARRAS),
    "dpm++2m": SolverChoice(Multistep(), "DPMSolverMultistepScheduler"),
    "dpm++2m-karras": SolverChoice(Multistep(), "DPMSolverMultistepScheduler", settings=_KARRAS),
    "lcm": SolverChoice(Consistency(), "LCMScheduler", draws=True),
}

# The solver that continues what a pipeline's own scheduler does; PNDM's multistep rule is replaced by DDIM's.
OF_SCHEDULER: Mapping[str, str] = {
    "DDIMScheduler": "ddim",
    "DDIMParallelScheduler": "ddim",
    "PNDMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DDPMParallelScheduler": "ddpm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler-ancestral",
    "DPMSolverMultistepScheduler": "dpm++2m",
    "LCMScheduler": "lcm",
}


def choose_solver(name: str) -> SolverChoice:
    """The solver called `name`; UsageError lists the ones there are."""
    if name not in SOLVERS:
        said = name.casefold().replace(" ", "").replace("-", "").replace("_", "")  # as in DPM++ 2M Karras
        meant = [one for one in SOLVERS if one.replace("-", "") == said]
        hint = f"Did you mean {meant[0]}?" if meant else f"Choose one of: {', '.join(SOLVERS)}."
        raise UsageError(f"Unknown solver {name!r}.", hint=hint, field="solver")
    return SOLVERS[name]
