"""What a walk takes from a picture that is there already: its layout, or its latents, part of which may change.

`recorded` is the walk that a generated source was made by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Generator as Iterating
from dataclasses import dataclass

import torch
from scipy import ndimage
from torch import Generator, Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.controls.features import Places, PlugAndPlay, Source, choose_places
from sketchguide.defaults import SEED
from sketchguide.errors import TapError, UsageError
from sketchguide.inversion import Noised, Trajectory, ascend
from sketchguide.levels import Level, Prediction
from sketchguide.request import EditSettings, LayoutSettings, Request
from sketchguide.sampling import Evaluations, Moment
from sketchguide.seeds import generators
from sketchguide.solvers import Carried, Solver
from sketchguide.taps import children_of, submodule_at

SOURCE_SEED = SEED.high  # of the noise on a source, the same for every picture: a seed is one picture in any batch


def levels_of(request: Request, backbone: Backbone) -> list[Level]:
    """The levels of a whole walk with the steps and solver of `request`."""
    return backbone.levels(request.steps, solver_name(request, backbone), request.size)


def solver_name(request: Request, backbone: Backbone) -> str:
    """The one that is asked for, else the model's own."""
    return request.solver or next(iter(backbone.solvers))


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


def steps_of(amount: float, request: Request) -> int:
    """How many of the steps of `request` are the last `amount` (0..1] of them: at least one."""
    if not 0 < amount <= 1:
        raise UsageError(f"amount is {amount}; it must be above 0 and at most 1.", field="amount")
    return max(1, round(amount * request.steps))


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


def near_strokes(ink: Tensor, reach: float, backbone: Backbone) -> Tensor:
    """The mask (B, 1, h, w) of latent pixels within `reach` (part of the longer side) of ink (B, 1, H, W) in [0, 1]."""
    return on_latents(grown_by(ink, _pixels(reach, max(ink.shape[-2:]))), backbone)


def on_latents(mask: Tensor, backbone: Backbone) -> Tensor:
    """A mask of pictures (B, 1, H, W) as one of latents (B, 1, h, w)."""
    return torch.nn.functional.avg_pool2d(mask, backbone.stride).to(backbone.device)


def blending(area: Tensor, backbone: Backbone) -> Tensor:
    """How much of what is made shows in each pixel of a picture of which only `area` (1, 1, H, W), a mask, changes:
    less towards its edge, as far as the latent pixels there lie outside, and beyond it nothing.
    """
    size = (area.shape[-2], area.shape[-1])
    changed = torch.nn.functional.interpolate(on_latents(area, backbone), size=size, mode="bilinear")
    return changed.minimum(area.to(changed))


def drawn_area(ink: Tensor, margin: float, *, side: float | None = None) -> Tensor:
    """What a drawing (1, 1, H, W) is about, as a mask: inside its lines, and within `margin` of them.

    `margin` is part of `side`, in pixels of the drawing, or of its longer side where that is None; from 1 on it is
    everything. The lines need not quite close. Raises UsageError where there are none.
    """
    if margin >= 1:
        return torch.ones_like(ink)
    grown = grown_by((ink > 0.5).float(), _pixels(margin, max(ink.shape[-2:]) if side is None else side))
    if not grown.any():
        raise UsageError(
            "The drawing is blank: nothing would change.",
            hint="Draw something, or change everything with margin 1.",
            field="sketch",
        )
    filled = ndimage.binary_fill_holes(grown[0, 0].cpu().numpy() > 0)
    return torch.from_numpy(filled)[None, None].to(ink)


def _pixels(reach: float, side: float) -> int:
    return max(1, round(reach * side))


def grown_by(ink: Tensor, pixels: int) -> Tensor:
    """Ink (B, 1, H, W) with every value spread over the pixels within `pixels` of it, along both axes."""
    for kernel, padding in (((2 * pixels + 1, 1), (pixels, 0)), ((1, 2 * pixels + 1), (0, pixels))):
        ink = torch.nn.functional.max_pool2d(ink, kernel, stride=1, padding=padding)
    return ink
