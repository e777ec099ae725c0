"""Train what tells a frozen network of a map: sketch attention, or a diffusers ControlNet or T2I-Adapter."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sketchguide.attention import SketchAttention, describe_attention
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.pipeline import check_keeps_weights
from sketchguide.backbones.wrapped import Told, with_sketch_attention
from sketchguide.errors import UsageError
from sketchguide.extractors import Extractor
from sketchguide.levels import Level
from sketchguide.seeds import generators, seeded
from sketchguide.training.data import Pictures
from sketchguide.training.run import TrainingRun, add_noise, describe

SCORE_SEED = 12345


@dataclass(frozen=True, kw_only=True)
class ToldTraining:
    """Settings of a run."""

    rate: float = 1e-3  # AdamW's learning rate at its highest
    steps: int = 2000
    batch: int = 32
    warmup: int = 100  # steps, a tenth of all at most, in which the rate rises from 0; it falls to 0 along a cosine
    decay: float = 0.01  # weight decay
    drop: float = 0.1  # share of the captions that are dropped
    cubic: bool = False  # draw more of the noisy levels, as T2I-Adapter, section 3.4: structure is decided there
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UsageError(f"rate is {self.rate}; it must be above 0 and at most 1.", field="rate")
        for name in ("steps", "batch", "warmup"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0.", field=name)
        if not 0 <= self.drop <= 1:
            raise UsageError(f"drop is {self.drop}; it must lie in 0..1.", field="drop")


def begin_sketch_attention(backbone: Backbone, *, seed: int) -> Told:
    """`backbone` with new sketch attention, which changes nothing yet, for drawings that are still to come."""
    with seeded(seed):
        attention = SketchAttention(describe_attention(backbone.taps, backbone=backbone.name, pixels=backbone.stride))
    width, height = backbone.default_size
    return with_sketch_attention(backbone, attention.to(backbone.device), torch.zeros(1, 1, height, width))


class ToldRun(TrainingRun):
    """One training run of `told.control`. The loss is the mean squared error of the model's own objective.

    The control sees what `extractor` finds in the pictures; the image that `told` has gives only its channels.
    """

    def __init__(
        self,
        told: Told,
        pictures: Pictures,
        extractor: Extractor,
        settings: ToldTraining,
    ) -> None:
        self.told = told
        self.pictures = pictures
        self.extractor = extractor
        self.settings = settings
        control = told.control
        for network in (told.network, control):
            check_keeps_weights(network)
        control.to(memory_format=torch.channels_last if told.device.type == "cpu" else torch.preserve_format)
        control.train().requires_grad_(True)
        optimizer = torch.optim.AdamW(control.parameters(), lr=settings.rate, weight_decay=settings.decay)
        super().__init__(control, optimizer, seed=settings.seed, pictures=pictures)

    @property
    def config(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it continues."""
        return {**asdict(self.settings), "model": self.told.name}

    def rate(self) -> float:
        warmup = max(1, min(self.settings.warmup, self.settings.steps // 10))
        return super().rate() * min(1.0, (self.step + 1) / warmup)

    def loss(self) -> Tensor:
        images, captions = self.pictures.batch(self.rng, self.settings.batch)
        dropped = torch.rand(len(captions), generator=self.rng) < self.settings.drop
        captions = ["" if drop else text for text, drop in zip(captions, dropped.tolist(), strict=True)]
        draws = torch.rand(len(captions), generator=self.rng)
        draws = draws**3 if self.settings.cubic else draws
        levels = [self.told.level(float(progress)) for progress in draws]
        return self._error(self._image(images), self.told.encode(images), captions, levels, self.rng).mean()

    def _image(self, images: Tensor) -> Tensor:
        """What the control is shown of pictures (B, 3, H, W)."""
        with torch.no_grad():
            return self.extractor(images.to(self.told.device)).expand(-1, self.told.image.shape[1], -1, -1)

    def _error(
        self, shown: Tensor | None, clean: Tensor, captions: Sequence[str], levels: Sequence[Level], rng: Generator
    ) -> Tensor:
        """Mean squared errors (B,) of the network's output on `clean` latents (B, C, h, w) with noise on them, when the
        control is `shown` this, or (None) is not there.
        """
        backbone = self.told.inner
        noisy = add_noise(clean, levels, rng)
        network: Backbone = backbone if shown is None else replace(self.told, image=shown)
        with ExitStack() as stack:
            if self.settings.bf16:
                stack.enter_context(torch.autocast(backbone.device.type, torch.bfloat16))
            if backbone.device.type == "cpu":  # the fused kernel's backward pass costs more than plain products here
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            output = network.run(noisy.latent, noisy.times, describe(backbone, captions))
        wanted = {
            "epsilon": noisy.noise,
            "v_prediction": noisy.alpha * noisy.noise - noisy.sigma * clean,
            "sample": clean,
            "flow": noisy.noise - clean,
        }[backbone.prediction_kind]
        return (output - wanted).square().flatten(1).mean(dim=1)

    @torch.no_grad()
    def score(self, images: Tensor, captions: Sequence[str]) -> float:
        """Error on held-out pictures (N, 3, H, W) as a share of the model's without the map: below 1, the map helps.

        Noise and levels are the same at every call.
        """
        levels = [self.told.level(float(p)) for p in torch.linspace(0, 1, len(images) + 2)[1:-1]]
        totals = [0.0, 0.0]
        for first in range(0, len(images), self.settings.batch):
            part = slice(first, first + self.settings.batch)
            clean = self.told.encode(images[part])
            for i, shown in enumerate((self._image(images[part]), None)):
                (rng,) = generators([SCORE_SEED + first])
                totals[i] += float(self._error(shown, clean, captions[part], levels[part], rng).sum())
        return totals[0] / totals[1]
