"""LGP at sampling time: pull the latent so that the map read off its activations becomes the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from sketchguide.backbones.base import Backbone
from sketchguide.controls.base import Step, Strength
from sketchguide.controls.strengths import Proportional
from sketchguide.defaults import BLANK, WIDEN
from sketchguide.errors import UsageError
from sketchguide.images import from_ink
from sketchguide.levels import Window, check_every, check_one_or_each, check_window
from sketchguide.predictors import LatentPredictor
from sketchguide.sketch import SpatialMap


@dataclass(frozen=True)
class LatentGuide:
    """The loss ‖P - E(e)‖², one value per image: P is LGP(F(z_t), t), as in Voynov et al. 2022, eq. 3, and from
    `handover` on (progress, 0..1) what the predictor reads off the clean latent that the network predicts; at 1 never.
    With a predictor of ink, minus the log-likelihood of the map e, a mean over its pixels: classifier guidance
    (Dhariwal & Nichol 2021) with a drawing in place of a class.

    `target` is the encoded map E(e) (B or 1, C, h, w), or for a predictor of ink the map e (B or 1, 1, H, W) in [0, 1];
    `weight` (B or 1, 1, and its height and width), at least 0, says how strongly each place binds. `window` must lie
    within the levels that the predictor was trained on; where a scheduler spaces its levels otherwise, it does not pull
    at those outside. With `every` above 1 the network mends what the pull has bent in the steps between, and they cost
    nothing more than plain ones.
    """

    predictor: LatentPredictor
    target: Tensor
    weight: Tensor | None = None
    window: Window = (0.0, 0.5)
    strength: Strength = field(default_factory=Proportional)
    every: int = 1
    handover: float = 1.0

    def __post_init__(self) -> None:
        check_window(self.window)
        check_every(self.every)
        self.predictor.eval()  # in training its BatchNorm would learn from what it guides
        if not 0 <= self.handover <= 1:
            raise UsageError(f"handover is {self.handover}; it must lie in 0..1.", field="handover")
        channels, *_ = self.predictor.config.target_shape((1, 1))
        if self.target.ndim != 4 or self.target.shape[1] != channels:
            kind = "an encoded map" if self.predictor.config.reads == "latent" else "a map of ink"
            raise UsageError(
                f"The target is {tuple(self.target.shape)}; it must be {kind} (B, {channels}, height, width).",
                hint="target_of makes it of a SpatialMap.",
                field="target",
            )
        if self.weight is not None:
            grid = tuple(self.target.shape[-2:])
            if self.weight.shape[1:] != (1, *grid) or len({1, len(self.weight), len(self.target)}) > 2:
                raise UsageError(
                    f"The weight is {tuple(self.weight.shape)}; it must be (B or 1, 1, {grid[0]}, {grid[1]}).",
                    field="weight",
                )
            if not (self.weight >= 0).all():
                raise UsageError("A weight is below 0 or not a number.", field="weight")
        if self.handover < 1 and not self.predictor.config.clean_widths:
            raise UsageError(
                "This predictor reads activations alone.",
                hint="Set handover to 1, or train the predictor again.",
                field="handover",
            )
        start, end = self.trained
        if self.window[0] < start or self.window[1] > end:
            raise UsageError(
                f"The guide acts from {self.window[0]:g} to {self.window[1]:g} of the steps, but this predictor was "
                f"trained for {start:g} to {end:g}.",
                hint=f"Stop between {start:g} and {end:g}, or train a predictor for other noise.",
                field="stop",
            )

    def interpolated(self, frames: int) -> LatentGuide:
        """From the first of two targets to the second, in even steps: one per frame."""
        if len(self.target) != 2:
            raise UsageError(f"{len(self.target)} drawings were given; two are needed.", field="sketch")
        places = torch.linspace(0, 1, frames, device=self.target.device)[:, None, None, None]
        weight = None if self.weight is None else torch.lerp(self.weight[:1], self.weight[-1:], places)
        return replace(self, target=torch.lerp(self.target[:1], self.target[1:], places), weight=weight)

    def of(self, rows: slice) -> LatentGuide:
        """The guide of some of the pictures that this one, with a target for each, is for."""
        own = self.weight if self.weight is None or len(self.weight) == 1 else self.weight[rows]
        return replace(self, target=self.target[rows], weight=own)

    @property
    def trained(self) -> Window:
        return self.predictor.config.window

    @property
    def reads(self) -> Sequence[str]:
        return self.predictor.config.taps

    def loss(self, step: Step) -> Tensor:
        size = (step.latent.shape[-2], step.latent.shape[-1])
        _, *wanted = self.predictor.config.target_shape(size)
        if list(self.target.shape[-2:]) != wanted:
            raise UsageError(
                f"The drawing's target is {tuple(self.target.shape[-2:])}, the picture's {tuple(wanted)} (height, "
                "width).",
                field="sketch",
            )
        check_one_or_each(self.target, step.latent, "drawings", field="sketch")
        if self.weight is not None:
            check_one_or_each(self.weight, step.latent, "weights", field="weight")
        if step.level.progress < self.handover:
            read = self.predictor(step.features, step.level, size)
        else:
            read = self.predictor.read_clean(step.prediction.clean)
        error = self.predictor.error(read, self.target)
        if self.weight is not None:
            error = error * self.weight
        return error.flatten(1).mean(dim=1)


def target_of(
    drawing: SpatialMap,
    backbone: Backbone,
    predictor: LatentPredictor,
    *,
    blank: float = BLANK.default,
    widen: float = WIDEN.default,
) -> tuple[Tensor, Tensor]:
    """What `predictor` should read off a picture of the drawing, and the weights (1, 1, its height and width): the
    target E(e) (1, C, h, w) of the map, ink white on black as in the paper, or for a predictor of ink the map
    (1, 1, H, W) itself; where pictures are larger than those it learned from, yet from as large latents, its mean.

    `blank` (0..1) is the weight of paper, ink being 1 (in Voynov et al. both weigh the same): a drawing says where
    lines are, and less surely where none are. `widen`, at least 1, is as in `SpatialMap.widened`: within a wider line
    the edge may lie where it fits.
    """
    drawing = drawing.widened(widen)
    ink, weight = (
        torch.tensor(values, device=backbone.device)[None, None]
        for values in (drawing.ink, drawing.weight * (blank + (1 - blank) * drawing.ink))
    )
    if predictor.config.reads == "ink":
        finer = backbone.stride // predictor.config.stride
        return avg_pool2d(ink, finer), avg_pool2d(weight, finer)
    target = backbone.encode(from_ink(ink))
    return target, adaptive_avg_pool2d(weight, (target.shape[-2], target.shape[-1]))
