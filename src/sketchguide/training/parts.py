"""The parts that DiffSketching needs, each with the way it is trained, scored and saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import save_classifier
from sketchguide.extractors import EXTRACTORS
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.loading import choose_device, load_backbone
from sketchguide.training.classifier import (
    ClassifierTraining,
    LatentClassifierRun,
    PictureClassifierRun,
    classes_of,
)
from sketchguide.training.data import Augmentation, Example, Pictures
from sketchguide.training.sketcher import SketcherRun, SketcherTraining
from sketchguide.training.told import ToldRun, ToldTraining, begin_sketch_attention

SCORED = 512  # held-out pictures that are scored at the end
WATCHED = 64  # and while training
ENCODED = 64  # pictures that are encoded at once
FEWEST = 100  # pictures that temperatures are fitted on: fewer tell none
LOOSE = Augmentation(scale=(0.75, 1.15), rotate=12.0, shift=0.1)


class Part(ABC):
    """One part to be trained on `training` and scored on `held_out`, with the settings that are `given` of its run.

    `model`, `size` and `weights` say which model it is for; that stays in memory only where the part reads it.
    """

    of_the_model: ClassVar[bool] = False  # others need no more than its name and picture size
    unknown: Sequence[str] = ()  # classes of held-out pictures alone, which are not learned and not scored

    def __init__(
        self,
        model: str,
        training: Sequence[Example],
        held_out: Sequence[Example],
        *,
        device: str,
        given: Mapping[str, Any],
    ) -> None:
        self.given = dict(given)
        self.device = choose_device(device)
        backbone = load_backbone(model, device=device if self.of_the_model else "cpu", dtype="float32")
        self.model, self.size, self.weights = backbone.name, backbone.default_size, fingerprint_of_model(backbone)
        self._backbone = backbone if self.of_the_model else None
        self.pictures = Pictures(training, size=self.size, augmentation=LOOSE)
        others = Pictures(held_out, size=self.size, augmentation=LOOSE, beside=self.pictures) if held_out else None
        self.held_out = others if others and others.fixed(1)[1] else None

    @property
    def backbone(self) -> Backbone:
        assert self._backbone is not None, "only parts of the model keep it"
        return self._backbone

    def scored(self, count: int) -> tuple[Tensor, list[str]]:
        """`count` held-out pictures (N, 3, H, W) and their captions, at most; there must be some."""
        assert self.held_out is not None
        return self.held_out.fixed(count)

    @abstractmethod
    def run(self) -> Any:
        """A new run that trains it."""

    @abstractmethod
    def save(self, run: Any, path: Path) -> None:
        """Write the weights that `run` has come to, which has ended."""

    @abstractmethod
    def worth(self, run: Any) -> dict[str, Any]:
        """What it is worth on the held-out pictures, of which there must be some."""


class SketcherPart(Part):
    """The photo-to-sketch network P."""

    def run(self) -> SketcherRun:
        return SketcherRun(self.pictures, SketcherTraining(**self.given), device=self.device)

    def save(self, run: Any, path: Path) -> None:
        run.module.save(path)

    def worth(self, run: SketcherRun) -> dict[str, Any]:
        images, _ = self.scored(SCORED)
        return {"held_out_pictures": len(images), "dice_distance": round(run.score(images), 4)}


class SketchAttentionPart(Part):
    """Attention of the model's network to a drawing."""

    of_the_model = True

    def run(self) -> ToldRun:
        settings = ToldTraining(**self.given)
        told = begin_sketch_attention(self.backbone, seed=settings.seed)
        return ToldRun(told, self.pictures, EXTRACTORS["edges"], settings)

    def save(self, run: Any, path: Path) -> None:
        run.module.save(path)

    def worth(self, run: ToldRun) -> dict[str, Any]:
        images, captions = self.scored(WATCHED)
        return {"held_out_pictures": len(images), "held_out_error": round(run.score(images, captions), 4)}


class ClassifierPart(Part):
    """A classifier of pictures, or of drawings; the caption of a picture is its class."""

    def __init__(
        self,
        model: str,
        training: Sequence[Example],
        held_out: Sequence[Example],
        *,
        device: str,
        given: Mapping[str, Any],
    ) -> None:
        self.classes = classes_of(training)
        self.unknown = sorted({example.caption for example in held_out} - set(self.classes))
        held_out = [example for example in held_out if example.caption in self.classes]
        super().__init__(model, training, held_out, device=device, given=given)

    def run(self) -> Any:
        settings = replace(ClassifierTraining(**self.given), widths=(32, 64, 128, 192))
        return PictureClassifierRun(self.pictures, settings, classes=self.classes, device=self.device)

    def save(self, run: Any, path: Path) -> None:
        save_classifier(run.classifier, path)

    def worth(self, run: Any) -> dict[str, Any]:
        images, captions = self.scored(SCORED)
        accuracy = round(1 - run.score(images, captions), 4)
        return {"held_out_pictures": len(images), "classes": len(self.classes), "accuracy": accuracy}


class LatentClassifierPart(ClassifierPart):
    """A classifier of noisy latents, whose temperatures are fitted on the half of the pictures that is not scored."""

    of_the_model = True
    _count = SCORED

    def run(self) -> LatentClassifierRun:
        own: dict[str, Any] = {"steps": 6000, "batch": 128, "rate": 4e-3}
        settings = ClassifierTraining(**(own | self.given))
        return LatentClassifierRun(self.backbone, self.pictures, settings, classes=self.classes)

    def save(self, run: LatentClassifierRun, path: Path) -> None:
        run.classifier.save(path)  # before what may fail
        if self.held_out is not None:
            latents, captions = self._latents(run, 2 * SCORED)
            if (half := len(latents) // 2) >= FEWEST:
                self._count = half
                run.fit_temperatures(latents[half:], captions[half:])
                run.classifier.save(path)

    def worth(self, run: LatentClassifierRun) -> dict[str, Any]:
        latents, captions = self._latents(run, self._count)
        temperatures = [round(value, 2) for _, value in run.classifier.config.temperatures]
        table = run.calibrate(latents, captions)
        rows = [{name: round(value, 4) for name, value in row._asdict().items()} for row in table]
        facts: dict[str, Any] = {"held_out_pictures": len(latents), "classes": len(self.classes)}
        return {**facts, "temperatures": temperatures or None, "by_noise_level": rows}

    def _latents(self, run: LatentClassifierRun, count: int) -> tuple[Tensor, list[str]]:
        """Those of what is `scored`: pictures of a large model would not fit into memory together."""
        assert self.held_out is not None
        parts = [(run.encode(images), texts) for images, texts in self.held_out.fixed_in_parts(count, part=ENCODED)]
        return torch.cat([latents for latents, _ in parts]), [text for _, texts in parts for text in texts]


PARTS: Mapping[str, type[Part]] = MappingProxyType(
    {
        "latent-classifier": LatentClassifierPart,
        "classifier": ClassifierPart,
        "drawing-classifier": ClassifierPart,
        "sketcher": SketcherPart,
        "sketch-attention": SketchAttentionPart,
    }
)
