"""Train a noise-aware classifier of latents, or a classifier of pictures or drawings, from pictures and class names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import (
    LATENT_WIDTHS,
    ClassifierConfig,
    IconClassifier,
    LatentClassifier,
    calibration_error,
    fit_temperature,
)
from sketchguide.errors import UsageError
from sketchguide.levels import Level, check_window
from sketchguide.seeds import generators, seeded
from sketchguide.training.data import Example, Pictures
from sketchguide.training.run import TrainingRun, add_noise, check_settings, largest_pool

_BATCH = 64
_GROUP = 32
_GROWS = 4


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """Settings of a run. The caption of a picture is the name of its class."""

    steps: int = 2000
    batch: int = 64
    rate: float = 2e-3  # AdamW's learning rate, falling to zero along a cosine
    smoothing: float = 0.05  # of the labels (Müller et al. 2019, 1906.02629): confidence stays near accuracy
    widths: tuple[int, ...] = LATENT_WIDTHS
    window: tuple[float, float] = (0.0, 1.0)  # progress of the noise levels trained on
    pool: int = 1000  # groups of augmented pictures whose latents are kept, 2 GiB at most; their noise is always new
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_window(self.window)
        check_settings(self, steps=1, batch=2, pool=1)
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"smoothing is {self.smoothing}; it must lie in 0..1.", field="smoothing")


class Calibration(NamedTuple):
    """What a classifier is worth at one noise level, on pictures that it was not trained on."""

    progress: float  # 0 at pure noise, 1 at the finished image
    accuracy: float
    confidence: float
    error: float  # expected calibration error


def classes_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """The different captions of `examples`, sorted. UsageError for fewer than two, and for one that is empty."""
    classes = tuple(sorted({example.caption for example in examples}))
    if len(classes) < 2 or not classes[0]:
        raise UsageError(
            f"The pictures have {len(classes)} classes, of which none may be without a name and two are the least.",
            hint="Put the pictures of each class into a folder that has its name.",
            field="data",
        )
    return classes


class _ClassRun(TrainingRun):
    """Cross-entropy on fresh batches; the learning rate follows a cosine."""

    settings: ClassifierTraining
    pictures: Pictures

    def __init__(
        self,
        module: nn.Module,
        classes: Sequence[str],
        pictures: Pictures,
        settings: ClassifierTraining,
    ) -> None:
        self.settings = settings
        self.pictures = pictures
        self._number = {name: number for number, name in enumerate(classes)}
        optimizer = torch.optim.AdamW(module.parameters(), lr=settings.rate, weight_decay=0.02)
        super().__init__(module, optimizer, seed=settings.seed, pictures=pictures)
        module.eval()

    @property
    def config(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it continues."""
        return {**asdict(self.settings), "classes": len(self._number)}

    def labels(self, captions: Sequence[str]) -> Tensor:
        return torch.tensor([self._number[caption] for caption in captions])

    def cross_entropy(self, classify: Callable[[], Tensor], labels: Tensor) -> Tensor:
        """Of the logits (B, K) that `classify` gives in training mode, and labels (B,)."""
        self.module.train()  # no longer than this: BatchNorm must not move elsewhere
        try:
            with torch.autocast(labels.device.type, torch.bfloat16, enabled=self.settings.bf16):
                logits = classify()
        finally:
            self.module.eval()
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.settings.smoothing)

    @abstractmethod
    def score(self, images: Tensor, captions: Sequence[str]) -> float:
        """Share of wrong answers on held-out pictures (N, 3, H, W)."""


class LatentClassifierRun(_ClassRun):
    """p(y | x_t, t) on noised latents of `backbone`; `classifier` is the result."""

    def __init__(
        self,
        backbone: Backbone,
        pictures: Pictures,
        settings: ClassifierTraining,
        *,
        classes: Sequence[str],
    ) -> None:
        self.backbone = backbone
        config = ClassifierConfig(
            classes=tuple(classes),
            latent_channels=backbone.latent_channels,
            stride=backbone.stride,
            family=backbone.family,
            backbone=backbone.name,
            widths=settings.widths,
            window=settings.window,
        )
        with seeded(settings.seed):
            self.classifier = LatentClassifier(config).to(backbone.device)
        self._pool: dict[int, tuple[Tensor, Tensor]] = {}
        super().__init__(self.classifier, classes, pictures, settings)

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "model": self.backbone.name}

    def loss(self) -> Tensor:
        settings = self.settings
        # The pool grows by a group every few steps, so that every part of a run takes as long as any other.
        known = min(self._largest_pool, 1 + self.step // _GROWS)
        groups = torch.randint(known, (-(-settings.batch // _GROUP),), generator=self.rng)
        latents, labels = (
            torch.cat(parts)[: settings.batch].to(self.backbone.device)
            for parts in zip(*map(self._group, groups.tolist()), strict=True)
        )
        start, stop = settings.window
        drawn = torch.rand(len(latents), generator=self.rng) * (stop - start) + start
        noisy = add_noise(latents, [self.backbone.level(float(p)) for p in drawn], self.rng)
        return self.cross_entropy(lambda: self.classifier.predict_at(noisy.latent, noisy.times), labels)

    @property
    def _largest_pool(self) -> int:
        backbone, (width, height) = self.backbone, self.pictures.size
        values = backbone.latent_channels * (width // backbone.stride) * (height // backbone.stride)
        one = min(_GROUP, self.settings.batch) * values * 4  # latents, float32
        return largest_pool(self.settings.pool, one)

    def _group(self, number: int) -> tuple[Tensor, Tensor]:
        """Latents and labels of group `number` of the pool: to encode pictures takes longer than to classify them."""
        if number not in self._pool:
            rng = Generator().manual_seed((self.settings.seed << 16) + number)
            images, captions = self.pictures.batch(rng, min(_GROUP, self.settings.batch))
            with torch.no_grad():
                latents = self.backbone.encode(images.to(self.backbone.device)).cpu()
            self._pool[number] = (latents, self.labels(captions))
        return self._pool[number]

    def score(self, images: Tensor, captions: Sequence[str]) -> float:
        table = self.calibrate(self.encode(images), captions, count=4)
        return 1 - sum(row.accuracy for row in table) / len(table)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The clean latents (N, C, h, w) of pictures (N, 3, H, W)."""
        return torch.cat([self.backbone.encode(part.to(self.backbone.device)) for part in images.split(_BATCH)])

    def fit_temperatures(self, latents: Tensor, captions: Sequence[str], *, count: int = 8) -> None:
        """Set the classifier's temperature at `count` noise levels, by clean latents (N, C, h, w) of pictures held out.

        Only when training is over: it is the logits without temperatures that are trained.
        """
        self.classifier.config = replace(self.classifier.config, temperatures=())
        labels = self.labels(captions)
        found = [(level.time, fit_temperature(logits, labels)) for level, logits in self._answers(latents, count)]
        self.classifier.config = replace(self.classifier.config, temperatures=tuple(sorted(found)))

    def calibrate(self, latents: Tensor, captions: Sequence[str], *, count: int = 8) -> list[Calibration]:
        """Accuracy and calibration at `count` noise levels over the window, on clean latents (N, C, h, w) of pictures
        held out.

        The noise is the same at every call.
        """
        labels = self.labels(captions)
        table: list[Calibration] = []
        for level, logits in self._answers(latents, count):
            confidence, answer = logits.softmax(dim=1).max(dim=1)
            right = float((answer == labels).float().mean())
            error = calibration_error(logits, labels)
            table.append(Calibration(level.progress, right, float(confidence.mean()), error))
        return table

    @torch.no_grad()
    def _answers(self, latents: Tensor, count: int) -> Iterator[tuple[Level, Tensor]]:
        """`count` noise levels inside the window, and the logits (N, K) on the noised latents there."""
        (rng,) = generators([12345])
        start, stop = self.settings.window
        for place in torch.linspace(0, 1, count + 2)[1:-1].tolist():
            level = self.backbone.level(start + (stop - start) * place)
            yield level, torch.cat([self._at(part, level, rng) for part in latents.split(_BATCH)]).cpu()

    def _at(self, latents: Tensor, level: Level, rng: Generator) -> Tensor:
        return self.classifier(add_noise(latents, [level] * len(latents), rng).latent, level)


class PictureClassifierRun(_ClassRun):
    """An `IconClassifier` on pictures as they are: photos, artwork, or drawings (white ink on black)."""

    def __init__(
        self,
        pictures: Pictures,
        settings: ClassifierTraining,
        *,
        classes: Sequence[str],
        device: torch.device,
    ) -> None:
        with seeded(settings.seed):
            self.classifier = IconClassifier(classes, size=min(pictures.size), channels=settings.widths).to(device)
        self.device = device
        super().__init__(self.classifier, classes, pictures, settings)

    def loss(self) -> Tensor:
        images, captions = self.pictures.batch(self.rng, self.settings.batch)
        images = images.to(self.device)
        return self.cross_entropy(lambda: self.classifier(images), self.labels(captions).to(self.device))

    @torch.no_grad()
    def score(self, images: Tensor, captions: Sequence[str]) -> float:
        logits = torch.cat([self.classifier(part.to(self.device)).cpu() for part in images.split(_BATCH)])
        return float((logits.argmax(dim=1) != self.labels(captions)).float().mean())
