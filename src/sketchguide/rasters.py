"""Rasters of ink (H, W): reduced, cut, and the parts that are marks of a pen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sketchguide.images import MIN_SIDE
from sketchguide.lines import Mask
from sketchguide.strokes import Float

_SPECK = 0.015  # of the longer side: smaller is dirt, if it lies alone
_EDGE = 0.03  # of the page: a thinner mark at its edge is a scanner's


def reduced(marks: NDArray[Any], shrink: float) -> NDArray[Any]:
    """Marks (H, W) at 1 / `shrink` of their size, if that is above 1, thin lines kept."""
    from scipy import ndimage

    if shrink <= 1:
        return marks
    if shrink >= 1.5:
        marks = np.asarray(ndimage.maximum_filter(marks, size=round(shrink)))
    height, width = (max(MIN_SIDE, round(side / shrink)) for side in marks.shape)
    return np.asarray(Image.fromarray(marks).resize((width, height), Image.Resampling.BOX))


def centred(values: Float, sides: tuple[int, int]) -> Float:
    """A raster (H, W) in the middle of a larger one with these `sides`, blank around it."""
    top, left = (int((old - new) / 2) for old, new in zip(values.shape, sides, strict=True))
    return window(values, (top, left), sides)


def window(values: Float, corner: tuple[int, int], sides: tuple[int, int]) -> Float:
    """The part of a raster (H, W) of these `sides` whose first row and column `corner` is; blank where it has none."""
    top, left = corner
    page = np.zeros(sides, values.dtype)
    within = values[max(top, 0) : top + sides[0], max(left, 0) : left + sides[1]]
    below, beside = max(-top, 0), max(-left, 0)
    page[below : below + within.shape[0], beside : beside + within.shape[1]] = within
    return page


def marked(ink: NDArray[Any]) -> Mask:
    """Where there is a line: certain ink, and the fainter ink that touches it."""
    from scipy import ndimage

    labels = np.empty(ink.shape, np.int32)
    ndimage.label(ink > 0.3, structure=np.ones((3, 3)), output=labels)
    certain = np.unique(labels[ink > 0.5])
    return np.isin(labels, certain[certain > 0])


def connected_parts(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Connected parts of a mask (H, W): their numbers, from 1, in its cells, and the boxes (N, 2 corners, x and y)."""
    from scipy import ndimage

    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, structure=np.ones((3, 3)), output=labels)
    found = [[(one.start, one.stop) for one in (across, down)] for down, across in ndimage.find_objects(labels)]
    return labels, np.array(found, np.float64).reshape(-1, 2, 2).transpose(0, 2, 1)


def box_around(ink: Float) -> NDArray[np.float64] | None:
    """Two corners (x, y) of the box around what is drawn, in cells, without what is taken for dirt; None of nothing."""
    _, boxes = connected_parts(marked(ink))
    if not len(boxes):
        return None
    sides, page = boxes[:, 1] - boxes[:, 0], np.array(ink.shape[::-1])
    along_edge = ((sides <= _EDGE * page) & ((boxes[:, 0] <= 0) | (boxes[:, 1] >= page))).any(axis=1)
    speck = sides.max(axis=1) < _SPECK * page.max()
    sure = ~(speck | along_edge)

    def around(which: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.stack([boxes[which, 0].min(axis=0), boxes[which, 1].max(axis=0)])

    if not sure.any():
        return around(~sure)
    low, high = around(sure)
    reach = (high - low).max() / 2
    near = ((boxes[:, 1] >= low - reach) & (boxes[:, 0] <= high + reach)).all(axis=1)
    return around(sure | (speck & near))
