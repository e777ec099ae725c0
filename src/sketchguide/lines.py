"""Lines on a grid: reduced to one cell, measured, and drawn anew with a round pen.

The last two axes of an array are rows and columns; those before them number the pictures of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Mask = NDArray[np.bool_]
Distance = TypeVar("Distance", NDArray[np.float64], "Tensor")

_EDGES = 4096  # at a time

# the eight neighbours, counter-clockwise from the right: (row, column)
_AROUND = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def thin(ink: Mask) -> Mask:
    """Lines of any thickness (..., H, W) reduced to one cell, as connected as before.

    Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 32(3), 1989. A cell is looked at again only
    when one beside it went, so the cost grows with the ink, not with how thick it is.
    """
    padded = np.pad(np.ascontiguousarray(ink, np.bool_), [(0, 0)] * (ink.ndim - 2) + [(1, 1)] * 2)
    flat = padded.reshape(-1)
    around = np.array([row * padded.shape[-1] + column for row, column in _AROUND])
    bits = 1 << np.arange(8)
    order = np.empty(flat.shape, np.int32)
    due, went = np.flatnonzero(flat), list[NDArray[np.intp]]()  # in the last two sub-iterations
    while len(went) < 2 or any(map(len, went)):
        for removable in _removable():
            if len(went) < 2:  # each looks at all the ink once
                due = due[flat[due]]
            else:
                due = (np.concatenate(went)[:, None] + around).reshape(-1)
                due = due[flat[due]]
                order[due] = np.arange(len(due))
                due = due[order[due] == np.arange(len(due))]  # each cell once
            gone = due[removable[flat[due[:, None] + around] @ bits]]
            flat[gone] = False
            went = [*went[-1:], gone]
    return padded[..., 1:-1, 1:-1]


@lru_cache(maxsize=1)
def _removable() -> tuple[Mask, Mask]:
    """For the two sub-iterations, which of the 256 neighbourhoods allow a cell to go."""
    x = ((np.arange(256)[:, None] >> np.arange(8)) & 1).astype(np.bool_)  # x[:, 0] is the right neighbour
    following = np.roll(x, -1, axis=1)
    crossings = (~x[:, 0::2] & (following[:, 0::2] | np.roll(x, -2, axis=1)[:, 0::2])).sum(axis=1)
    first = (x[:, 0::2] | following[:, 0::2]).sum(axis=1)
    second = (x[:, 1::2] | following[:, 1::2]).sum(axis=1)
    fewer = np.minimum(first, second)
    both = (crossings == 1) & (fewer >= 2) & (fewer <= 3)
    return (
        both & ~((x[:, 1] | x[:, 2] | ~x[:, 7]) & x[:, 0]),
        both & ~((x[:, 5] | x[:, 6] | ~x[:, 3]) & x[:, 4]),
    )


def rim(grid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost cells of a grid (H, W), one after the other."""
    return np.concatenate([grid[0], grid[-1], grid[1:-1, 0], grid[1:-1, -1]])


def distance_to(ink: Mask) -> NDArray[np.float64]:
    """Euclidean distance (..., H, W) in cells from each cell to the nearest of `ink` (..., H, W).

    Where a picture has no ink, the distance is H + W: farther than anything can be.
    """
    from scipy import ndimage

    distance = np.full(ink.shape, float(sum(ink.shape[-2:])))
    for picture in np.ndindex(ink.shape[:-2]):
        if ink[picture].any():
            ndimage.distance_transform_edt(~ink[picture], distances=distance[picture])
    return distance


def covered(outlines: Sequence[NDArray[np.float64]], *, grid: tuple[int, int], even_odd: bool = False) -> Mask:
    """Which cells (H, W) of a grid have their middle within closed outlines (N, 2), x and y in cells: those that the
    outlines wind around, or with `even_odd` an odd number of times.
    """
    start = np.concatenate(outlines)
    end = np.concatenate([np.roll(outline, -1, axis=0) for outline in outlines])
    height, width = grid
    turns = np.zeros((height, width + 1), np.int32)
    first, last = (
        np.ceil(pick(start[:, 1], end[:, 1]) - 0.5).clip(0, height).astype(int) for pick in (np.minimum, np.maximum)
    )
    met = last > first
    start, end, first, last = start[met], end[met], first[met], last[met]
    for part in range(0, len(start), _EDGES):
        some = slice(part, part + _EDGES)
        rows = last[some] - first[some]
        edge = np.repeat(np.arange(part, part + len(rows)), rows)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
        (x, y), (across, down) = start[edge].T, (end - start)[edge].T
        column = np.ceil(x + (row + 0.5 - y) / down * across - 0.5).clip(0, width).astype(int)
        np.add.at(turns, (row, column), np.sign(down).astype(np.int32))
    inside = turns.cumsum(axis=1)[:, :-1]
    return inside % 2 == 1 if even_odd else inside != 0


def round_pen(distance: Distance, *, width: float) -> Distance:
    """Ink in [0, 1] that a pen of `width` cells leaves at a `distance` from its path; its edge falls over one cell."""
    return (width / 2 + 0.5 - distance).clip(0, 1)
