"""Does the picture show what the prompt asked for? Training and scoring of an `IconClassifier` that no generator saw.

The benchmark trains it on augmented icons (`benchmarks/classifier.py`). It knows nothing of the generator: neither its
text encoder nor its latents. A class is one concept, in every style; several concepts may answer to one word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sketchguide.classifiers import IconClassifier
from sketchguide.errors import TrainingError, UsageError
from sketchguide.extractors import gaussian_blur
from sketchguide.seeds import seeded


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
    bf16: bool = False,
) -> Iterator[ClassifierStep]:
    """Train a classifier on pictures (B, 3, H, W) in [-1, 1] and class numbers (B,), one batch per step.

    The caller may stop at any step: what it gets is an average of the weights over about the last `averaged_steps`
    steps, so no schedule has to know the end. Training runs on the device of the batches, with `bf16` in bfloat16
    where torch's autocast allows it.
    Raises `TrainingError` when the loss is not finite.
    """
    with seeded(seed):
        network = IconClassifier(classes, size=size, channels=channels)
    average: AveragedModel | None = None
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02)
    warmup = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=0.05, total_iters=50)
    for step, (images, labels) in enumerate(batches, start=1):
        if average is None:
            network.to(images.device)
            average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.0), use_buffers=True).eval()
            network.to(memory_format=torch.channels_last)
        # The average is over fewer steps at first, so that it is useful early.
        average.multi_avg_fn = get_ema_multi_avg_fn(1 - 1 / min(step / 4 + 1, averaged_steps))
        network.train()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            scores = network(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(scores.float(), labels, label_smoothing=0.05)
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
