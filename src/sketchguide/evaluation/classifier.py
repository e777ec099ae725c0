"""Does the picture show what the prompt asked for? A small classifier of icons that no generator was trained with.

The benchmark trains it on augmented icons (`benchmarks/classifier.py`). It knows nothing of the generator: neither its
text encoder nor its latents. A class is one concept, in every style; several concepts may answer to one word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sketchguide.errors import TrainingError, UsageError, WeightsError
from sketchguide.extractors import check_images, gaussian_blur
from sketchguide.weights import read_weights, write_weights

FORMAT = "sketchguide-icon-classifier-1"


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut; halves the picture where `stride` is 2."""

    def __init__(self, channels: int, outside: int, *, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, outside, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(stride),
            nn.Conv2d(channels, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x) + self.shortcut(x)).relu()


class IconClassifier(nn.Module):
    """A residual network of about one million parameters.

    `classes` are the names of its outputs, `size` the side in pixels of the pictures it sees; others are resized.
    """

    def __init__(self, classes: Sequence[str], *, size: int = 64, channels: Sequence[int] = (32, 64, 128, 192)) -> None:
        super().__init__()
        if len(set(classes)) < max(len(classes), 2):
            raise UsageError("At least two classes are needed, each with its own name.", field="classes")
        self.classes = tuple(classes)
        self.size = size
        self.channels = tuple(channels)
        first = self.channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        strides = [1] + [2] * (len(self.channels) - 1)
        inside = (first, *self.channels[:-1])
        self.blocks = nn.Sequential(
            *(Residual(a, b, stride=s) for a, b, s in zip(inside, self.channels, strides, strict=True))
        )
        self.head = nn.Linear(self.channels[-1], len(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], H, W >= 16, to class scores (B, N), the larger the likelier."""
        check_images(images)
        size = (self.size, self.size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        return self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))

    def accepted(self, answers: Iterable[Collection[str]]) -> Tensor:
        """True (B, N) for the classes that are right for each of B pictures, which `answers` lists by name."""
        index = {name: i for i, name in enumerate(self.classes)}
        answers = list(answers)
        mask = torch.zeros(len(answers), len(self.classes), dtype=torch.bool)
        for row, names in zip(mask, answers, strict=True):
            unknown = sorted(set(names) - set(index))
            if unknown or not names:
                problem = (
                    f"The classifier does not know {', '.join(unknown)}." if unknown else "A picture has no class."
                )
                raise UsageError(
                    problem,
                    hint="Leave such pictures out of the class accuracy and say how many.",
                    field="answers",
                )
            row[[index[name] for name in names]] = True
        return mask


def accuracy(scores: Tensor, accepted: Tensor, *, top: int = 1) -> Tensor:
    """1 (B,) where one of the `top` highest `scores` (B, N) is of a class in `accepted` (B, N), bool; elsewhere 0."""
    if scores.ndim != 2 or scores.shape != accepted.shape:
        raise UsageError(
            f"Scores {tuple(scores.shape)} and accepted classes {tuple(accepted.shape)} must be the same (B, N).",
            field="accepted",
        )
    if not 1 <= top <= scores.shape[1]:
        raise UsageError(f"top={top} was given; 1 to {scores.shape[1]} is allowed.", field="top")
    best = scores.topk(top, dim=1).indices
    return accepted.to(best.device).gather(1, best).any(dim=1).float()


@dataclass(frozen=True, kw_only=True)
class ClassifierStep:
    """What one step of training shows. `classifier` is the running average so far, ready for use."""

    step: int
    loss: float
    accuracy: float  # of the batch that the step learned from
    classifier: IconClassifier


def train_classifier(
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    classes: Sequence[str],
    size: int = 64,
    channels: Sequence[int] = (32, 64, 128, 192),
    learning_rate: float = 2e-3,
    averaged_steps: int = 200,
    seed: int = 0,
) -> Iterator[ClassifierStep]:
    """Train a classifier on pictures (B, 3, H, W) in [-1, 1] and class numbers (B,), one batch per step.

    The caller may stop at any step: what it gets is an average of the weights over about the last `averaged_steps`
    steps, so no schedule has to know the end. Training runs on the device of the batches.
    Raises `TrainingError` when the loss is not finite.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = IconClassifier(classes, size=size, channels=channels)
    average: AveragedModel | None = None
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02)
    warmup = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=0.05, total_iters=50)
    for step, (images, labels) in enumerate(batches, start=1):
        if average is None:
            network.to(images.device)
            average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.0), use_buffers=True).eval()
        # The average is over fewer steps at first, so that it is useful early.
        average.multi_avg_fn = get_ema_multi_avg_fn(1 - 1 / min(step / 4 + 1, averaged_steps))
        network.train()
        scores = network(images)
        loss = F.cross_entropy(scores, labels, label_smoothing=0.05)
        if not math.isfinite(value := loss.item()):
            raise TrainingError(
                f"The loss of the classifier is {value} at step {step}.",
                hint="Lower the learning rate, or look for pictures that are not finite.",
                field="learning_rate",
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        warmup.step()
        average.update_parameters(network)
        right = (scores.argmax(dim=1) == labels).float().mean().item()
        yield ClassifierStep(step=step, loss=value, accuracy=right, classifier=cast(IconClassifier, average.module))


def soften(images: Tensor, rng: Generator) -> Tensor:
    """`images` (B, 3, H, W) in [-1, 1], each a little blurred, brighter or darker, of other contrast, and noisy.

    Generated pictures are softer than artwork; a classifier that has seen only artwork would punish that.
    """
    shape = (len(images), 1, 1, 1)
    sigma = 0.4 + 1.0 * float(torch.rand((), generator=rng))
    share = torch.rand(shape, generator=rng)
    images = images.lerp(gaussian_blur(images, sigma=sigma * max(images.shape[-2:]) / 64), share)
    gain = 1 + 0.3 * (torch.rand(shape, generator=rng) - 0.5)
    lift = 0.3 * (torch.rand(shape, generator=rng) - 0.5)
    noise = torch.randn(images.shape, generator=rng) * torch.rand(shape, generator=rng) * 0.08
    return (images * gain + lift + noise).clamp(-1, 1)


def save_classifier(classifier: IconClassifier, path: Path) -> None:
    """Write the weights, the class list and the size into one safetensors file, whole or not at all."""
    shape = {"classes": classifier.classes, "size": classifier.size, "channels": classifier.channels}
    metadata = {"format": FORMAT, "classifier": json.dumps(shape)}
    write_weights(classifier.state_dict(), path, metadata=metadata, field="path")


def load_classifier(path: Path, *, device: torch.device | str = "cpu") -> IconClassifier:
    """The classifier that `save_classifier` wrote to `path`, ready for use; raises `WeightsError` for anything else."""
    tensors, header = read_weights(path, field="path")
    try:
        if header.get("format") != FORMAT:
            raise ValueError(f"its format is {header.get('format')!r}, not {FORMAT!r}")
        shape = json.loads(header["classifier"])
        classifier = IconClassifier(shape["classes"], size=shape["size"], channels=shape["channels"])
        classifier.load_state_dict(tensors)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"The classifier at {path} cannot be used: {error}.",
            hint="Train it anew with benchmarks/classifier.py.",
            field="path",
        ) from error
    return classifier.to(device).eval().requires_grad_(False)
