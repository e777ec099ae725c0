"""Classifier guidance: pull the latent towards what a noise-aware classifier takes for a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sketchguide.classifiers import LatentClassifier
from sketchguide.controls.base import Step, Strength
from sketchguide.controls.strengths import Score
from sketchguide.errors import UsageError
from sketchguide.levels import Window, check_every, check_one_or_each, check_window


@dataclass(frozen=True)
class ClassGuide:
    """The loss -log p(y | x_t), one value per image (Dhariwal & Nichol 2021, 2105.05233, algorithm 2).

    With the strength `Score(s)` a step is that of the shifted noise eps - s sqrt(1 - a_t) grad log p(y | x_t), whatever
    classifier-free guidance has made of eps. `targets` are class numbers, one for all images or one each
    (`LatentClassifier.class_number`).
    """

    of_network: ClassVar[bool] = False

    classifier: LatentClassifier
    targets: Sequence[int]
    window: Window = (0.0, 1.0)
    strength: Strength = field(default_factory=Score)
    every: int = 1

    def __post_init__(self) -> None:
        check_window(self.window)
        check_every(self.every)
        self.classifier.eval()  # in training its BatchNorm would learn from what it guides
        count = len(self.classifier.config.classes)
        if not self.targets or not all(0 <= target < count for target in self.targets):
            raise UsageError(f"targets is {list(self.targets)}; class numbers are 0 to {count - 1}.", field="class")
        start, end = self.trained
        if self.window[0] < start or self.window[1] > end:
            raise UsageError(
                f"The guide acts from {self.window[0]:g} to {self.window[1]:g} of the steps, but this classifier was "
                f"trained for {start:g} to {end:g}.",
                field="window",
            )

    @property
    def trained(self) -> Window:
        return self.classifier.config.window

    @property
    def reads(self) -> Sequence[str]:
        return ()

    def loss(self, step: Step) -> Tensor:
        check_one_or_each(self.targets, step.latent, "classes", field="class")
        logits = self.classifier(step.latent, step.level)
        targets = torch.tensor(self.targets, device=logits.device).expand(len(logits))
        return F.cross_entropy(logits, targets, reduction="none")
