"""What a walk takes from a picture that is there already: its layout, or its latents, part of which may change.

`recorded` is the walk that a generated source was made by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Generator as Iterating
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sketchguide.areas import on_latents
from sketchguide.backbones.base import Backbone
from sketchguide.controls.features import Places, PlugAndPlay, Source, choose_places
from sketchguide.defaults import SEED
from sketchguide.errors import TapError
from sketchguide.inversion import Noised, Trajectory, ascend
from sketchguide.levels import Level, Prediction
from sketchguide.request import EditSettings, LayoutSettings, Request
from sketchguide.sampling import Evaluations, Moment
from sketchguide.schedule import levels_of, steps_of
from sketchguide.seeds import generators
from sketchguide.solvers import Carried, Solver
from sketchguide.taps import children_of, submodule_at

SOURCE_SEED = SEED.high  # of the noise on a source, the same for every picture: a seed is one picture in any batch


@dataclass(frozen=True)
class Borrowed:
    """A layout ready to be used by `walk`."""

    settings: LayoutSettings
    injection: PlugAndPlay
    start: Tensor | None  # (R, C, h, w): where walks begin that begin with the source
    inversion: int  # network passes that its latents took

    @property
    def evaluations(self) -> Evaluations:
        """Of the source, so far."""
        return Evaluations(0, 0, source=self.injection.evaluations, inversion=self.inversion)


def places_of(settings: LayoutSettings, backbone: Backbone) -> Places:
    """Where the layout is borrowed. Raises TapError for a place that has no features."""
    places = choose_places(backbone.taps)
    places = places._replace(features=settings.features or places.features)
    known = {tap.path for tap in backbone.taps}
    for path in places.features:
        module = submodule_at(backbone.network, path)
        if path not in known:
            raise TapError(
                f"{path!r} yields no tensor that could be borrowed.",
                hint=f"Name one of its children: {children_of(module)}.",
                field="features",
            )
    return places


def borrow(
    settings: LayoutSettings,
    request: Request,
    backbone: Backbone,
    clean: Tensor,
    *,
    recorded: Trajectory | None = None,
    mask: Tensor | None = None,
    keep: bool = False,
) -> Iterating[Moment, None, Borrowed]:
    """Prepare the layout of the clean latents (R, C, h, w) for walks with the steps and solver of `request`.

    Yields the moments of an inversion, one source per row. `mask` (1 or R, 1, h, w) and `keep` as in PlugAndPlay.
    """
    places = places_of(settings, backbone)  # what cannot be borrowed is told before the source is walked
    levels = levels_of(request, backbone)
    told = [settings.source_prompt] * len(clean)
    source: Source
    if settings.source == "noised":
        source, inversion = Noised(clean, generators([SOURCE_SEED] * len(clean))), 0
    else:
        source = yield from _trajectory(settings, recorded, told, backbone, clean, levels)
        inversion = source.evaluations
    injection = PlugAndPlay(
        backbone,
        source,
        backbone.describe(told),
        features_until=settings.tau_f,
        attention_until=settings.tau_a,
        strength=settings.share,
        mask=mask,
        branches=settings.branches,
        places=places,
        keep=keep,
    )
    start = source.at(levels[0]) if settings.starts_from == "source" else None
    return Borrowed(settings, injection, start, inversion)


@dataclass(frozen=True)
class Change:
    """Pictures ready to be changed by `walk`: the last `steps` steps are walked, from their own latents.

    These are recorded ones, or (None) the clean ones with the noise of each picture's seed (SDEdit, Meng et al. 2022).
    Outside `area` (1, 1, H, W), a mask of pixels, they stay what they were.
    """

    clean: Tensor  # (1 or B, C, h, w)
    steps: int
    recorded: Trajectory | None = None
    area: Tensor | None = None

    def source(self, each: Sequence[Generator]) -> Source:
        """The latents at every level, for pictures with these generators."""
        return self.recorded or Noised(self.clean.expand(len(each), -1, -1, -1), each, fresh=False)

    def mask(self, backbone: Backbone) -> Tensor | None:
        """How much of each latent pixel lies in the area (1, 1, h, w)."""
        return None if self.area is None else on_latents(self.area, backbone)

    @property
    def evaluations(self) -> Evaluations:
        return Evaluations(0, 0, inversion=0 if self.recorded is None else self.recorded.evaluations)


def change(
    settings: EditSettings,
    request: Request,
    backbone: Backbone,
    clean: Tensor,
    *,
    recorded: Trajectory | None = None,
    area: Tensor | None = None,
) -> Iterating[Moment, None, Change]:
    """Prepare the clean latents (1, C, h, w) for walks with the steps and solver of `request`.

    Yields the moments of an inversion.
    """
    steps = steps_of(settings.amount, request)
    if settings.source == "noised":
        return Change(clean, steps, area=area)
    levels = levels_of(request, backbone)[-1 - steps :]
    recorded = yield from _trajectory(settings, recorded, [settings.source_prompt], backbone, clean, levels)
    return Change(clean, steps, recorded, area)


def _trajectory(
    settings: LayoutSettings | EditSettings,
    recorded: Trajectory | None,
    prompts: list[str],
    backbone: Backbone,
    clean: Tensor,
    levels: list[Level],
) -> Iterating[Moment, None, Trajectory]:
    """The walk that is recorded, or an inversion."""
    if settings.source == "generated":
        assert recorded is not None, "a generated source comes with the walk that it was made by"
        return recorded
    moments: list[Moment] = []
    for moment in ascend(backbone, clean, levels, backbone.describe(prompts)):
        moments.append(moment)
        yield moment
    return Trajectory(clean, levels[-1], moments)


@dataclass(frozen=True)
class Keeping:
    """`solver`, but the latents are those of `source` where `mask` (1 or B, 1, h, w) is 0."""

    solver: Solver
    source: Source
    mask: Tensor

    def carried(self, now: Level, to: Level) -> Carried:
        return self.solver.carried(now, to)

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
        walked = self.solver(latent, prediction, now, to, previous=previous, noise=noise)
        return torch.lerp(self.source.at(to).expand_as(walked), walked, self.mask)
