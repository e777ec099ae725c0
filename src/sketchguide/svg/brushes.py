"""Marks of a brush: shapes painted along a path, as drawing programs save them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sketchguide.images import MIN_SIDE
from sketchguide.lines import covered
from sketchguide.strokes import Float, Points
from sketchguide.svg.shapes import Shape

_PAINTED_SIDE = 1024
_MAX_NESTED = 32  # outlines of which it is found out which lie within which
_MEASURED_SIDE = 256  # of the grid on which the area of so many is measured
_UNSEEN = 0.03  # of the width of a mark: a narrower line around it shows nothing


def is_brushed(shape: Shape, aspect: float) -> bool:
    """A long, narrow painted shape: the mark of a brush of up to a tenth of the canvas."""
    if shape.width is not None:
        return False
    area, length = _measured(shape, aspect)
    side = max(aspect, 1.0)
    return 1e-3 * side * length < 2 * area < 0.1 * side * length and length * length > 32 * area


def unlined(shape: Shape, aspect: float, *, unit: float | None) -> Shape:
    """The mark of a brush without a line around it that shows nothing, in the colour of the mark or too narrow to be
    seen beside it; `unit` is the canvas's height in what line widths are in, if that is known. Other shapes stay as
    they are.
    """
    if shape.width is None or not all(closed for _, closed in shape.paths):
        return shape
    bare = replace(shape, width=None, line_colour=None)
    if not is_brushed(bare, aspect):
        return shape
    area, length = _measured(bare, aspect)
    unseen = unit is not None and shape.width / unit < _UNSEEN * 2 * area / length
    return bare if unseen or shape.line_colour == shape.fill_colour else shape


def rubs(shape: Shape, layers: Sequence[tuple[Shape, bool]]) -> bool:
    """Whether a mark of the paper's colour lies on others, rather than on something that is not a mark."""
    low, high = _corners(shape)
    others = (_corners(other) for other, inked in layers if inked)
    return any(bool((low < other_high).all() and (high > other_low).all()) for other_low, other_high in others)


def _measured(shape: Shape, aspect: float) -> tuple[float, float]:
    """The area of a filled shape and the length of its outlines, the canvas being 1 high."""
    outlines = [points * (aspect, 1.0) for points, _ in shape.paths]
    area = length = 0.0
    many = shape.even_odd and len(outlines) > _MAX_NESTED
    for points in outlines:
        following = np.roll(points, -1, axis=0)
        enclosed = float(points[:, 0] @ following[:, 1] - points[:, 1] @ following[:, 0]) / 2
        if shape.even_odd and not many:  # what lies in an odd number of others is a hole, whichever way it runs
            around = sum(_holds(other, points[0]) for other in outlines if other is not points)
            enclosed = abs(enclosed) * (-1) ** around
        area += enclosed
        length += float(np.hypot(*(following - points).T).sum())
    if many:
        low, high = _corners(shape)
        sides = np.maximum(high - low, 1e-9)
        cells = [(points - low) / sides * _MEASURED_SIDE for points, _ in shape.paths]
        inside = covered(cells, grid=(_MEASURED_SIDE, _MEASURED_SIDE), even_odd=True)
        area = float(inside.mean() * sides.prod()) * aspect
    return abs(area), length


def _holds(outline: Points, point: Points) -> bool:
    """Whether a closed outline (N, 2) goes around a point (2,)."""
    following = np.roll(outline, -1, axis=0)
    crossing = (outline[:, 1] > point[1]) != (following[:, 1] > point[1])
    start, end = outline[crossing], following[crossing]
    across = start[:, 0] + (point[1] - start[:, 1]) / (end[:, 1] - start[:, 1]) * (end[:, 0] - start[:, 0])
    return bool(np.count_nonzero(across > point[0]) % 2)


def extent(shape: Shape) -> float:
    """The share of the canvas that a rectangle around the shape takes."""
    low, high = _corners(shape)
    return float((high.clip(0, 1) - low.clip(0, 1)).prod())


def _corners(shape: Shape) -> tuple[Points, Points]:
    """Of the box around a shape, (2,) each."""
    points = np.concatenate([points for points, _ in shape.paths])
    return points.min(axis=0), points.max(axis=0)


def painted(layers: Sequence[tuple[Shape, bool]], aspect: float) -> Float | None:
    """Where brushes have painted, (H, W), by `layers` from the lowest up: shapes, and whether each is ink."""
    if not any(inked for _, inked in layers):
        return None
    longer = max(aspect, 1.0)
    width, height = (max(MIN_SIDE, round(_PAINTED_SIDE * side / longer)) for side in (aspect, 1.0))
    page = np.zeros((height, width), np.float32)
    for shape, inked in layers:
        cells = [points * (width, height) for points, _ in shape.paths]
        low = np.floor(np.min([points.min(axis=0) for points in cells], axis=0)).clip(0, (width, height))
        high = np.ceil(np.max([points.max(axis=0) for points in cells], axis=0)).clip(0, (width, height))
        (left, top), (right, bottom) = low.astype(int), high.astype(int)
        inside = covered([points - low for points in cells], grid=(bottom - top, right - left), even_odd=shape.even_odd)
        page[top:bottom, left:right][inside] = inked
    return page
