"""Train a Latent Guidance Predictor on a few hundred captioned pictures (Voynov et al. 2022, section 3.1)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.defaults import TRAINING_BATCH, TRAINING_RATE, TRAINING_STEPS
from sketchguide.errors import TrainingError, UsageError
from sketchguide.extractors import Extractor
from sketchguide.images import from_ink
from sketchguide.levels import Level, check_window
from sketchguide.predictors import LatentPredictor, PredictorConfig, choose_taps
from sketchguide.seeds import generators
from sketchguide.taps import tapped
from sketchguide.training.checkpoints import Checkpoint
from sketchguide.training.data import Pictures

MAX_SKIPS = 20  # steps in a row whose loss may be NaN before the run stops


@dataclass(frozen=True, kw_only=True)
class PredictorTraining:
    """Settings of a run. The paper: 3000 steps of batch 16, Adam, widths 512-256-128-64, taps not normalised."""

    steps: int = TRAINING_STEPS.default
    batch: int = TRAINING_BATCH.default
    rate: float = TRAINING_RATE.default  # Adam's learning rate, falling to zero along a cosine
    window: tuple[float, float] = (0.0, 0.9)  # progress of the noise levels trained on: what `stop` may be later
    widths: tuple[int, ...] = (256, 128, 64)
    normalize_taps: bool = True
    taps: tuple[str, ...] = ()  # none: `choose_taps` decides
    seed: int = 0

    def __post_init__(self) -> None:
        check_window(self.window)
        if self.window[0] == self.window[1]:
            raise UsageError("window is empty; give a range such as 0 to 0.9.", field="window")
        for name, allowed in (("steps", TRAINING_STEPS), ("batch", TRAINING_BATCH), ("rate", TRAINING_RATE)):
            if not allowed.low <= getattr(self, name) <= allowed.high:
                raise UsageError(f"{name} is {getattr(self, name)}; allowed is {allowed}.", field=name)


class TrainingStep(NamedTuple):
    """How a run stands after one step."""

    step: int
    loss: float  # mean squared error of this batch; targets have variance of about 1
    skipped: int  # steps without an update so far, because their loss was not finite


class PredictorRun:
    """One training run: iterate it for steps, ask `state` for a checkpoint, `predictor` is the result.

    The features come from the *noised* latent with the *caption* as condition, the noise level is drawn per picture,
    and the target is the autoencoder's encoding of the extracted map. A run restored from a checkpoint goes on as if it
    had never stopped.
    """

    def __init__(
        self,
        backbone: Backbone,
        pictures: Pictures,
        extractor: Extractor,
        settings: PredictorTraining,
        *,
        resume: Checkpoint | None = None,
    ) -> None:
        self.backbone = backbone
        self.pictures = pictures
        self.extractor = extractor
        self.settings = settings
        table = {tap.path: tap for tap in backbone.taps}
        if missing := [path for path in settings.taps if path not in table]:
            raise UsageError(
                f"{backbone.name!r} has no tap {missing[0]!r}.", hint=f"It has: {', '.join(table)}.", field="taps"
            )
        taps = [table[path] for path in settings.taps] or choose_taps(backbone.taps)
        config = PredictorConfig(
            taps=tuple(tap.path for tap in taps),
            channels=tuple(tap.channels for tap in taps),
            latent_channels=backbone.latent_channels,
            family=backbone.family,
            backbone=backbone.name,
            map_kind=extractor.name,
            widths=settings.widths,
            normalize_taps=settings.normalize_taps,
            window=settings.window,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.predictor = LatentPredictor(config).to(backbone.device)
        self.optimizer = torch.optim.Adam(self.predictor.parameters(), lr=settings.rate)
        (self.rng,) = generators([settings.seed])
        self.step = 0
        self.skipped = 0
        self.seconds = 0.0
        if resume is not None:
            self.predictor.load_state_dict(resume.state["predictor"])
            self.optimizer.load_state_dict(resume.state["optimizer"])
            self.rng.set_state(resume.state["rng"])
            self.step = resume.step
            self.skipped = int(resume.state["skipped"])
            self.seconds = float(resume.state["seconds"])

    def state(self) -> dict[str, Any]:
        """Everything that `resume` needs."""
        return {
            "predictor": self.predictor.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.get_state(),
            "skipped": self.skipped,
            "seconds": self.seconds,
        }

    @property
    def config(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it continues."""
        return {**asdict(self.settings), "model": self.backbone.name, "map": self.extractor.name}

    def __iter__(self) -> Iterator[TrainingStep]:
        """Train until `settings.steps`, yielding after every step; the optimizer steps once per fresh batch.

        Raises TrainingError after 20 steps in a row whose loss is not finite; the weights keep their last good values.
        """
        bad = 0
        while self.step < self.settings.steps:
            started = time.monotonic()
            images, captions = self.pictures.batch(self.rng, self.settings.batch)
            levels = self._levels(self.settings.batch)
            statistics = [buffer.clone() for buffer in self.predictor.buffers()]
            loss = self._loss(images, captions, levels, self.rng)
            if self._update(loss):
                bad = 0
            else:
                for buffer, before in zip(self.predictor.buffers(), statistics, strict=True):
                    buffer.copy_(before)  # the forward pass has put the bad batch into BatchNorm
                bad += 1
                self.skipped += 1
                if bad > MAX_SKIPS:
                    raise TrainingError(
                        f"The loss was not finite for {bad} steps in a row, at step {self.step}.",
                        hint="Lower the learning rate or train in float32; the last checkpoint is intact.",
                    )
            self.step += 1
            self.seconds += time.monotonic() - started
            yield TrainingStep(self.step, loss.item(), self.skipped)
        self.predictor.eval()

    def _update(self, loss: Tensor) -> bool:
        """Step the optimizer, unless loss or gradient is not finite; tells whether it did."""
        for group in self.optimizer.param_groups:
            done = torch.tensor(self.step / self.settings.steps)
            group["lr"] = self.settings.rate * float(0.5 * (1 + torch.cos(torch.pi * done)))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), 1.0)
        if not (loss.isfinite() and norm.isfinite()):
            return False
        self.optimizer.step()
        return True

    def _levels(self, count: int) -> list[Level]:
        start, stop = self.settings.window
        drawn = torch.rand(count, generator=self.rng) * (stop - start) + start
        return [self.backbone.level(float(p)) for p in drawn]

    def _loss(self, images: Tensor, captions: Sequence[str], levels: Sequence[Level], rng: Generator) -> Tensor:
        """Mean squared error in latents. Train mode lasts no longer: BatchNorm must not move elsewhere."""
        self.predictor.train()
        error = self._error(images, captions, levels, rng)
        self.predictor.eval()
        return error

    def _error(self, images: Tensor, captions: Sequence[str], levels: Sequence[Level], rng: Generator) -> Tensor:
        backbone = self.backbone
        images = images.to(backbone.device)
        with torch.no_grad():
            maps = from_ink(self.extractor(images))
            clean, target = backbone.encode(torch.cat([images, maps])).chunk(2)
            noise = torch.randn(clean.shape, generator=rng).to(clean)
            column = torch.tensor([[level.alpha, level.sigma] for level in levels], device=clean.device)[
                ..., None, None, None
            ]
            latent = column[:, 0] * clean + column[:, 1] * noise
            features = self._features(latent, levels, captions)
        times = torch.tensor([level.time for level in levels], device=clean.device)
        size = (latent.shape[-2], latent.shape[-1])
        return (self.predictor.predict_at(features, times, size) - target).square().mean()

    def _features(self, latent: Tensor, levels: Sequence[Level], captions: Sequence[str]) -> dict[str, Tensor]:
        times = torch.tensor([level.time for level in levels], device=latent.device)
        with tapped(self.backbone.network, self.predictor.config.taps) as features:
            self.backbone.run(latent, times, self.backbone.describe(captions))
        return features

    @torch.no_grad()
    def score(self, images: Tensor, captions: Sequence[str], *, batch: int = 32) -> float:
        """Error on held-out pictures as a share of the target's variance: 0 is perfect, 1 knows nothing.

        (N, 3, H, W) in [-1, 1]. Noise and levels are the same at every call.
        """
        (rng,) = generators([12345])
        start, stop = self.settings.window
        total = 0.0
        for first in range(0, len(images), batch):
            part = images[first : first + batch]
            spread = torch.linspace(0, 1, len(part) + 2)[1:-1] * (stop - start) + start
            levels = [self.backbone.level(float(p)) for p in spread]
            total += float(self._error(part, captions[first : first + batch], levels, rng)) * len(part)
        targets = self.backbone.encode(from_ink(self.extractor(images.to(self.backbone.device))))
        variance = (targets - targets.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
        return total / len(images) / float(variance)
