"""Lines on a grid: reduced to one cell, measured, and drawn anew with a round pen.

The last two axes of an array are rows and columns; those before them number the pictures of a batch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Mask = NDArray[np.bool_]
Distance = TypeVar("Distance", NDArray[np.float64], "Tensor")

# the eight neighbours, counter-clockwise from the right: (row, column)
_AROUND = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def thin(ink: Mask) -> Mask:
    """Lines of any thickness (..., H, W) reduced to one cell, as connected as before.

    Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 32(3), 1989. Only ink is visited, so the
    cost grows with the ink, not with the grid.
    """
    padded = np.pad(ink, [(0, 0)] * (ink.ndim - 2) + [(1, 1)] * 2)
    flat = padded.reshape(-1)
    around = np.array([row * padded.shape[-1] + column for row, column in _AROUND])
    inked = np.flatnonzero(flat)
    bits = 1 << np.arange(8)
    while True:
        before = len(inked)
        for removable in _removable():
            gone = removable[flat[inked[:, None] + around] @ bits]
            flat[inked[gone]] = False
            inked = inked[~gone]
        if len(inked) == before:
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


def round_pen(distance: Distance, *, width: float) -> Distance:
    """Ink in [0, 1] that a pen of `width` cells leaves at a `distance` from its path; its edge falls over one cell."""
    return (width / 2 + 0.5 - distance).clip(0, 1)
