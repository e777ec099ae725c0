"""Captioned icon artwork as an endless stream of augmented training pictures.

Every tensor is made for a whole batch at once, so that two cores keep up with the network they feed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from proportions import people_fits
from sketchguide.evaluation.drawings import STYLES, class_map, held_out, with_article

DEFAULT_STYLE = "fluent3d"  # what a caption without a style word means
COLOURS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.06, 0.06, 0.06),
    "gray": (0.55, 0.55, 0.55),
    "red": (0.85, 0.15, 0.15),
    "orange": (0.96, 0.58, 0.15),
    "yellow": (0.97, 0.88, 0.3),
    "green": (0.25, 0.66, 0.3),
    "blue": (0.2, 0.42, 0.85),
    "purple": (0.53, 0.27, 0.72),
    "pink": (0.97, 0.66, 0.78),
    "brown": (0.5, 0.33, 0.2),
}
HUES = (
    ("red", 0),
    ("orange", 30),
    ("yellow", 55),
    ("green", 115),
    ("blue", 215),
    ("purple", 280),
    ("pink", 325),
    ("red", 360),
)


@dataclass(frozen=True)
class Icon:
    style: str
    code: str
    names: tuple[str, ...]  # any of them may stand in a caption


class Artwork:
    """All icons in memory as premultiplied RGBA, and batches of augmented, captioned pictures of them."""

    def __init__(
        self,
        data: Path,
        *,
        size: int,
        concepts: str = "quickdraw",
        styles: tuple[str, ...] = STYLES,
        device: str = "cpu",
        loose: float = 1.0,
        plain: float = 0.0,
        people: float = 0.0,
        unseen: bool = False,
    ) -> None:
        """Pictures are stretched and bent up to `loose` times as far as keeps the artwork about as it was drawn; a
        `plain` share of them is not bent at all, and a `people` share is laid out as people draw that thing. With
        `unseen` there are also the concepts that the model and its predictor never see.
        """
        records = json.loads((data / "emoji128" / "metadata.json").read_text())
        words: dict[str, list[str]] = {}
        mapping = class_map(data)
        for word, codes in mapping.items():
            for code in codes:
                words.setdefault(code, []).append(word)
        self.size = size
        self.loose = loose
        self.plain = plain
        self.people = people
        self.every_name = sorted(
            {r["name"] for r in records} | set(mapping) | {k for r in records for k in r["keywords"]}
        )
        self.icons: list[Icon] = []
        pixels = []
        store = round(size * 1.5)
        for record in records:
            code = record["unicode"]
            if record["style"] not in styles or (held_out(code, set(words)) and not unseen):
                continue
            if concepts == "quickdraw" and code not in words:
                continue
            with Image.open(data / record["file"]) as image:
                rgba = np.asarray(image.convert("RGBA").resize((store, store), Image.Resampling.LANCZOS), np.float32)
            rgba = rgba / 255
            rgba[..., :3] *= rgba[..., 3:]
            pixels.append(torch.from_numpy(rgba).permute(2, 0, 1))
            self.icons.append(Icon(record["style"], code, tuple(dict.fromkeys([record["name"], *words.get(code, [])]))))
        self.pixels = torch.stack(pixels).to(device)  # (N, 4, store, store)
        alphas = self.pixels[:, 3].cpu()
        self.fits = people_fits(data, [icon.code for icon in self.icons], alphas) if people else []

    def batch(self, count: int, rng: Generator) -> tuple[Tensor, list[str]]:
        """`count` pictures (B, 3, size, size) in [-1, 1], all icons equally likely, and their captions."""
        return self.of(torch.randint(len(self.icons), (count,), generator=rng), rng)

    def of(self, chosen: Tensor, rng: Generator) -> tuple[Tensor, list[str]]:
        """Pictures (B, 3, size, size) in [-1, 1] of the icons with the numbers `chosen` (B,), and their captions."""
        count = len(chosen)
        layers, colours = recolour(self.pixels[chosen.to(self.pixels.device)], rng)
        loose = uniform(count, 1, self.loose, rng)
        share = torch.rand(count, generator=rng)
        loose[share < self.plain] = 0
        layout = self.layouts(chosen, share >= 1 - self.people, rng)
        layers = warp(layers, self.size, rng, loose=loose, layout=layout)
        names, papers = backgrounds(count, rng)
        pictures = layers[:, :3] + (1 - layers[:, 3:]) * papers[:, :, None, None].to(layers)
        captions = [
            caption(self.icons[i], colour, name, rng)
            for i, colour, name in zip(chosen.tolist(), colours, names, strict=True)
        ]
        return pictures.clamp(0, 1) * 2 - 1, captions

    def layouts(self, chosen: Tensor, laid_out: Tensor, rng: Generator) -> dict[int, Tensor]:
        """For the places `laid_out` (B,) in `chosen` (B,) whose thing people have drawn: one map (2, 3) of theirs."""
        layout: dict[int, Tensor] = {}
        for place in laid_out.nonzero()[:, 0].tolist():
            fits = self.fits[int(chosen[place])]
            if len(fits):
                layout[place] = fits[int(torch.randint(len(fits), (1,), generator=rng))]
        return layout


def uniform(count: int, low: float, high: float, rng: Generator) -> Tensor:
    return torch.rand(count, generator=rng) * (high - low) + low


def pick(options: list[str], rng: Generator) -> str:
    return options[int(torch.randint(len(options), (1,), generator=rng))]


def chance(rng: Generator) -> float:
    return float(torch.rand((), generator=rng))


def warp(
    layers: Tensor,
    size: int,
    rng: Generator,
    *,
    loose: float | Tensor = 1.0,
    layout: Mapping[int, Tensor] = MappingProxyType({}),
) -> Tensor:
    """Flip, rotate, scale, stretch, shift and bend each picture its own way; stretch and bend `loose` times as far.

    Where `loose` is 0, pictures are only flipped and moved by up to a fortieth. Those with a map (2, 3) in `layout` are
    laid out by it and bent.
    """
    count = len(layers)
    moved = torch.as_tensor(loose).clamp(max=1)
    angle = torch.randn(count, generator=rng).clamp(-2, 2) * math.radians(9) * moved
    scale = 1 + moved * uniform(count, 0.0, 0.45, rng)
    stretch = torch.exp(torch.randn(count, generator=rng).clamp(-2, 2) * 0.1 * loose)
    flip = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    room = (1 - 0.95 / scale) * scale  # how far the icon can move before it leaves the picture
    shift_x = uniform(count, -1, 1, rng) * room
    shift_y = uniform(count, -1, 1, rng) * room
    matrix = torch.stack(
        [
            torch.stack([flip * cos * stretch, -flip * sin * stretch, shift_x], dim=1),
            torch.stack([sin / stretch, cos / stretch, shift_y], dim=1),
        ],
        dim=1,
    )
    for i, laid in layout.items():
        matrix[i] = laid
    grid = F.affine_grid(matrix.to(layers), [count, 4, size, size], align_corners=False)
    bend = torch.randn(count, 2, 4, 4, generator=rng) * (loose * uniform(count, 0, 0.05, rng))[:, None, None, None]
    bend = F.interpolate(bend.to(layers), size=(size, size), mode="bicubic", align_corners=True)
    return F.grid_sample(layers, grid + bend.permute(0, 2, 3, 1), mode="bilinear", align_corners=False)


def recolour(layers: Tensor, rng: Generator) -> tuple[Tensor, list[str | None]]:
    """Turn the hue of one picture in six; name the colour of those and of some others."""
    layers = layers.clone()
    draws = torch.rand(len(layers), generator=rng)
    angles = uniform(len(layers), 0, 2 * math.pi, rng)
    colours: list[str | None] = [None] * len(layers)
    turning = (draws < 0.17).nonzero()[:, 0]
    turned = turn_hues(layers[turning, :3], angles[turning])
    for i, rgb, name in zip(turning.tolist(), turned, dominant_colours(turned, layers[turning, 3]), strict=True):
        if name is not None:
            layers[i, :3] = rgb.clamp(0, 1) * (layers[i, 3] > 0)
            colours[i] = name
    named = ((draws >= 0.17) & (draws < 0.32)).nonzero()[:, 0]
    for i, name in zip(named.tolist(), dominant_colours(layers[named, :3], layers[named, 3]), strict=True):
        colours[i] = name
    return layers, colours


def turn_hues(rgb: Tensor, angles: Tensor) -> Tensor:
    """Rotate (B, 3, h, w) about the grey axis by `angles` (B,) in radians; lightness stays."""
    cos, sin = torch.cos(angles), torch.sin(angles) / math.sqrt(3)
    third = (1 - cos) / 3
    ring = torch.stack([cos + third, third - sin, third + sin], dim=1)
    matrices = torch.stack([ring, ring.roll(1, dims=1), ring.roll(2, dims=1)], dim=1)
    return torch.einsum("bij,bjhw->bihw", matrices.to(rgb), rgb)


def dominant_colours(rgb: Tensor, alpha: Tensor) -> list[str | None]:
    """The name of the hue that most of each picture (B, 3, h, w) has, or None where it has no clear one."""
    solid = alpha > 0.5
    vivid = (rgb.amax(dim=1) - rgb.amin(dim=1) > 0.25) & solid
    red, green, blue = rgb.unbind(dim=1)
    hue = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue).rad2deg() % 360
    nearest = torch.stack([(hue - centre).abs() for _, centre in HUES]).argmin(dim=0)
    names = list(dict.fromkeys(name for name, _ in HUES))
    shares = [
        sum((vivid & (nearest == k)).sum(dim=(1, 2)) for k, (other, _) in enumerate(HUES) if other == name)
        for name in names
    ]
    most, which = torch.stack([torch.as_tensor(share) for share in shares]).max(dim=0)
    total = vivid.sum(dim=(1, 2))
    clear = (total >= 0.35 * solid.sum(dim=(1, 2))) & (most > 0.6 * total)
    return [names[k] if sure else None for k, sure in zip(which.tolist(), clear.tolist(), strict=True)]


def backgrounds(count: int, rng: Generator) -> tuple[list[str], Tensor]:
    """Names and colours (B, 3) of plain backgrounds; two in five are white."""
    others = [name for name in COLOURS if name != "white"]
    names = ["white" if chance(rng) < 0.4 else pick(others, rng) for _ in range(count)]
    colours = torch.tensor([COLOURS[name] for name in names])
    jitter = torch.randn(count, 3, generator=rng) * 0.03
    jitter[[i for i, name in enumerate(names) if name == "white"]] = 0
    return names, (colours + jitter).clamp(0, 1)


def caption(icon: Icon, colour: str | None, background: str, rng: Generator) -> str:
    concept = pick(list(icon.names), rng)
    if colour is not None:
        concept = " ".join([colour, *(word for word in concept.split() if word not in COLOURS)])
    style = "" if icon.style == DEFAULT_STYLE and chance(rng) < 0.5 else icon.style
    subject = with_article(f"{style} {concept}".strip()) if chance(rng) < 0.5 else f"{style} {concept}".strip()
    if style and chance(rng) < 0.2:
        subject = f"{style} icon of {with_article(concept) if chance(rng) < 0.5 else concept}"
    paper = "" if background == "white" and chance(rng) < 0.5 else f" on {with_article(background)} background"
    return subject + paper


def line_drawings(pictures: Tensor, rng: Generator) -> Tensor:
    """Edge maps of half of `pictures` and random strokes for the rest, (B, 3, H, W) in [-1, 1], either polarity.

    The autoencoder sees them so that the latent of a drawing means something: it is the target of the LGP.
    """
    count, _, height, width = pictures.shape
    grey = pictures.mean(dim=1, keepdim=True)
    dx = F.pad(grey[..., 1:] - grey[..., :-1], (0, 1, 0, 0))
    dy = F.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))
    edges = ((dx.square() + dy.square()).sqrt() * 4 - uniform(count, 0.3, 1.0, rng)[:, None, None, None]).clamp(0, 1)
    steps = torch.linspace(0, 1, 96)
    rows = torch.arange(height)[None, :, None] + 0.5
    columns = torch.arange(width)[None, None, :] + 0.5
    for i in range(count // 2):
        ink = torch.zeros(height, width)
        for _ in range(int(torch.randint(1, 6, (1,), generator=rng))):
            p = torch.rand(4, 2, generator=rng) * torch.tensor([width, height]) * 1.1 - 2
            s = steps[:, None]
            curve = (1 - s) ** 3 * p[0] + 3 * s * (1 - s) ** 2 * p[1] + 3 * s**2 * (1 - s) * p[2] + s**3 * p[3]
            distance = ((columns - curve[:, 0, None, None]) ** 2 + (rows - curve[:, 1, None, None]) ** 2).amin(dim=0)
            radius = 0.4 + chance(rng) * height / 64
            ink = torch.maximum(ink, (radius + 0.5 - distance.sqrt()).clamp(0, 1))
        edges[i] = ink
    dark = torch.rand(count, 1, 1, 1, generator=rng) < 0.3  # dark ink on white paper; the LGP target is white on black
    drawn = torch.where(dark, 1 - edges, edges)
    return (drawn * 2 - 1).expand(-1, 3, -1, -1)
