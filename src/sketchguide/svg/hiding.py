"""What shapes leave to be seen of those behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sketchguide.lines import Mask, covered, distance_to
from sketchguide.strokes import Points
from sketchguide.svg.shapes import Shape
from sketchguide.svg.styles import Colour

_SIDE, _EDGE = 256, 3  # the grid on which shapes hide others, and cells along their edges that hide nothing


def seen(shapes: Sequence[Shape], paper: Colour | None) -> list[Shape]:
    """The shapes without those parts of their outlines that shapes in front are painted over and, where they have no
    line, that lie on their own colour.
    """
    if all(shape.fill_colour is None for shape in shapes):
        return list(shapes)
    grid = (_SIDE, _SIDE)
    areas = [
        None
        if shape.fill_colour is None
        else covered([points * _SIDE for points, _ in shape.paths], grid=grid, even_odd=shape.even_odd)
        for shape in shapes
    ]
    alike: list[Mask | None] = []  # what lies on its own colour
    numbers = {colour: number for number, colour in enumerate({paper, *(shape.fill_colour for shape in shapes)})}
    painted = np.full(grid, numbers[paper])
    for shape, area in zip(shapes, areas, strict=True):
        own = numbers[shape.fill_colour]
        alike.append(_within(painted == own) if shape.width is None and area is not None else None)
        if area is not None:
            painted[area] = own
    above = np.zeros(grid, bool)
    left: list[Shape] = []
    for shape, own, area in zip(reversed(shapes), reversed(alike), reversed(areas), strict=True):
        hidden = above if own is None else own | above
        if hidden.any():
            shape = replace(shape, paths=tuple(part for path in shape.paths for part in _uncovered(*path, hidden)))
        if shape.paths:
            left.append(shape)
        if area is not None:
            above |= _within(area)
    return left[::-1]


def _within(area: Mask) -> Mask:
    """An area without the cells along its edges."""
    return np.asarray(distance_to(~area)) > _EDGE


def _uncovered(points: Points, closed: bool, hidden: Mask) -> list[tuple[Points, bool]]:
    """The parts of a path that lie on no hidden cell: the path itself where that is all of it."""
    ring = np.concatenate([points, points[:1]]) if closed else points
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(ring, axis=0).T).cumsum()])
    between = np.linspace(0, lengths[-1], 2 + int(min(lengths[-1], 100) * 2 * _SIDE))
    places = np.union1d(lengths, between)
    fine = np.stack([np.interp(places, lengths, ring[:, axis]) for axis in (0, 1)], axis=1)
    column, row = np.floor(fine * _SIDE).clip(0, _SIDE - 1).astype(int).T
    visible = ~hidden[row, column] | (fine < 0).any(axis=1) | (fine >= 1).any(axis=1)
    if visible.all():
        return [(points, closed)]
    ends = np.flatnonzero(np.diff(visible)) + 1
    parts = [part for part, shown in zip(np.split(fine, ends), np.split(visible, ends), strict=True) if shown[0]]
    if closed and len(parts) > 1 and visible[0] and visible[-1]:
        parts = [np.concatenate([parts[-1], parts[0][1:]]), *parts[1:-1]]
    return [(part, False) for part in parts if len(part) > 1]
