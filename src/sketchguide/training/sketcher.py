"""Train P, the photo-to-sketch network, to draw what the extractors find in pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sketchguide.errors import UsageError
from sketchguide.seeds import seeded
from sketchguide.sketchers import STYLES, Sketcher, SketcherConfig
from sketchguide.training.data import Pictures
from sketchguide.training.run import TrainingRun, check_settings, largest_pool

_GROWS = 8
_PART = 16  # held-out pictures that P sees at once


@dataclass(frozen=True, kw_only=True)
class SketcherTraining:
    """Settings of a run."""

    steps: int = 1500
    batch: int = 16
    rate: float = 2e-3  # Adam's learning rate, falling to zero along a cosine
    styles: tuple[str, ...] = tuple(STYLES)
    width: int = 24
    blocks: int = 4
    noise: float = 0.1  # largest deviation of the noise on a picture: what P will see while sampling is not clean
    bf16: bool = False
    pool: int = 64  # batches of augmented pictures whose maps are kept, 2 GiB at most; turned and recoloured every time
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self, steps=1, batch=1, pool=1)
        if unknown := [style for style in self.styles if style not in STYLES]:
            raise UsageError(
                f"There is no style {unknown[0]!r}.", hint=f"Choose from: {', '.join(STYLES)}.", field="style"
            )


class SketcherRun(TrainingRun):
    """Binary cross-entropy plus Dice loss against the maps of the extractors; every picture in a style drawn for it."""

    def __init__(
        self,
        pictures: Pictures,
        settings: SketcherTraining,
        *,
        device: torch.device,
    ) -> None:
        self.pictures = pictures
        self.settings = settings
        self.device = device
        self._scored: tuple[Tensor, Tensor] | None = None  # pictures and their maps
        self._pool: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        config = SketcherConfig(styles=settings.styles, width=settings.width, blocks=settings.blocks)
        with seeded(settings.seed):
            self.sketcher = Sketcher(config).to(device)
        optimizer = torch.optim.Adam(self.sketcher.parameters(), lr=settings.rate)
        super().__init__(self.sketcher, optimizer, seed=settings.seed, pictures=pictures)

    @property
    def config(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it continues."""
        return asdict(self.settings)

    def loss(self) -> Tensor:
        # The pool grows by a batch every few steps, so that every part of a run takes as long as any other.
        known = min(self._largest_pool, 1 + self.step // _GROWS)
        draws = torch.rand(2, generator=self.rng).tolist()
        chosen, turn = int(draws[0] * known), int(draws[1] * 4)
        images, styles, targets = self._batch(chosen)
        images = images[:, torch.randperm(3, generator=self.rng)]  # lines do not depend on which colour is which
        axes = [axis for bit, axis in ((1, 2), (2, 3)) if turn & bit]
        images, targets = images.flip(axes), targets.flip(axes).to(self.device)
        amount = torch.rand(len(images), 1, 1, 1, generator=self.rng) * self.settings.noise
        seen = (images + amount * torch.randn(images.shape, generator=self.rng)).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            logits = self.sketcher.logits(seen, styles)
        logits = logits.float()
        return F.binary_cross_entropy_with_logits(logits, targets) + dice(logits.sigmoid(), targets).mean()

    @property
    def _largest_pool(self) -> int:
        width, height = self.pictures.size
        one = self.settings.batch * (3 + 1) * width * height * 4  # pictures and maps, float32
        return largest_pool(self.settings.pool, one)

    def _batch(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures, styles and maps of batch `number` of the pool: the extractors take longer than P."""
        if number not in self._pool:
            rng = Generator().manual_seed((self.settings.seed << 16) + number)
            images, _ = self.pictures.batch(rng, self.settings.batch)
            styles = torch.randint(len(self.settings.styles), (len(images),), generator=rng)
            self._pool[number] = (images, styles, self.targets(images, styles))
        return self._pool[number]

    def targets(self, images: Tensor, styles: Tensor) -> Tensor:
        """What the extractors of `styles` (B,) draw of `images`: (B, 1, H, W) in [0, 1]."""
        found = torch.zeros_like(images[:, :1])
        for number, name in enumerate(self.settings.styles):
            rows = (styles == number).nonzero().flatten()
            if len(rows):
                found[rows] = STYLES[name](images[rows])
        return found

    @torch.no_grad()
    def score(self, images: Tensor, captions: object = None) -> float:
        """Mean Dice distance, 0 to 1, of P from the extractors on held-out pictures (N, 3, H, W), styles in turn."""
        del captions
        styles = torch.arange(len(images)) % len(self.settings.styles)
        parts = list(zip(images.split(_PART), styles.split(_PART), strict=True))
        if self._scored is None or not torch.equal(self._scored[0], images):
            self._scored = (images, torch.cat([self.targets(*part) for part in parts]))
        drawn = torch.cat([self.sketcher(seen.to(self.device), some).cpu() for seen, some in parts])
        return float(dice(drawn, self._scored[1]).mean())


def dice(drawn: Tensor, wanted: Tensor) -> Tensor:
    """1 - 2 |A ∩ B| / (|A| + |B|) of maps (B, 1, H, W) in [0, 1], one value (B,) each; two blank ones are 0 apart."""
    common = (drawn * wanted).flatten(1).sum(dim=1)
    total = drawn.square().flatten(1).sum(dim=1) + wanted.square().flatten(1).sum(dim=1)
    return 1 - (2 * common + 1) / (total + 1)
