"""From strokes and rasters to even lines on the grid of a map.

They are drawn on a grid that is finer than the map, whose cells are pooled in the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sketchguide.lines import Mask, distance_to, round_pen, thin
from sketchguide.rasters import marked
from sketchguide.strokes import LINE_WIDTH, Float, Points, Stroke, clipped


def even_lines(
    strokes: Sequence[Stroke], raster: Float | None, *, aspect: float, size: tuple[int, int], line_width: float
) -> tuple[Float, Float]:
    """Ink and weight (H, W) of a drawing on a canvas of that aspect, as `Sketch.rasterize` says. `size` is (W, H)."""
    width, height = size
    fine = _fineness(width, height)
    grid = (height * fine, width * fine)
    canvas_width = max(1, round(min(grid[1], grid[0] * aspect)))
    canvas_height = max(1, round(min(grid[0], grid[1] / aspect)))
    canvas = (canvas_height, canvas_width)
    pen = max(fine, line_width * max(grid))

    pens: dict[float, list[Stroke]] = {}
    for stroke in strokes:
        own = pen if stroke.width is None else max(fine, stroke.width * max(grid))
        pens.setdefault(pen * _step(own / pen), []).append(stroke)
    lines = {own: _drawn(drawn, canvas=canvas) >= 0 for own, drawn in pens.items()}
    if raster is not None:
        lines[pen] = lines.get(pen, np.zeros(canvas, np.bool_)) | _centre_lines(raster, canvas=canvas)

    ink = np.zeros(grid, dtype=np.float32)
    for own, mask in lines.items():
        distance = distance_to(_placed(mask, grid, blank=False))
        np.maximum(ink, round_pen(distance, width=own), out=ink)
    if any(stroke.weight != 1 for stroke in strokes):
        weights = _drawn(sorted(strokes, key=lambda stroke: stroke.weight), canvas=canvas)
        weight = _spread(_placed(weights, grid, blank=-1.0), reach=pen)
    else:
        weight = np.ones(grid, dtype=np.float32)
    return _pooled(ink, fine), _pooled(weight, fine)


def widened(ink: Float, *, factor: float) -> Float:
    """Ink (H, W) with lines wider by `factor` - 1 usual widths (LINE_WIDTH); `factor` is above 1."""
    height, width = ink.shape
    fine = _fineness(width, height)
    lines = np.asarray(Image.fromarray(ink).resize((width * fine, height * fine), Image.Resampling.BILINEAR))
    wider = (factor - 1) * LINE_WIDTH * max(lines.shape)
    drawn = round_pen(distance_to(lines >= 0.5), width=wider + 1)  # 1: from the middle of a cell
    return np.maximum(ink, _pooled(drawn.astype(np.float32), fine))


def _fineness(width: int, height: int) -> int:
    """Grid cells per pixel on either axis, for a map of that size."""
    return max(1, min(4, 1024 // max(width, height)))


def _step(ratio: float) -> float:
    """Pens come in steps of a fifth, so that a thousand different widths cost no more than a dozen."""
    return 1.2 ** round(math.log(ratio, 1.2))


def _drawn(strokes: Sequence[Stroke], *, canvas: tuple[int, int]) -> Float:
    """One-cell lines on a canvas (height, width): the stroke's weight where there is a line, -1 elsewhere."""
    height, width = canvas
    picture = Image.new("F", (width, height), -1)
    draw = ImageDraw.Draw(picture)
    for stroke in strokes:
        points = stroke.points.astype(np.float64) * (width, height)
        if stroke.closed:
            points = np.concatenate([points, points[:1]])
        weight = float(stroke.weight)
        if len(points) == 1:
            draw.point(_cells(points, (width, height)), fill=weight)
        elif (points >= 0).all() and (points <= (width, height)).all():
            draw.line(_cells(points, (width, height)), fill=weight)
        else:
            for segment in clipped(points, limit=(width, height)):
                draw.line(_cells(segment, (width, height)), fill=weight)
    return np.asarray(picture)


def _cells(points: Points, limit: tuple[int, int]) -> list[float]:
    """x and y of the cells that points lie in; the far edges of the canvas belong to its last cells."""
    return np.where(points == limit, np.array(limit) - 1, np.floor(points)).ravel().tolist()


def _centre_lines(ink: Float, *, canvas: tuple[int, int]) -> Mask:
    """(H, W) ink -> centre lines of its strokes and outlines of its solid areas, on a canvas (height, width)."""
    from scipy import ndimage

    height, width = canvas
    shrink = max(ink.shape) / max(canvas)
    if shrink < 1:
        picture = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)
        # smoothed by 0.7 of the given pixels, which leaves 0.53 of a line one pixel thick: no staircases
        mask = marked(ndimage.gaussian_filter(np.asarray(picture), 0.7 / shrink) / 0.53)
    else:
        mask = marked(ink)
        if shrink >= 1.5:
            mask = ndimage.maximum_filter(mask, size=round(shrink))
        picture = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
        mask = np.asarray(picture) >= 0.5
    mask = np.pad(mask, 1)
    depth = distance_to(~mask)
    solid_depth = max(4.0, 0.035 * max(canvas))
    if depth.max() <= solid_depth:
        return thin(mask)[1:-1, 1:-1]
    lines = thin(mask)
    along = depth[lines]
    pen = float(np.median(along))
    # Half the width is nearly the same all along lines of a thick pen, and grows to twice that where they meet.
    if pen < 0.06 * max(canvas) and np.mean(np.abs(along / pen - 1) < 0.3) > 0.7:
        solid_depth = max(solid_depth, 2 * pen)
        if depth.max() <= solid_depth:
            return lines[1:-1, 1:-1]
    core = depth > solid_depth
    solid: Mask = mask & (distance_to(core) <= solid_depth + 1.5)
    outlines = solid & (distance_to(~solid) <= 1)
    return (thin(mask & ~solid) | outlines)[1:-1, 1:-1]


def _placed(canvas: NDArray[Any], grid: tuple[int, int], *, blank: float) -> NDArray[Any]:
    """The canvas in the middle of a larger grid (height, width)."""
    page = np.full(grid, blank, dtype=canvas.dtype)
    top, left = (grid[0] - canvas.shape[0]) // 2, (grid[1] - canvas.shape[1]) // 2
    page[top : top + canvas.shape[0], left : left + canvas.shape[1]] = canvas
    return page


def _spread(weights: Float, *, reach: float) -> Float:
    """Weights on lines (-1: none) -> weights everywhere: the nearest line's within `reach`, 1 beyond thrice that."""
    from scipy import ndimage

    away = weights < 0
    if away.all():
        return np.ones_like(weights)
    distance, nearest = np.empty(away.shape, np.float64), np.empty((2, *away.shape), np.int32)
    ndimage.distance_transform_edt(away, return_indices=True, distances=distance, indices=nearest)
    hold = ((3 * reach - distance) / (2 * reach)).clip(0, 1).astype(np.float32)
    return 1 + (weights[tuple(nearest)] - 1) * hold


def _pooled(values: Float, fine: int) -> Float:
    height, width = (side // fine for side in values.shape)
    return values.reshape(height, fine, width, fine).mean(axis=(1, 3))
