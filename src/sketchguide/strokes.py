"""One line of the pen, the canvas it lies on, and the limits of both.

Coordinates are (x, y), x to the right and y downwards. In canvas units (0, 0) is the top left corner and (1, 1) the
bottom right one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sketchguide.errors import SketchError

LINE_WIDTH = 1.5 / 64
"""The thickness of a line, as a fraction of the picture's longer side."""

MAX_POINTS = 200_000
MAX_COORDINATE = 1e6
MAX_ASPECT = 32.0
MARGIN = 0.08

Float = NDArray[np.float32]
Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stroke:
    """One line of the pen.

    Attributes:
        points: (N, 2) float32, x and y in canvas units. Points outside are allowed; what lies off the canvas is not
            drawn. A single point is a dot.
        width: thickness as a fraction of the picture's longer side, as LINE_WIDTH is, at most 0.25; None is the
            default line.
        weight: how strongly the stroke binds, ≥ 0; 1 is normal.
        closed: the last point is joined to the first.
    """

    points: Float
    width: float | None = None
    weight: float = 1.0
    closed: bool = False

    def __post_init__(self) -> None:
        points = as_numbers(self.points)
        if points is None or points.ndim != 2 or points.shape[1] != 2 or not len(points):
            refuse("A stroke needs a list of points (x, y), at least one, all of them numbers.")
        if len(points) > MAX_POINTS:
            refuse(f"A stroke has {len(points)} points; at most {MAX_POINTS} are allowed.")
        if not in_reach(points, MAX_COORDINATE):
            refuse("A stroke has a coordinate that is not finite or lies absurdly far off the canvas.")
        if self.width is not None and not (is_number(self.width) and 0 < self.width <= 0.25):
            refuse(f"A stroke's width is {self.width}; it must be above 0 and at most 0.25 of the canvas.")
        if not (is_number(self.weight) and 0 <= self.weight <= 1000):
            refuse(f"A stroke's weight is {self.weight}; it must be 0 to 1000, and 1 is normal.")
        object.__setattr__(self, "points", frozen(points))


def fitted(strokes: Sequence[Points], *, square: bool) -> tuple[list[Points], float]:
    """Strokes (N, 2) in any units -> in canvas units, centred with a margin; and the canvas's width / height."""
    everything = np.concatenate(strokes)
    low, extent = everything.min(axis=0), np.ptp(everything, axis=0)
    side = float(extent.max()) or 1.0
    canvas = with_margin(np.full(2, side) if square else np.where(extent.any(), extent, side))
    return [(points - low - extent / 2) / canvas + 0.5 for points in strokes], float(canvas[0] / canvas[1])


def with_margin(extent: Points) -> Points:
    """Width and height of the canvas for a drawing of `extent` (2,), which is not (0, 0)."""
    side = float(extent.max())
    return np.maximum(extent, side / MAX_ASPECT * 1.5) + 2 * MARGIN / (1 - 2 * MARGIN) * side


def on_the_page(stroke: Stroke) -> list[Stroke]:
    """The parts of a stroke that are drawn."""
    points = stroke.points.astype(np.float64)
    if ((points >= 0) & (points <= 1)).all():
        return [stroke]
    parts: list[list[NDArray[np.float64]]] = []
    for start, end in clipped(np.concatenate([points, points[:1]]) if stroke.closed else points, limit=(1, 1)):
        if parts and np.allclose(parts[-1][-1], start, rtol=0, atol=1e-9):
            parts[-1].append(end)
        else:
            parts.append([start, end])
    return [replace(stroke, points=frozen(np.array(part)), closed=False) for part in parts]


def clipped(points: Points, *, limit: tuple[int, int]) -> NDArray[np.float64]:
    """The segments (S, 2, 2) of a polyline, cut at the canvas (Liang and Barsky 1984)."""
    start, end = points[:-1], points[1:]
    way = end - start
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = -start / way, (np.array(limit) - start) / way
    still = way == 0
    inside = (start >= 0) & (start <= limit)
    enter = np.where(still, np.where(inside, 0.0, 2.0), np.minimum(first, second)).max(axis=1).clip(0)
    leave = np.where(still, 1.0, np.maximum(first, second)).min(axis=1).clip(max=1)
    met = enter <= leave
    start, way, enter, leave = start[met], way[met], enter[met, None], leave[met, None]
    return np.stack([start + enter * way, start + leave * way], axis=1)


def refuse(message: str, *, hint: str = "") -> NoReturn:
    raise SketchError(message, hint=hint, field="sketch")


def is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def as_numbers(values: object) -> NDArray[np.float64] | None:
    """An array or nested lists as float64; None where they are ragged or hold anything but real numbers."""
    try:
        array = np.asarray(values)
        return array.astype(np.float64) if array.dtype.kind in "iuf" else None
    except (ValueError, OverflowError):
        return None


def in_reach(points: Points, limit: float) -> bool:
    """All coordinates are numbers, and none is farther than `limit` from 0."""
    return bool((np.abs(points) <= limit).all())


def frozen(values: NDArray[Any]) -> Float:
    """A float32 copy that nobody can write to."""
    array = np.array(values, dtype=np.float32)
    array.setflags(write=False)
    return array
