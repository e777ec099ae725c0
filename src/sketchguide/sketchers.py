"""P, the photo-to-sketch network: from a picture to a drawing of it, with a gradient all the way.

Extractors find lines by thresholds and thinning, which pass no gradient. P learns to draw what they find, in several
line styles, so that a loss on the drawing can reach the picture (DiffSketching, 2305.18812).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sketchguide.errors import UsageError
from sketchguide.extractors import EXTRACTORS, Edges, Extractor, check_images
from sketchguide.weights import read_network, write_network

KIND = "photo-to-sketch"

# What each style draws; the first is the one that predictors are trained on.
STYLES: Mapping[str, Extractor] = MappingProxyType(
    {
        "edges": EXTRACTORS["edges"],
        "outline": Edges(name="outline", weak=0.12, strong=0.3, inhibition=0.9, shortest=10.0, merge=3.0),
        "detail": Edges(name="detail", weak=0.03, strong=0.08, inhibition=0.4, shortest=3.0, merge=1.8),
        "bold": Edges(name="bold", thickness=3.0),
    }
)


@dataclass(frozen=True, kw_only=True)
class SketcherConfig:
    """Everything a weight file must know about itself; stored in its header."""

    styles: tuple[str, ...] = tuple(STYLES)
    width: int = 24  # channels at full size; they double with each of two halvings
    blocks: int = 4  # residual blocks at a quarter of the size (the paper: 9)

    def __post_init__(self) -> None:
        if not self.styles or len(set(self.styles)) < len(self.styles):
            raise UsageError("styles needs at least one, each with its own name.", field="style")
        if self.width < 8 or self.width % 8 or self.blocks < 1:
            raise UsageError(f"width is {self.width}, a multiple of 8; blocks {self.blocks}, 1 or more.", field="width")


class Sketcher(nn.Module):
    """A residual generator (Johnson et al. 2016, 1603.08155) from 3 channels to 1, told the style of the lines.

    Two halvings, residual blocks, two doublings with the maps of the same size beside them, so that lines stay sharp.
    """

    def __init__(self, config: SketcherConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.style = nn.Embedding(len(config.styles), 32)
        self.fine = Styled(3, w, kernel=7)
        self.halved = Styled(w, 2 * w, stride=2)
        self.quartered = Styled(2 * w, 4 * w, stride=2)
        self.blocks = nn.ModuleList(Styled(4 * w, 4 * w, residual=True) for _ in range(config.blocks))
        self.wider = Styled(6 * w, 2 * w)
        self.widest = Styled(3 * w, w)
        self.pen = nn.Conv2d(w, 1, 3, padding=1)

    def forward(self, images: Tensor, style: str | Tensor = "edges") -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], H, W >= 16, to drawings (B, 1, H, W) in [0, 1], ink 1.

        `style` is one name for all, or style numbers (B,).
        """
        return self.logits(images, style).sigmoid()

    def logits(self, images: Tensor, style: str | Tensor) -> Tensor:
        """As `forward`, before the sigmoid: what a loss should be taken on."""
        check_images(images)
        numbers = torch.tensor([self.number(style)]) if isinstance(style, str) else style
        told = self.style(numbers.to(images.device))
        fine = self.fine(images.float(), told)
        half = self.halved(fine, told)
        hidden = self.quartered(half, told)
        for block in self.blocks:
            hidden = block(hidden, told)
        hidden = self.wider(torch.cat([_grown(hidden, half), half], dim=1), told)
        hidden = self.widest(torch.cat([_grown(hidden, fine), fine], dim=1), told)
        return self.pen(hidden)

    def number(self, style: str) -> int:
        """The number of the style called `style`; UsageError lists those there are."""
        if style not in self.config.styles:
            raise UsageError(
                f"There is no style {style!r}.", hint=f"Choose one of: {', '.join(self.config.styles)}.", field="style"
            )
        return self.config.styles.index(style)

    def save(self, path: Path) -> None:
        """Write the weights with the configuration in the header, whole or not at all. Raises OutputError."""
        write_network(self, path, kind=KIND, config=asdict(self.config))

    @classmethod
    def load(cls, path: Path) -> Sketcher:
        """The network that `save` wrote; eval mode, frozen, on the CPU. Raises WeightsError for anything else."""

        return read_network(path, kind=KIND, build=lambda config: cls(SketcherConfig(**config)), field="sketcher")


class Styled(nn.Module):
    """A 3x3 convolution, group norm, a scale and shift by the style, ReLU; beside a shortcut where `residual`."""

    def __init__(
        self, channels: int, outside: int, *, kernel: int = 3, stride: int = 1, residual: bool = False
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, outside, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.GroupNorm(8, outside)
        self.tell = nn.Linear(32, 2 * outside)
        self.residual = residual

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.tell(told)[:, :, None, None].chunk(2, dim=1)
        hidden = (self.norm(self.convolution(x)) * (1 + scale) + shift).relu()
        return x + hidden if self.residual else hidden


def _grown(small: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(small, size=like.shape[-2:], mode="bilinear", align_corners=False)
