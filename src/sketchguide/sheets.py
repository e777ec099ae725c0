"""The sheet of paper in a photo of it that shows the table as well."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sketchguide.errors import warn
from sketchguide.images import to_grey
from sketchguide.lines import Mask, distance_to, rim

_SIDE = 256  # at which a sheet is looked for
_LEAST = 0.2  # of the picture: a smaller light thing is no sheet
_MOST = 0.92
_CONTRAST = 0.15  # of lightness, between sheet and table
_RIM = 3  # cells inside the sheet's edge that are its shadow
_FLAT = 0.5  # of what lies around a drawn card or screen, in one colour exactly; of a photo, next to nothing


def cut_out(picture: Image.Image) -> Image.Image | None:
    """The RGB picture cut to the box around its sheet, with paper where the table shows in the corners.

    None where there is no sheet: something light with dark marks, nearly a rectangle, on something darker that reaches
    the picture's edge and is not of one colour, as nothing in a photo is. Warns where it is no rectangle alone.
    """
    from scipy import ndimage

    shrink = max(picture.size) / _SIDE
    if shrink < 0.5:
        return None
    grid = (max(1, round(picture.width / shrink)), max(1, round(picture.height / shrink)))
    small = picture.resize(grid, Image.Resampling.BOX)
    grey = to_grey(small)
    light = grey > _split(grey)
    sheet = _largest(light)
    if not _LEAST <= sheet.mean() <= _MOST or rim(sheet).mean() > 0.8:
        return None
    inside, around = _shrunk(sheet, _RIM), _shrunk(~sheet, 2)
    blank = inside & _shrunk(light, 1)
    if not (blank.any() and around.any()) or grey[light].mean() - grey[~light].mean() < _CONTRAST:
        return None
    if light[around].mean() > 0.05 or not 0.002 < 1 - light[inside].mean() < 0.4:
        return None
    if _flatness(np.asarray(picture.resize(grid, Image.Resampling.NEAREST))[around]) > _FLAT:
        return None
    step = _step(grey, sheet)
    if not _fills_its_box(sheet):
        if step > _CONTRAST:
            warn(
                "The picture shows something light on something darker that is no whole sheet of paper, so that "
                "nothing is cut off. If a hand or something else covers a part of the sheet, crop the picture to the "
                "paper."
            )
        return None
    if step < _CONTRAST / 2:  # light that falls off
        return None
    nearest = np.empty((2, *blank.shape), np.int32)
    ndimage.distance_transform_edt(~blank, return_distances=False, return_indices=True, indices=nearest)
    paper = np.asarray(ndimage.gaussian_filter(np.asarray(small)[tuple(nearest)], (4, 4, 0)))
    kept = Image.fromarray(inside).resize(picture.size)
    whole = Image.composite(picture, Image.fromarray(paper).resize(picture.size), kept)
    box = Image.fromarray(sheet).resize(picture.size).getbbox()
    return whole.crop(box)


def _step(grey: NDArray[Any], sheet: Mask) -> float:
    """How much lighter it is within the edge of the sheet than beyond it."""
    within, beyond = sheet & ~_shrunk(sheet, 4), ~sheet & ~_shrunk(~sheet, 4)
    return float(np.median(grey[within]) - np.median(grey[beyond]))


def _flatness(colours: NDArray[np.uint8]) -> float:
    """The share of the commonest of colours (N, 3)."""
    _, counts = np.unique(colours, axis=0, return_counts=True)
    return float(counts.max() / len(colours))


def _split(grey: NDArray[Any]) -> float:
    """The lightness that parts light from dark with the greatest variance between the two (Otsu 1979)."""
    counts, edges = np.histogram(grey, bins=128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.argmax(np.nan_to_num(between))])


def _largest(light: Mask) -> Mask:
    """The largest connected light thing with what is drawn on it, also where a line runs off its edge."""
    from scipy import ndimage

    labels = np.empty(light.shape, np.int32)
    ndimage.label(ndimage.binary_opening(light, np.ones((3, 3))), output=labels)
    sizes = np.bincount(labels.ravel())[1:]
    if not sizes.size:
        return light
    one = np.pad(labels == 1 + np.argmax(sizes), 8)
    closed = np.asarray(ndimage.binary_closing(one, np.ones((9, 9))))[8:-8, 8:-8]
    return np.asarray(ndimage.binary_fill_holes(closed))


def _shrunk(mask: Mask, cells: int) -> Mask:
    """`mask` (H, W) less what is so near to its end; the grid's own edge ends nothing."""
    return distance_to(~np.pad(mask, 1, mode="edge"))[1:-1, 1:-1] > cells


def _fills_its_box(sheet: Mask) -> bool:
    """Whether it is convex, and nearly as large as the smallest rectangle around it, however that is turned."""
    from scipy.spatial import ConvexHull

    rows, columns = np.nonzero(sheet)
    corners = np.concatenate([np.stack([columns + dx, rows + dy], axis=1) for dx in (0, 1) for dy in (0, 1)])
    hull: Any = ConvexHull(corners)
    outline = corners[hull.vertices].astype(np.float64)
    sides = np.roll(outline, -1, axis=0) - outline
    along = sides / np.hypot(*sides.T)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    smallest = float((np.ptp(outline @ along.T, axis=0) * np.ptp(outline @ across.T, axis=0)).min())
    return bool(len(rows) > 0.95 * hull.volume and len(rows) > 0.8 * smallest)
