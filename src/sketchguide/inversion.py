"""Where Plug-and-Play sources come from: an inverted picture, a picture noised afresh, or a walk that was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Generator, Tensor

from sketchguide.backbones.base import Backbone, Condition
from sketchguide.controls.base import Guide, Injection
from sketchguide.errors import UsageError
from sketchguide.levels import Level, Window, check_window, is_open
from sketchguide.sampling import Evaluations, Moment, Negative, pulling_at, sample
from sketchguide.seeds import check_each, noise_like
from sketchguide.solvers import Solver


class Trajectory:
    """The latents of a walk, by level: a source that shows what the walk passed through.

    `latent` (R, C, h, w) at `level` is where the walk began. `evaluations` counts the network passes it took.
    """

    def __init__(self, latent: Tensor, level: Level, walk: Iterable[Moment]) -> None:
        self.evaluations = 0
        self._latents = {level: latent}
        for moment in walk:
            self._latents[moment.level] = moment.latent
            self.evaluations = sum(moment.evaluations)

    def at(self, level: Level) -> Tensor:
        if level not in self._latents:
            raise UsageError(
                f"The source was not recorded at the level asked for ({level.progress:.0%}, time {level.time:g}).",
                hint="Walk both on the same levels: the same number of steps and the same solver.",
                field="steps",
            )
        return self._latents[level]


class Noised:
    """The clean latents `clean` (R, C, h, w) with noise put on them, one generator per row: a source without inversion
    (Ctrl-X, Lin et al. 2024). The noise is `fresh` for every level, or drawn once. A level stays as it is, however
    often it is asked for: every batch of pictures sees the same source.
    """

    def __init__(self, clean: Tensor, generators: Sequence[Generator], *, fresh: bool = True) -> None:
        check_each(generators, len(clean))
        self._clean = clean
        self._generators = generators
        self._noise = None if fresh else noise_like(clean, generators)
        self._shown: dict[Level, Tensor] = {}

    def at(self, level: Level) -> Tensor:
        if level not in self._shown:
            drawn = noise_like(self._clean, self._generators) if self._noise is None else self._noise
            self._shown[level] = level.alpha * self._clean + level.sigma * drawn
        return self._shown[level]


def invert(
    backbone: Backbone, latent: Tensor, levels: Sequence[Level], condition: Condition, *, iterations: int = 1
) -> Trajectory:
    """The trajectory of `ascend`; its latent at `levels[0]` is the noise that leads back to `latent`."""
    return Trajectory(latent, levels[-1], ascend(backbone, latent, levels, condition, iterations=iterations))


def ascend(
    backbone: Backbone, latent: Tensor, levels: Sequence[Level], condition: Condition, *, iterations: int = 1
) -> Iterator[Moment]:
    """Walk the clean `latent` (B, C, h, w) up to the noise from which DDIM leads back to it, yielding every step.

    `levels` are those of the way back, noisiest first; any spacing, and networks of any kind of prediction. A step up
    looks for the latent z from which one DDIM step (Song et al. 2021, eq. 12, eta 0) arrives at the latent at hand:
    the fixed point of lifting the latent at hand with the noise that the network sees in z, or, where z is pure noise,
    with what is left of the latent without the clean picture that it sees. The first guess lifts it
    with the noise of the step before, then each of `iterations` network passes refines it: one costs what plain DDIM
    inversion costs and errs less, more approach the exact inverse. On the straight paths of a flow what is lifted with
    is the velocity, noise less clean picture, which is steadier from step to step than the noise.
    """
    if iterations < 1:
        raise UsageError(f"iterations is {iterations}; it must be at least 1.", field="iterations")
    condition.check_rows(len(latent), "condition")
    flows = backbone.prediction_kind == "flow"
    raised = _carried if flows else _raised
    lift: Tensor | None = None  # the noise, or the velocity
    for step, (now, to) in enumerate(pairwise(reversed(levels)), start=1):
        clean, risen = (latent, latent) if lift is None else raised(latent, lift, now, to)
        for _ in range(iterations):
            with torch.no_grad():
                seen = backbone.predict(risen, to, condition)
            lift = seen.noise - seen.clean if flows else seen.noise
            if not flows and not to.alpha and now.sigma:  # the noise in pure noise is itself, whatever the network sees
                lift = (latent - now.alpha * seen.clean) / now.sigma
            clean, risen = raised(latent, lift, now, to)
        latent = risen
        yield Moment(latent, clean, to, Evaluations(step * iterations, 0))


def _carried(latent: Tensor, velocity: Tensor, now: Level, to: Level) -> tuple[Tensor, Tensor]:
    """As `_raised`, of a flow along which the latent moves with this velocity."""
    return latent - now.sigma * velocity, latent + (to.sigma - now.sigma) * velocity


def _raised(latent: Tensor, eps: Tensor, now: Level, to: Level) -> tuple[Tensor, Tensor]:
    """The clean picture in `latent` at `now` if its noise is `eps`, and the latent that the two make at `to`."""
    clean = (latent - now.sigma * eps) / now.alpha
    return clean, to.alpha * clean + to.sigma * eps


def recur(
    backbone: Backbone,
    condition: Condition,
    latent: Tensor,
    levels: Sequence[Level],
    *,
    generators: Sequence[Generator],
    window: Window = (0.1, 0.5),
    times: int = 2,
    negative: Negative | None = None,
    scale: float | None = None,
    negative_time: float = 0.0,
    guides: Sequence[Guide] = (),
    injections: Sequence[Injection] = (),
    solver: Solver | None = None,
) -> Iterator[Moment]:
    """`sample` with self-recurrence: within `window` every step is undone by noise and taken again, `times` over.

    The repeats run without guides and injections, so that the network settles what those forced upon it (Ctrl-X,
    Lin et al. 2024: 2 repeats over 0.1..0.5). `generators`, one per image, draw the noise. Every step is a walk of its
    own: a multistep solver stays at its first order.
    """
    check_window(window)
    if times < 0:
        raise UsageError(f"times is {times}; it must be at least 0.", field="times")
    if times:
        check_each(generators, len(latent))
    step = partial(
        sample,
        backbone,
        condition,
        negative=negative,
        scale=scale,
        negative_time=negative_time,
        solver=solver,
        generators=generators,
    )
    done = Evaluations(0, 0)
    for (now, to), pulling in zip(pairwise(levels), pulling_at(levels, guides, backbone), strict=True):
        (moment,) = step(latent, [now, to], guides=pulling, injections=injections)
        done = done.plus(moment.evaluations)
        for _ in range(times if is_open(window, now) else 0):
            (moment,) = step(_noised_back(moment.latent, to, now, generators), [now, to])
            done = done.plus(moment.evaluations)
        latent = moment.latent
        yield moment._replace(evaluations=done)


def _noised_back(latent: Tensor, now: Level, to: Level, generators: Sequence[Generator]) -> Tensor:
    """A latent at `now` taken to the noisier `to` by fresh noise alone, as the forward process would."""
    keep = to.alpha / now.alpha
    fresh = max(0.0, to.sigma**2 - (keep * now.sigma) ** 2) ** 0.5
    return keep * latent + fresh * noise_like(latent, generators)
