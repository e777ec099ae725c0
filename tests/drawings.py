"""Drawings that several test files share: written as SVG, drawn as pictures, and how far maps differ."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from skimage.morphology import skeletonize

from sketchguide.sketch import Sketch, SpatialMap

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "sketches"
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 100 100">{}</svg>'
)
LINE = 'fill="none" stroke="black"'
CIRCLE = np.stack([0.5 + 0.3 * np.cos(np.linspace(0, 6.2, 80)), 0.5 + 0.3 * np.sin(np.linspace(0, 6.2, 80))], axis=1)


def svg(body: str) -> Sketch:
    return Sketch.from_svg(SVG.format(body))


def drawn(
    sketch: Sketch, size: int = 512, *, width: float = 3, ink: Any = "black", paper: Any = "white"
) -> Image.Image:
    """The sketch as somebody's drawing program would save it, with lines of `width` pixels."""
    big = Image.new("RGB", (2 * size, 2 * size), paper)
    draw = ImageDraw.Draw(big)
    for stroke in sketch.strokes:
        points = [tuple(point) for point in (stroke.points * 2 * size).tolist()]
        draw.line(points, fill=ink, width=round(2 * width), joint="curve")
        for x, y in points:
            draw.ellipse([x - width, y - width, x + width, y + width], fill=ink)
    return big.resize((size, size), Image.Resampling.BOX)


def box(sketch: Sketch) -> list[float]:
    points = np.concatenate([stroke.points for stroke in sketch.strokes])
    return [*points.min(axis=0), *points.max(axis=0)]


def difference(one: SpatialMap, other: SpatialMap) -> float:
    """Ink that only one of two maps has, as a share of the ink that each has."""
    return float(np.abs(one.ink - other.ink).sum() / (one.ink.sum() + other.ink.sum()))


def thickness(mapped: SpatialMap) -> float:
    """Ink per pixel of centre line."""
    return float(mapped.ink.sum() / skeletonize(mapped.ink > 0.5).sum())


def same(one: Sketch, other: Sketch) -> bool:
    return one.to_json() == other.to_json()
