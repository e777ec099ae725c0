"""Train a Latent Guidance Predictor on a few hundred captioned pictures (Voynov et al. 2022, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Generator, Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.defaults import TRAINING_BATCH, TRAINING_RATE, TRAINING_STEPS
from sketchguide.errors import UsageError
from sketchguide.extractors import Extractor
from sketchguide.images import from_ink
from sketchguide.levels import Level, check_window
from sketchguide.predictors import LatentPredictor, PredictorConfig, check_reads, choose_taps
from sketchguide.seeds import generators, seeded
from sketchguide.taps import tapped
from sketchguide.training.data import Pictures
from sketchguide.training.run import Noisy, TrainingRun, add_noise, describe
from sketchguide.weights import as_tuples

SPOILT = 0.4  # noise that clean latents are read through at most: what the network predicts is never quite clean


@dataclass(frozen=True, kw_only=True)
class PredictorTraining:
    """Settings of a run. The paper: 3000 steps of batch 16, one view, Adam, widths 512-256-128-64, raw taps alone, of
    latents."""

    steps: int = TRAINING_STEPS.default
    batch: int = TRAINING_BATCH.default
    views: int = 4  # noise levels at which a batch has each of its pictures; map and latents are made once for all
    rate: float = TRAINING_RATE.default  # Adam's learning rate, falling to zero along a cosine
    window: tuple[float, float] = (0.0, 0.9)  # progress of the noise levels trained on: what `stop` may be later
    widths: tuple[int, ...] = (256, 128, 64)
    normalize_taps: bool = False
    clean_widths: tuple[int, ...] = (96, 96, 96)
    reads: str = "ink"  # or "latent", as PredictorConfig has it
    taps: tuple[str, ...] = ()  # none: `choose_taps` decides
    seed: int = 0

    def __post_init__(self) -> None:
        check_window(self.window)
        if self.window[0] == self.window[1]:
            raise UsageError("window is empty; give a range such as 0 to 0.9.", field="window")
        check_reads(self.reads)
        if self.views < 1:
            raise UsageError(f"views is {self.views}; it must be at least 1.", field="views")
        for name, allowed in (("steps", TRAINING_STEPS), ("batch", TRAINING_BATCH), ("rate", TRAINING_RATE)):
            if not allowed.low <= getattr(self, name) <= allowed.high:
                raise UsageError(f"{name} is {getattr(self, name)}; allowed is {allowed}.", field=name)

    def as_saved(self, config: Mapping[str, Any], *, but: Collection[str]) -> PredictorTraining:
        """These settings, with all others than those named `but` as they are in the `config` of a checkpoint: defaults
        may have changed since."""
        saved = {one.name: config[one.name] for one in fields(self) if one.name in config and one.name not in but}
        return replace(self, **{name: as_tuples(value) for name, value in saved.items()})


def predictor_config(backbone: Backbone, settings: PredictorTraining, *, map_kind: str) -> PredictorConfig:
    """What a predictor for `backbone` is that is trained so. UsageError for a tap that the backbone does not have."""
    table = {tap.path: tap for tap in backbone.taps}
    if missing := [path for path in settings.taps if path not in table]:
        raise UsageError(
            f"{backbone.name!r} has no tap {missing[0]!r}.", hint=f"It has: {', '.join(table)}.", field="taps"
        )
    taps = [table[path] for path in settings.taps] or choose_taps(backbone.taps)
    return PredictorConfig(
        taps=tuple(tap.path for tap in taps),
        channels=tuple(tap.channels for tap in taps),
        latent_channels=backbone.latent_channels,
        family=backbone.family,
        backbone=backbone.name,
        map_kind=map_kind,
        widths=settings.widths,
        normalize_taps=settings.normalize_taps,
        clean_widths=settings.clean_widths,
        window=settings.window,
        reads=settings.reads,
        stride=backbone.stride if settings.reads == "ink" else 1,
    )


class PredictorRun(TrainingRun):
    """One training run; `predictor` is the result. The loss is minus the log-likelihood of ink, or the mean squared
    error in latents, whose targets have a variance of about 1.

    The features come from the *noised* latent with the *caption* as condition, the noise level is drawn per picture,
    and the target is the autoencoder's encoding of the extracted map, or where ink is read the map.
    """

    def __init__(
        self,
        backbone: Backbone,
        pictures: Pictures,
        extractor: Extractor,
        settings: PredictorTraining,
    ) -> None:
        self.backbone = backbone
        self.pictures = pictures
        self.extractor = extractor
        self.settings = settings
        config = predictor_config(backbone, settings, map_kind=extractor.name)
        with seeded(settings.seed):
            self.predictor = LatentPredictor(config).to(backbone.device)
        optimizer = torch.optim.Adam(self.predictor.parameters(), lr=settings.rate)
        super().__init__(self.predictor, optimizer, seed=settings.seed, pictures=pictures)

    @property
    def config(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it continues."""
        return {**asdict(self.settings), "model": self.backbone.name, "map": self.extractor.name}

    def loss(self) -> Tensor:
        images, captions = self.pictures.batch(self.rng, self._pictures_at_once)
        levels = self._levels(self.settings.batch)
        self.predictor.train()  # no longer than this: BatchNorm must not move elsewhere
        try:
            errors = self._error(images, captions, levels, self.rng)
        finally:
            self.predictor.eval()
        return errors.mean()

    @property
    def _pictures_at_once(self) -> int:
        return -(-self.settings.batch // self.settings.views)

    def _levels(self, count: int) -> list[Level]:
        start, stop = self.settings.window
        drawn = torch.rand(count, generator=self.rng) * (stop - start) + start
        return [self.backbone.level(float(p)) for p in drawn]

    def _error(self, images: Tensor, captions: Sequence[str], levels: Sequence[Level], rng: Generator) -> Tensor:
        """(1 or 2, N) for N `levels`, which the pictures share out in turn: of what is read off the activations and, if
        that is trained, off the clean latents.
        """
        rows = [i % len(images) for i in range(len(levels))]
        clean, target = (latents[rows] for latents in self._encoded(images))
        noisy = add_noise(clean, levels, rng)
        read = [self._read(noisy, [captions[i] for i in rows])]
        if self.settings.clean_widths:
            amount = SPOILT * torch.rand(len(rows), 1, 1, 1, generator=rng).to(clean)
            read.append(self.predictor.read_clean(clean + amount * noisy.noise))
        return torch.stack([self.predictor.error(one, target).flatten(1).mean(dim=1) for one in read])

    @torch.no_grad()
    def _encoded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The latents (B, C, h, w) of pictures (B, 3, H, W), and what should be read off these."""
        images = images.to(self.backbone.device)
        maps = self.extractor(images)
        if self.settings.reads == "ink":
            return self.backbone.encode(images), maps.float()
        clean, target = self.backbone.encode(torch.cat([images, from_ink(maps)])).chunk(2)
        return clean, target

    def _read(self, noisy: Noisy, captions: Sequence[str]) -> Tensor:
        """What the predictor reads off the activations."""
        backbone = self.backbone
        with torch.no_grad(), tapped(backbone.network, self.predictor.config.taps) as features:
            backbone.run(noisy.latent, noisy.times, describe(backbone, captions))
        return self.predictor.predict_at(features, noisy.times, (noisy.latent.shape[-2], noisy.latent.shape[-1]))

    @torch.no_grad()
    def score(self, images: Tensor, captions: Sequence[str]) -> float:
        """Error on held-out pictures as a share of that of the best constant: 0 is perfect, 1 knows nothing; not a
        number where all maps are alike and even throughout, as those without an edge.

        Of what is read off the activations. (N, 3, H, W) in [-1, 1]; noise and levels are the same at every call. It
        takes no more memory than training does: as many pictures are encoded at once.
        """
        (rng,) = generators([12345])
        start, stop = self.settings.window
        spread = torch.linspace(0, 1, len(images) + 2)[1:-1] * (stop - start) + start
        levels = [self.backbone.level(float(p)) for p in spread]
        error, targets = 0.0, list[Tensor]()
        for first in range(0, len(images), self._pictures_at_once):
            part = slice(first, first + self._pictures_at_once)
            clean, target = self._encoded(images[part])
            read = self._read(add_noise(clean, levels[part], rng), captions[part])
            error += float(self.predictor.error(read, target).flatten(1).mean(dim=1).sum())
            targets.append(target)
        wanted = torch.cat(targets)
        usual = wanted.mean(dim=(0, 2, 3), keepdim=True)
        known = (wanted, usual)
        if self.settings.reads == "ink":
            known = (wanted.logit(1e-6), usual.logit(1e-6))
        least, most = (float(self.predictor.error(one, wanted).mean()) for one in known)  # not 0 for shares of ink
        return (error / len(images) - least) / (most - least) if most > least else math.nan
