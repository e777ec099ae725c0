"""Drawings as people make them: too thick, too thin, with gaps, misplaced, white on black, with strokes too many.

A perturbed drawing is a `SpatialMap`, for nothing after it may repair the lines: `Sketch.rasterize` would. Lengths are
fractions of the map's longer side; the figures in comments are pixels of a 64-pixel map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sketchguide.errors import UsageError
from sketchguide.lines import distance_to, round_pen, thin
from sketchguide.sketch import Sketch, SpatialMap
from sketchguide.strokes import LINE_WIDTH, Points, Stroke

THICK = 2.5  # times the normal pen: 3.75
THIN = 1 / 3  # and at least one pixel: 1
GAP = 6 / 64
RUN = 12 / 64  # mean length of line between two gaps
SHIFT = 2 / 64
STRAY_STROKES = 4
STRAY_LENGTH = (10 / 64, 22 / 64)  # of the shorter side, so that they fit
_INK = 0.5


def perturb(
    drawing: Sketch | SpatialMap, kind: str, *, size: tuple[int, int] | None = None, seed: int = 0
) -> SpatialMap:
    """A drawing, spoiled in one way; `seed` decides where, and the same seed always gives the same map.

    - `thick`, `thin`: the pen is 2.5 times and 1/3 as wide (at least one pixel).
    - `broken`: gaps of 6/64 along the lines, a third of their length in all. Strokes shorter than a gap stay whole.
    - `shifted`: moved by 2/64, in whole pixels, to the left, right, top or bottom.
    - `inverted`: ink is paper and paper is ink.
    - `stray`: four bent strokes more, 10/64 to 22/64 of the shorter side long, anywhere.

    A sketch made of strokes only is changed stroke by stroke and then drawn, a map (or a sketch with a raster) by its
    pixels. Each pixel's weight stays what it was, and moves with a shift.

    Args:
        kind: one of `PERTURBATIONS`.
        size: (width, height) of the map, each 8 to 4096; needed for a sketch, and a map brings its own.

    Raises:
        UsageError: an unknown kind, a sketch without a size, or a size that is not the map's.
    """
    if kind not in PERTURBATIONS:
        raise UsageError(f"{kind!r} is no perturbation; there are {', '.join(PERTURBATIONS)}.", field="kind")
    if isinstance(drawing, Sketch):
        if size is None:
            raise UsageError("A sketch has no size of its own.", hint="Give size=(width, height).", field="size")
        if drawing.raster is not None:
            drawing = drawing.rasterize(size=size)
    elif size not in (None, drawing.ink.shape[::-1]):
        height, width = drawing.ink.shape
        raise UsageError(f"The map is {width}x{height}; it cannot be made {size}.", field="size")
    return PERTURBATIONS[kind](drawing, size or (0, 0), np.random.default_rng(seed))


Perturbation = Callable[[Sketch | SpatialMap, tuple[int, int], Generator], SpatialMap]


def drawn(drawing: Sketch | SpatialMap, size: tuple[int, int]) -> SpatialMap:
    return drawing.rasterize(size=size) if isinstance(drawing, Sketch) else drawing


def with_pen(factor: float) -> Perturbation:
    def perturbed(drawing: Sketch | SpatialMap, size: tuple[int, int], _: Generator) -> SpatialMap:
        if isinstance(drawing, Sketch):
            strokes = (
                stroke if stroke.width is None else replace(stroke, width=min(stroke.width * factor, 0.25))
                for stroke in drawing.strokes
            )
            return replace(drawing, strokes=tuple(strokes)).rasterize(size=size, line_width=LINE_WIDTH * factor)
        width = max(1.0, LINE_WIDTH * factor * max(drawing.ink.shape))
        return replace(drawing, ink=round_pen(distance_to(thin(drawing.ink >= _INK)), width=width))

    return perturbed


def broken(drawing: Sketch | SpatialMap, size: tuple[int, int], rng: Generator) -> SpatialMap:
    if isinstance(drawing, Sketch):
        width, height = size
        canvas = np.minimum((width, height), (height * drawing.aspect, width / drawing.aspect)) / max(size)
        strokes = [part for stroke in drawing.strokes for part in with_gaps(stroke, canvas, rng)]
        return replace(drawing, strokes=tuple(strokes)).rasterize(size=size)
    side = max(drawing.ink.shape)
    lines = np.argwhere(thin(drawing.ink >= _INK))
    gone = np.zeros(len(lines), np.bool_)
    free = np.ones(len(lines), np.bool_)
    paper = np.zeros(drawing.ink.shape, np.bool_)
    grid = np.moveaxis(np.indices(drawing.ink.shape), 0, -1)
    for centre in rng.permutation(len(lines)):
        if gone.mean() >= GAP / (GAP + RUN):
            break
        away = np.linalg.norm(lines - lines[centre], axis=1)
        if free[centre] and not (gone | (away <= GAP / 2 * side)).all():
            gone |= away <= GAP / 2 * side
            free &= away > (GAP + RUN) / 2 * side
            paper |= np.linalg.norm(grid - lines[centre], axis=-1) <= GAP / 2 * side
    return replace(drawing, ink=np.where(paper, 0, drawing.ink))


def with_gaps(stroke: Stroke, canvas: NDArray[np.float64], rng: Generator) -> list[Stroke]:
    """What is left of a stroke; `canvas` is its width and height, as fractions of the map's longer side."""
    points = stroke.points.astype(np.float64)
    if stroke.closed:
        points = np.concatenate([points, points[:1]])
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(points, axis=0) * canvas, axis=1).cumsum()])
    if along[-1] <= GAP:
        return [stroke]
    parts: list[Stroke] = []
    start = -rng.uniform(0, RUN + GAP)
    while start < along[-1]:
        end = start + RUN * rng.uniform(0.6, 1.4)
        if end > 0:
            part = piece(points, along, max(start, 0.0), min(end, along[-1]))
            parts.append(replace(stroke, points=part.astype(np.float32), closed=False))
        start = end + GAP
    return parts


def piece(points: Points, along: NDArray[np.float64], start: float, end: float) -> Points:
    """The part of a polyline (N, 2) between two distances from its beginning; `along` (N,) are those of its points."""
    where = np.concatenate([[start], along[(along > start) & (along < end)], [end]])
    return np.stack([np.interp(where, along, axis) for axis in points.T], axis=1)


def shifted(drawing: Sketch | SpatialMap, size: tuple[int, int], rng: Generator) -> SpatialMap:
    drawing = drawn(drawing, size)
    height, width = drawing.ink.shape
    step = max(1, round(SHIFT * max(height, width)))
    rows, columns = ((0, step), (0, -step), (step, 0), (-step, 0))[int(rng.integers(4))]

    def moved(values: NDArray[np.float32], paper: float) -> NDArray[np.float32]:
        around = np.pad(values, step, constant_values=paper)
        return around[step - rows :, step - columns :][:height, :width]

    return replace(drawing, ink=moved(drawing.ink, 0.0), weight=moved(drawing.weight, 1.0))


def inverted(drawing: Sketch | SpatialMap, size: tuple[int, int], _: Generator) -> SpatialMap:
    drawing = drawn(drawing, size)
    return replace(drawing, ink=1 - drawing.ink)


def stray(drawing: Sketch | SpatialMap, size: tuple[int, int], rng: Generator) -> SpatialMap:
    drawing = drawn(drawing, size)
    height, width = drawing.ink.shape
    canvas = np.array([width, height]) / max(width, height)
    strokes = [stray_stroke(canvas, rng) for _ in range(STRAY_STROKES)]
    extra = Sketch.from_strokes(strokes, aspect=width / height).rasterize(size=(width, height))
    return replace(drawing, ink=np.maximum(drawing.ink, extra.ink))


def stray_stroke(canvas: NDArray[np.float64], rng: Generator) -> Points:
    """A bent line in canvas units that stays on the canvas, whose sides are given as fractions of the longer one."""
    while True:
        angle, bend = rng.uniform(0, 2 * math.pi), rng.uniform(-0.3, 0.3)
        way = rng.uniform(*STRAY_LENGTH) * canvas.min() * np.array([math.cos(angle), math.sin(angle)])
        start = rng.uniform(0, 1, 2) * canvas
        middle = start + way / 2 + bend * way[::-1] * (1, -1)
        u = np.linspace(0, 1, 12)[:, None]
        points = ((1 - u) ** 2 * start + 2 * u * (1 - u) * middle + u**2 * (start + way)) / canvas
        if points.min() >= 0.03 and points.max() <= 0.97:
            return points


PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType(
    {
        "thick": with_pen(THICK),
        "thin": with_pen(THIN),
        "broken": broken,
        "shifted": shifted,
        "inverted": inverted,
        "stray": stray,
    }
)
