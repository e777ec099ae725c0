"""A backbone around a backbone: what it does not say otherwise it passes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sketchguide.backbones.base import Backbone, Condition
from sketchguide.levels import Level, Prediction, PredictionKind
from sketchguide.solvers import SolverChoice
from sketchguide.taps import TapInfo


@dataclass(frozen=True, eq=False)
class Around:
    """A Backbone that is `inner` in everything."""

    inner: Backbone

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def family(self) -> str:
        return self.inner.family

    @property
    def network(self) -> nn.Module:
        return self.inner.network

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return self.inner.networks

    @property
    def taps(self) -> Sequence[TapInfo]:
        return self.inner.taps

    @property
    def device(self) -> torch.device:
        return self.inner.device

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    @property
    def latent_channels(self) -> int:
        return self.inner.latent_channels

    @property
    def stride(self) -> int:
        return self.inner.stride

    @property
    def multiple(self) -> int:
        return self.inner.multiple

    @property
    def largest(self) -> int | None:
        return self.inner.largest

    @property
    def prediction_kind(self) -> PredictionKind:
        return self.inner.prediction_kind

    @property
    def default_size(self) -> tuple[int, int]:
        return self.inner.default_size

    @property
    def solvers(self) -> Mapping[str, SolverChoice]:
        return self.inner.solvers

    @property
    def distilled(self) -> bool:
        return self.inner.distilled

    def levels(self, steps: int, solver: str | None = None, size: tuple[int, int] | None = None) -> list[Level]:
        return self.inner.levels(steps, solver, size)

    def level(self, progress: float) -> Level:
        return self.inner.level(progress)

    def describe(self, prompts: Sequence[str]) -> Condition:
        return self.inner.describe(prompts)

    def unread(self, prompts: Sequence[str]) -> list[str]:
        return self.inner.unread(prompts)

    def predict(self, latent: Tensor, level: Level, condition: Condition) -> Prediction:
        return self.inner.predict(latent, level, condition)

    def run(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        return self.inner.run(latent, times, condition)

    def encode(self, images: Tensor) -> Tensor:
        return self.inner.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.inner.decode(latents)


_KEPT = 4  # conditions: those of a source, of the negative pass and of the prompt at hand


@dataclass(frozen=True, eq=False)
class Remembering(Around):
    """`inner`, whose text encoders read the same prompts once: for one run, in which nothing changes what they say.

    Large encoders take seconds, and offloaded ones turn the network out to come in.
    """

    _known: dict[tuple[str, ...], Condition] = field(
        default_factory=dict[tuple[str, ...], Condition], init=False, repr=False
    )

    def describe(self, prompts: Sequence[str]) -> Condition:
        if isinstance(prompts, str):
            return self.inner.describe(prompts)  # which refuses it
        texts = tuple(dict.fromkeys(prompts))
        known = self._known.pop(texts) if texts in self._known else self.inner.describe(texts)
        self._known[texts] = known  # the last that was asked for
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return known.rows([texts.index(prompt) for prompt in prompts])
