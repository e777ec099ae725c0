"""The two ways to act on a network while it samples: a guide pulls the result, an injection rewrites its inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sketchguide.defaults import Branches
from sketchguide.levels import Level, Prediction, Window
from sketchguide.solvers import Carried
from sketchguide.taps import Rewrite


@dataclass(frozen=True)
class Step:
    """Everything a guide may look at. Every tensor keeps its graph back to `latent`."""

    latent: Tensor  # (B, C, h, w)
    prediction: Prediction  # of the conditional branch
    features: Mapping[str, Tensor]  # tap path -> that module's output
    level: Level


class Strength(Protocol):
    """Turns a gradient into a displacement of the next latent; false when it would always be zero.

    `move` (B, C, h, w) is the step that the solver just took from level `now`, `carried` how much of what the network
    predicted there is in it.
    """

    def __call__(self, gradient: Tensor, move: Tensor, now: Level, carried: Carried) -> Tensor: ...

    def __bool__(self) -> bool: ...


class Guide(Protocol):
    """Pulls the result: the sampler moves the latent to lower `loss`, one value per image (B,).

    One that has `of_network = False` looks at the latent and the level alone, which spares it the network's graph. One
    that was learnt at some noise levels only says at which in `trained`, the `Backbone.level` progress (from, to) of
    training, and is not asked at others, whatever the progress at which a scheduler has them.
    """

    @property
    def reads(self) -> Sequence[str]: ...  # taps whose outputs the loss needs
    @property
    def window(self) -> Window: ...
    @property
    def strength(self) -> Strength: ...
    @property
    def every(self) -> int: ...  # pulls at the first and then at every so many-th step of the walk

    def loss(self, step: Step) -> Tensor: ...


class Injection(Protocol):
    """Changes what the network sees: rewrites the outputs of named submodules.

    `rewrites` is asked once per level for all passes at it. An injection that has `branches = "conditional"` leaves
    the negative pass of classifier-free guidance alone; the others act on both.
    """

    @property
    def window(self) -> Window: ...

    def rewrites(self, level: Level) -> Mapping[str, Rewrite]: ...


def of_network(guide: Guide) -> bool:
    return getattr(guide, "of_network", True)


def trained_on(guide: Guide) -> Window | None:
    return getattr(guide, "trained", None)


def acts_on(injection: Injection) -> Branches:
    return getattr(injection, "branches", "both")
