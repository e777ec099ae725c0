"""What every training run does alike: fresh batches, updates that skip bad ones, and a state to go on from."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from sketchguide.backbones.base import Backbone, Condition
from sketchguide.defaults import SCALE
from sketchguide.errors import TrainingError, UsageError, warn
from sketchguide.levels import Level
from sketchguide.seeds import generators
from sketchguide.training.checkpoints import Checkpoint
from sketchguide.training.data import Pictures

POOL_BYTES = 2 * 2**30  # of examples that a run keeps to see them again
SHOWN = 80  # letters of what a caption loses that a warning shows
MAX_SKIPS = 20  # steps in a row whose loss may be NaN before the run stops
_AFRESH = "Train afresh with a lower learning rate, or in float32."


class TrainingStep(NamedTuple):
    """How a run stands after one step."""

    step: int
    loss: float  # of this batch
    skipped: int  # steps without an update so far, because loss or gradient was not finite


class TrainingRun(ABC):
    """Iterate it for steps, ask `state` for a checkpoint; `module` is what learns.

    `pictures` is what batches are drawn from. `settings`, a frozen dataclass, have at least the number of `steps` and
    the learning `rate`.
    """

    settings: Any

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        seed: int,
        pictures: Pictures | None = None,
    ) -> None:
        self.module = module
        self._drawn = pictures
        self.optimizer = optimizer
        (self.rng,) = generators([seed])
        self.step = 0
        self.skipped = 0
        self.seconds = 0.0

    def go_on(self, latest: Checkpoint) -> None:
        """Be a new run of the same settings as it was at `latest`, as if it had never stopped."""
        self.module.load_state_dict(latest.state["module"])
        self.optimizer.load_state_dict(latest.state["optimizer"])
        self.rng.set_state(latest.state["rng"])
        self.step = latest.step
        self.skipped = int(latest.state["skipped"])
        self.seconds = float(latest.state["seconds"])
        self.settings = replace(self.settings, steps=latest.meta.get("steps", self.settings.steps))
        if self._drawn is not None:
            self._drawn.used.update(latest.state["used"].tolist())

    @property
    def progress(self) -> float:
        """0 at the start; the run ends at 1."""
        return self.step / self.settings.steps if self.step < self.settings.steps else 1.0

    def rate(self) -> float:
        """The learning rate of the step to come: it falls to zero along a cosine."""
        return self.settings.rate * cosine(self.progress)

    @abstractmethod
    def loss(self) -> Tensor:
        """The loss of a fresh batch, drawn with `self.rng`; its graph leads to the parameters of `module`."""

    def state(self) -> dict[str, Any]:
        """Everything that `go_on` needs."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.get_state(),
            "skipped": self.skipped,
            "seconds": self.seconds,
            **({} if self._drawn is None else {"used": torch.tensor(sorted(self._drawn.used), dtype=torch.int64)}),
        }

    def __iter__(self) -> Iterator[TrainingStep]:
        """Train to the end, yielding after every step; the optimizer steps once per fresh batch.

        Raises TrainingError after 20 steps in a row whose loss is not finite, or where that of no step was; the weights
        keep their last good values.
        """
        bad = 0
        while self.progress < 1:
            started = time.monotonic()
            buffers = [buffer.clone() for buffer in self.module.buffers()]
            loss = self.loss()
            if self._update(loss):
                bad = 0
            else:
                for buffer, before in zip(self.module.buffers(), buffers, strict=True):
                    buffer.copy_(before)  # the forward pass has put the bad batch into BatchNorm
                bad += 1
                self.skipped += 1
                if bad >= MAX_SKIPS:
                    raise TrainingError(
                        f"The loss was not finite for {bad} steps in a row, at step {self.step}.",
                        hint=_AFRESH,
                    )
            self.step += 1
            self.seconds += time.monotonic() - started
            yield TrainingStep(self.step, loss.item(), self.skipped)
        if self.skipped and self.skipped == self.step:
            raise TrainingError("Nothing was learned: loss or gradient was not finite at any step.", hint=_AFRESH)
        self.module.eval()

    def _update(self, loss: Tensor) -> bool:
        """Step the optimizer, unless loss or gradient is not finite; tells whether it did."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        if not (loss.isfinite() and norm.isfinite()):
            return False
        self.optimizer.step()
        return True


def check_settings(settings: Any, **least: int) -> None:
    """UsageError where a number of `settings` that is set is below its `least`, or `rate` is no learning rate."""
    for name, low in least.items():
        value: float | None = getattr(settings, name)
        if value is not None and value < low:
            raise UsageError(f"{name} is {value}; it must be at least {low}.", field=name)
    if settings.rate is not None and not 0 < settings.rate <= 1:
        raise UsageError(f"rate is {settings.rate}; it must be above 0 and at most 1.", field="rate")


def largest_pool(wanted: int, size: int) -> int:
    """How many examples of `size` bytes a run may keep of those that it wants to: one at least."""
    return max(1, min(wanted, POOL_BYTES // size))


def cosine(progress: float) -> float:
    """1 at the start of a run, falling to 0 at its end."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def describe(backbone: Backbone, captions: Sequence[str]) -> Condition:
    """What the network is told of pictures in training. One that is told the scale of guidance is told the usual one:
    what it computes then is what there will be when pictures are made.
    """
    told = backbone.describe(captions)
    return told.guided(SCALE.default) if backbone.distilled else told


def warn_of_long_captions(backbone: Backbone, captions: Sequence[str]) -> None:
    """Warn (SketchguideWarning) of captions that are longer than the text encoder reads, and say what is lost of the
    longest.

    How many there are is found by halves, as if the longer of two captions had more tokens: of thousands a dozen are
    looked at.
    """
    longest = sorted(captions, key=len, reverse=True)
    (lost,) = backbone.unread(longest[:1])
    if lost:
        count = bisect_left(longest, True, key=lambda caption: not backbone.unread([caption])[0])
        shown = lost if len(lost) <= SHOWN else f"{lost[:SHOWN]} …"
        warn(
            f"Captions are longer than {backbone.name} reads, about {count} of {len(longest)}; the longest loses "
            f"{shown!r}."
        )


class Noisy(NamedTuple):
    """Clean latents with noise put on them, one level per row."""

    latent: Tensor  # (B, C, h, w): alpha * clean + sigma * noise
    noise: Tensor  # (B, C, h, w)
    alpha: Tensor  # (B, 1, 1, 1)
    sigma: Tensor  # (B, 1, 1, 1)
    times: Tensor  # (B,), what the network is told


def add_noise(clean: Tensor, levels: Sequence[Level], rng: Generator) -> Noisy:
    """`clean` (B, C, h, w) at the B `levels`; the noise is drawn on the CPU, the same for every device."""
    noise = torch.randn(clean.shape, generator=rng).to(clean)
    table = torch.tensor([[level.alpha, level.sigma, level.time] for level in levels], device=clean.device)
    alpha, sigma = table[:, 0, None, None, None], table[:, 1, None, None, None]
    return Noisy(alpha * clean + sigma * noise, noise, alpha, sigma, table[:, 2])
