"""Sketch attention: beside a network's self-attention, heads that look at the tokens of the picture and of a drawing.

DiffSketching (2305.18812) edits with multi-head attention that fuses sketch tokens with image tokens. Here the frozen
self-attention stays as it is and fused heads add to it. Their last layer starts at zero, so an untrained one changes
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sketchguide.errors import TapError, UsageError
from sketchguide.taps import Rewrite, TapInfo
from sketchguide.weights import read_network, write_network

KIND = "sketch-attention"
HEAD = 32  # channels of a head


@dataclass(frozen=True, kw_only=True)
class SketchAttentionConfig:
    """Everything a weight file must know about itself; stored in its header."""

    backbone: str  # the model it was trained for
    paths: tuple[str, ...]  # of the self-attentions in its network
    channels: tuple[int, ...]
    strides: tuple[int, ...]  # latent pixels per token
    pixels: int  # picture pixels per latent pixel
    width: int = 96  # of a sketch token

    def __post_init__(self) -> None:
        if not self.paths or not len(self.paths) == len(self.channels) == len(self.strides):
            raise UsageError("paths, channels and strides need one entry per self-attention.", field="attention")
        if self.width < HEAD or self.width % HEAD:
            raise UsageError(f"width is {self.width}; it must be a multiple of {HEAD}.", field="width")
        if self.pixels < 1 or self.pixels & (self.pixels - 1):
            raise UsageError(f"pixels is {self.pixels}; it must be a power of two.", field="attention")


def describe_attention(taps: Sequence[TapInfo], *, backbone: str, pixels: int) -> SketchAttentionConfig:
    """The configuration for every self-attention over the picture among `taps`, of a network that is called `backbone`.

    `pixels` is the side of a latent pixel. Raises TapError where there is none.
    """
    known = {tap.path for tap in taps}
    found = [tap for tap in taps if tap.path.endswith(".attn1") and tap.stride and _norm_of(tap.path) in known]
    if not found:
        raise TapError(
            f"{backbone} has no transformer blocks with self-attention that sketch attention could be added to.",
            hint="It is for UNets such as Stable Diffusion's.",
            field="model",
        )
    return SketchAttentionConfig(
        backbone=backbone,
        paths=tuple(tap.path for tap in found),
        channels=tuple(tap.channels for tap in found),
        strides=tuple(tap.stride or 1 for tap in found),
        pixels=pixels,
    )


def _norm_of(attention: str) -> str:
    """The layer whose output the self-attention of a transformer block reads."""
    return attention.removesuffix("attn1") + "norm1"


class SketchAttention(nn.Module):
    """A small encoder of drawings, and fused attention for every place of `config`."""

    def __init__(self, config: SketchAttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SketchEncoder(config)
        self.layers = nn.ModuleList(FusedAttention(channels, config.width) for channels in config.channels)

    def encode(self, ink: Tensor) -> dict[int, Tensor]:
        """Sketch tokens (B, D, h, w) by stride, of drawings (B, 1, H, W) in [0, 1], ink 1."""
        return self.encoder(ink)

    def rewrites(self, tokens: Mapping[int, Tensor], *, scale: float = 1.0) -> dict[str, Rewrite]:
        """What `tapped` needs to let one network pass attend to `tokens`; `scale` times what it adds is added.

        The tokens have one row for all pictures or one for each.
        """
        table: dict[str, Rewrite] = {}
        for layer, path, stride in zip(self.layers, self.config.paths, self.config.strides, strict=True):
            attending = _Attending(layer, tokens[stride], scale)
            table |= {_norm_of(path): attending.look, path: attending.add}
        return table

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.enter.weight.dtype

    def save(self, path: Path) -> None:
        """Write the weights with the configuration in the header, whole or not at all. Raises OutputError."""
        write_network(self, path, kind=KIND, config=asdict(self.config))

    @classmethod
    def load(cls, path: Path) -> SketchAttention:
        """The network that `save` wrote; eval mode, frozen, on the CPU. Raises WeightsError for anything else."""

        return read_network(
            path, kind=KIND, build=lambda config: cls(SketchAttentionConfig(**config)), field="attention"
        )


@dataclass(eq=False)
class _Attending:
    """One place in one network pass: what goes into the self-attention is seen, what comes out is added to."""

    layer: nn.Module
    tokens: Tensor
    scale: float
    seen: Tensor | None = None

    def look(self, image: Tensor) -> Tensor:
        self.seen = image
        return image

    def add(self, attended: Tensor) -> Tensor:
        assert self.seen is not None, "a block normalises before it attends"
        return attended + self.scale * self.layer(self.seen.to(self.tokens), self.tokens).to(attended)


class FusedAttention(nn.Module):
    """Multi-head attention from image tokens to image and sketch tokens at once."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        inner = HEAD * max(1, channels // (2 * HEAD))
        self.place = nn.Linear(width, channels, bias=False)  # where a token is, which the network tells only vaguely
        self.query = nn.Linear(channels, inner, bias=False)
        self.image = nn.Linear(channels, 2 * inner, bias=False)  # keys and values
        self.sketch = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        """What is added to image tokens (B, N, C), given sketch tokens (B or 1, D, h, w), N = h * w: (B, N, C)."""
        rows, count, _ = image.shape
        height, width = tokens.shape[-2:]
        if count != height * width:
            raise UsageError(
                f"The drawing has {height} x {width} tokens where the network has {count}.",
                hint="Give a drawing of the size of the picture.",
                field="sketch",
            )
        where = positions(height, width, tokens.shape[1], tokens.device).to(tokens)
        drawn = (tokens.flatten(2).mT + where).expand(rows, -1, -1)
        placed = image + self.place(where)
        query = _heads(self.query(placed))
        keys, values = torch.cat([self.image(placed), self.sketch(drawn)], dim=1).chunk(2, dim=-1)
        seen = F.scaled_dot_product_attention(query, _heads(keys), _heads(values))
        return self.out(seen.transpose(1, 2).flatten(2))


def _heads(tokens: Tensor) -> Tensor:
    """(B, N, H * 32) -> (B, H, N, 32)."""
    return tokens.unflatten(-1, (-1, HEAD)).transpose(1, 2)


def positions(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sines and cosines of where each token lies, (h * w, channels), channels a multiple of 4 (Vaswani et al. 2017).

    Places are counted in tokens from the middle, so that a larger picture has the same ones and more around them.
    """
    waves = math.pi * torch.exp2(torch.linspace(0, -8, channels // 4, device=device))
    down, right = ((torch.arange(n, device=device) - (n - 1) / 2)[:, None] * waves for n in (height, width))
    rows = torch.cat([down.sin(), down.cos()], dim=1)[:, None].expand(-1, width, -1)
    columns = torch.cat([right.sin(), right.cos()], dim=1)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


class SketchEncoder(nn.Module):
    """Convolutions that halve the drawing until it has one token per image token, for every stride there is."""

    def __init__(self, config: SketchAttentionConfig) -> None:
        super().__init__()
        halvings = int(math.log2(config.pixels * max(config.strides)))
        widths = [min(config.width, 16 * 2**i) for i in range(halvings + 1)]
        self.pixels = config.pixels
        self.enter = nn.Conv2d(1, widths[0], 5, padding=2)
        self.stages = nn.ModuleList(Halving(narrow, wide) for narrow, wide in pairwise(widths))
        # Stride -> what makes tokens of the maps that have it; ModuleDict wants text.
        self.tokens = nn.ModuleDict(
            {str(s): nn.Conv2d(widths[int(math.log2(config.pixels * s))], config.width, 1) for s in set(config.strides)}
        )

    def forward(self, ink: Tensor) -> dict[int, Tensor]:
        hidden = self.enter(ink)
        made: dict[int, Tensor] = {}
        for halvings in range(len(self.stages) + 1):
            hidden = self.stages[halvings - 1](hidden) if halvings else hidden
            stride = str(2**halvings // self.pixels)
            if stride in self.tokens:
                made[int(stride)] = self.tokens[stride](hidden)
        return made


class Halving(nn.Module):
    """A convolution of stride 2 and a residual one, each with group norm and SiLU."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.shrink = nn.Sequential(nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(8, wide), nn.SiLU())
        self.refine = nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1), nn.GroupNorm(8, wide), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.shrink(x)
        return x + self.refine(x)
