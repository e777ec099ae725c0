"""Noise levels and what a network predicts at them: the mathematics that every model family shares.

A latent is `alpha * clean + sigma * noise`. Variance-preserving models (SD) have alpha² + sigma² = 1, flow models
(SD3, Flux) alpha + sigma = 1; nothing below this file needs to know which.
"""

from __future__ import annotations

from collections.abc import Sized
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sketchguide.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

PredictionKind = Literal["epsilon", "v_prediction", "sample", "flow"]
Window = tuple[float, float]  # from and to (exclusive) in progress: 0 at pure noise, 1 at the finished image


class Level(NamedTuple):
    """One noise level: `latent = alpha * clean + sigma * noise`."""

    time: float  # what the network is told: 0..1000, as the scheduler counts, for flow models too
    alpha: float
    sigma: float
    progress: float  # 0 at pure noise, 1 at the finished image


def is_open(window: Window, level: Level) -> bool:
    start, stop = window
    return start <= level.progress < stop


def check_window(window: Window) -> None:
    start, stop = window
    if not 0 <= start <= stop <= 1:
        raise UsageError(
            f"window is ({start:g}, {stop:g}); it must satisfy 0 <= from <= to <= 1.",
            hint="0 is pure noise, 1 the finished image.",
            field="window",
        )


def check_every(every: int) -> None:
    if every < 1 or every % 1:
        raise UsageError(f"every is {every}; it must be a whole number, at least 1.", field="every")


def check_one_or_each(given: Sized, pictures: Sized, name: str, *, field: str = "") -> None:
    """UsageError unless one is `given` for all pictures or one for each; `name` is what messages call several."""
    if len(given) not in (1, len(pictures)):
        raise UsageError(
            f"{len(given)} {name} for {len(pictures)} pictures.", hint="Give one, or one for each.", field=field
        )


class Prediction(NamedTuple):
    """The network's opinion at one level, in the two forms that everything else needs; both (B, C, h, w)."""

    clean: Tensor
    noise: Tensor

    @classmethod
    def read(cls, kind: PredictionKind, output: Tensor, latent: Tensor, level: Level) -> Prediction:
        """Turn a network's raw `output` at `latent` (both (B, C, h, w)) into clean image and noise.

        Raises UsageError where a network that predicts the noise is asked of nothing but noise.
        """
        a, s = level.alpha, level.sigma
        match kind:
            case "epsilon" if a == 0:
                raise UsageError(
                    "The network predicts noise, and the walk begins where there is nothing else (zero terminal SNR).",
                    hint="Set rescale_betas_zero_snr of the scheduler to False, or choose another solver.",
                    field="solver",
                )
            case "epsilon":
                return cls((latent - s * output) / a, output)
            case "sample":
                return cls(output, (latent - a * output) / s)
            case "v_prediction":  # v = alpha * noise - sigma * clean (Salimans & Ho 2022, appendix D)
                return cls(a * latent - s * output, s * latent + a * output)
            case "flow":  # v = noise - clean
                return cls(latent - s * output, latent + a * output)

    def towards(self, other: Prediction, scale: float) -> Prediction:
        """Classifier-free guidance (Ho & Salimans 2022): start at `other`, go `scale` times as far as here."""
        return Prediction(
            other.clean + scale * (self.clean - other.clean), other.noise + scale * (self.noise - other.noise)
        )


def levels_of(scheduler: Any, steps: int, **spacing: Any) -> list[Level]:
    """The `steps + 1` levels, noisiest first, on which a diffusers scheduler would sample.

    The scheduler's own configuration decides spacing, offsets, zero terminal SNR, Karras or shifted sigmas and the
    last level, so that every model walks the levels it was made for. `spacing` is what else its pipeline tells it.
    """
    if steps < 1:
        raise UsageError(f"steps is {steps}; it must be at least 1.", field="steps")
    try:
        scheduler.set_timesteps(steps, **spacing)
    except ValueError as error:
        raise UsageError(
            f"{type(scheduler).__name__} cannot make {steps} steps: {error}", hint="Take fewer.", field="steps"
        ) from error
    times = [float(t) for t in scheduler.timesteps]
    if len(times) != steps:  # second-order schedulers list their inner evaluations
        raise UsageError(f"{type(scheduler).__name__} makes {len(times)} levels of {steps} steps.", field="solver")
    if hasattr(scheduler, "sigmas"):
        if len(scheduler.sigmas) != steps + 1:
            raise UsageError(
                f"{type(scheduler).__name__} makes {len(scheduler.sigmas)} levels of {steps} steps.", field="solver"
            )
        pairs = [_flow_or_variance_preserving(scheduler, float(s)) for s in scheduler.sigmas]
        if hasattr(scheduler, "is_scale_input_called"):  # Euler's latents stay clean + sigma * noise, the last one too
            pairs[-1] = (1.0, float(scheduler.sigmas[-1]))
    else:
        products = scheduler.alphas_cumprod
        if times[0] >= len(products):  # an offset lifts the noisiest one beyond what the model knows
            raise UsageError(
                f"{type(scheduler).__name__} cannot make {steps} steps of {len(products)} levels.",
                hint="Take fewer.",
                field="steps",
            )
        last = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        pairs = [_from_product(float(products[int(t)])) for t in times] + [_from_product(last)]
    if any(pair == after for pair, after in pairwise(pairs[:-1])):
        raise UsageError(
            f"{type(scheduler).__name__} makes {steps} steps with equal noise before and after.",
            hint="Take fewer.",
            field="steps",
        )
    times.append(0.0)
    return [Level(t, a, s, i / steps) for i, (t, (a, s)) in enumerate(zip(times, pairs, strict=True))]


def _flow_or_variance_preserving(scheduler: Any, sigma: float) -> tuple[float, float]:
    if not hasattr(scheduler, "alphas_cumprod"):
        return 1.0 - sigma, sigma
    scale = (1.0 + sigma * sigma) ** 0.5  # diffusers' sigmas are noise-to-signal ratios
    return 1.0 / scale, sigma / scale


def _from_product(product: float) -> tuple[float, float]:
    return product**0.5, (1.0 - product) ** 0.5
