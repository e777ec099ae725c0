"""The ink of a drawing in a photo, a scan or another picture."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sketchguide.defaults import Polarity
from sketchguide.errors import warn
from sketchguide.images import Paper, channel_extremes, to_grey
from sketchguide.lines import Mask, distance_to, rim
from sketchguide.rasters import connected_parts, reduced
from sketchguide.strokes import Float

_MAX_SIDE = 1024  # of the ink that is found
_RULED = 0.06  # darkness of the faintest line that rules a page
_SLANT = 0.09  # rows per column, 5 degrees, by which its lines may be turned
_SHADED = 0.85  # of a picture: what is dark in more of it is no shadow,
_ALL_AROUND = 0.95  # of its border: nor what is dark along more of that
_GRAINY = 12  # times the paper's grain: fainter lines need it smoothed
_SMOOTH = 2.0  # cells, standard deviation by which it is
_SPECKS = 12  # that are left in a grainy picture: more are hardly meant
_COLOURED = 0.06  # of the longer side: what is wider is no line where colours are
PAPER_OF: Mapping[Polarity, Paper] = MappingProxyType({"dark-on-light": "white", "light-on-dark": "black"})


def ink_in(picture: Image.Image, *, polarity: Polarity) -> Float:
    """The ink (H, W) of an RGB picture of lines, the longer side at most 1024: `Sketch.from_image` says what it is."""
    low, high = channel_extremes(picture)
    found = polarity == "auto"
    dark = not _light_on_dark(0.5 * low + 0.5 * high) if found else polarity == "dark-on-light"
    ink, unclear = _ink(1 - low if dark else high)
    if not ink.any():  # paper of a strong colour is as dark in one channel as ink, or as light
        grey = to_grey(picture)
        dark = not _light_on_dark(grey) if found else dark
        ink, unclear = _ink(1 - grey if dark else grey)
        if found and not ink.any():  # where light falls off, dark paper can look like ink
            dark = not dark
            ink, unclear = _ink(1 - grey if dark else grey)
    ink = _lines_on_colours(picture, ink, dark=dark)
    if unclear:
        warn(
            "The lines in the picture can hardly be told from its grain: some may be missing, and specks be read "
            "as lines. Photograph the sheet again in more light, scan it, or draw the lines over with a darker pen."
        )
    elif _on_a_table(ink, dark=dark):
        warn(
            "An area along the edge of the picture, or most of it, is read as a shape of the drawing. If the sheet "
            "lies on a table, crop the picture to the sheet; a photo that is dark, take again in more light."
        )
    return ink


def looks_drawn(image: Image.Image) -> bool:
    """Whether a picture is a drawing: colourless, almost all of it paper of one tone, with some ink on it."""
    low, high = channel_extremes(image)
    grey = (low + high) / 2
    away = np.abs(grey - np.median(grey))
    colour, paper, ink = (float(np.mean(where)) for where in (high - low > 0.2, away < 0.1, away > 0.25))
    return colour < 0.01 and paper > 0.6 and 0.001 < ink < 0.35


def _light_on_dark(lightness: NDArray[Any]) -> bool:
    """Whether what is dark is paper. Where a shadow that falls in from the edge would be enough for that, what is dark
    beside the lightest around it decides.
    """
    border, area = _dark(lightness)
    if not _is_paper(border, area) or border > _ALL_AROUND or area > _SHADED:
        return _is_paper(border, area)
    from scipy import ndimage

    height, width = lightness.shape
    grid = [max(1, round(side * min(1.0, 256 / max(height, width)))) for side in (width, height)]
    coarse = Image.fromarray(lightness.astype(np.float32)).resize((grid[0], grid[1]), Image.Resampling.BOX)
    paper = np.asarray(ndimage.grey_closing(np.asarray(coarse), size=max(9, max(grid) // 6)))
    paper = np.maximum(paper, 0.5 * paper.max())  # a board is darker than that beside chalk
    there = Image.fromarray(paper).resize((width, height), Image.Resampling.BILINEAR)
    return _is_paper(*_dark((lightness / np.asarray(there)).clip(0, 1)))


def _is_paper(border: float, area: float) -> bool:
    """Border and area vote: paper reaches the border, and there is more of it than ink. A dark border is a frame."""
    return area > 0.4 and 0.4 * border + 0.6 * area > 0.5


def _dark(lightness: NDArray[Any]) -> tuple[float, float]:
    """The dark share of the border and of all. A few pixels that are brighter or darker than both have no say."""
    low, high = np.quantile(lightness, (0.0005, 0.9995))
    if high - low < 0.1:
        low, high = lightness.min(), lightness.max()
    dark = lightness < (low + high) / 2
    edge = max(1, min(dark.shape) // 50)
    inner = dark[edge:-edge, edge:-edge]
    return float((dark.sum() - inner.sum()) / (dark.size - inner.size)), float(dark.mean())


def _ink(marks: NDArray[Any]) -> tuple[Float, bool]:
    """(H, W) darkness of a drawing on light paper -> ink in [0, 1]: paper is 0, however lit, and a full line is 1; and
    whether that is uncertain, since the paper is as grainy as the lines are dark.
    """
    given = reduced(marks, max(marks.shape) / _MAX_SIDE)
    marks = _evened(given)
    full = _full_line(marks, least=0.06)
    if full <= 0.08:
        return np.zeros_like(marks), False
    if full >= _GRAINY * _grain(given):
        return (marks / full).clip(0, 1), False
    return _ink_on_grain(given)


def _ink_on_grain(marks: NDArray[Any]) -> tuple[Float, bool]:
    """What `_ink` gives, of marks whose paper is so grainy that it has to be smoothed."""
    from scipy import ndimage

    width = min(_SMOOTH, 0.004 * max(marks.shape))
    smooth = ndimage.gaussian_filter(marks, width)
    grain = _grain(smooth)
    marks = _evened(smooth)
    marks = (marks - np.median(marks)).clip(0)
    full = _full_line(marks, least=5 * grain)
    if full < 7 * grain:
        return np.zeros_like(marks), True
    ink = (marks / full).clip(0, 1)
    labels, boxes = connected_parts(ink > 0.3)
    small = np.ptp(boxes, axis=1).max(axis=1) < 8 * width
    peak = np.asarray(ndimage.maximum(ink, labels, np.arange(1, len(boxes) + 1)))
    sure = peak > np.where(small, 0.75, 0.5)
    ink[distance_to(np.isin(labels, 1 + np.flatnonzero(sure))) > 2 * width] = 0
    return ink, bool((small & sure).sum() > _SPECKS)


def _evened(marks: NDArray[Any]) -> Float:
    """Marks (H, W) less the paper, however lit, its shadows and its ruling."""
    marks = np.maximum(marks - _paper(marks), 0).astype(np.float32)
    shadow = _shadow(marks)
    return _unruled((np.maximum(marks - shadow, 0) / (1 - shadow)).astype(np.float32))


def _full_line(marks: Float, *, least: float) -> float:
    """How dark lines are that cover what they cross, by the marks (H, W) of at `least` that darkness; 0 of none."""
    certain = marks[marks > least]
    return float(np.percentile(certain, 90)) if certain.size else 0.0


def _grain(marks: NDArray[Any]) -> float:
    """Standard deviation of the noise in marks (H, W), by how corners of small squares differ where no line is."""
    apart = 8  # cells: no longer alike when smoothed
    corners = marks[apart:, apart:] - marks[apart:, :-apart] - marks[:-apart, apart:] + marks[:-apart, :-apart]
    return float(np.quantile(np.abs(corners), 0.25)) / (2 * 0.3186)  # 0.3186: that quantile of the normal one


def _on_a_table(ink: Float, *, dark: bool) -> bool:
    """Whether a fifth of the picture's edge is inked more broadly than a frame would be, as a table is, or half of its
    area by something light, as a sheet that is taken for ink.
    """
    from scipy import ndimage

    small = reduced(ink, max(ink.shape) / 256) > 0.3
    broad = max(3, round(0.025 * max(small.shape)))
    broadly: Mask = np.asarray(ndimage.binary_opening(small, np.ones((broad, broad))), bool)
    return bool(rim(broadly).mean() > 0.2 or (not dark and broadly.mean() > 0.5))


def _paper(marks: NDArray[Any]) -> Float:
    """How dark the paper itself is at each pixel: a quadratic surface through the paler part of 12 × 12 tiles."""
    tiles = 12
    rows, columns = (np.linspace(0, side - 1, tiles * 12).astype(int) for side in marks.shape)
    sampled = marks[np.ix_(rows, columns)].reshape(tiles, 12, tiles, 12).transpose(0, 2, 1, 3)
    level = np.percentile(sampled.reshape(tiles * tiles, -1), 25, axis=1)

    def basis(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        y, x = y[:, None], x[None, :]
        return np.stack(np.broadcast_arrays(np.ones_like(x), x, y + 0 * x, x * x, x * y, y * y + 0 * x), axis=-1)

    terms = basis(*(np.linspace(-1, 1, tiles * 12).reshape(tiles, 12).mean(axis=1),) * 2).reshape(-1, 6)
    keep = level < level.min() + 0.5  # no light is so uneven: the rest is ink, if it covers half of the picture
    surface = np.zeros(6)
    for _ in range(6):  # tiles darker than the surface are ink, not paper
        surface = np.linalg.lstsq(terms[keep], level[keep], rcond=None)[0]
        fewer = level < terms @ surface + 0.06
        if fewer.sum() < 12 or (fewer == keep).all():
            break
        keep = fewer
    return (basis(*(np.linspace(-1, 1, side) for side in marks.shape)) @ surface).astype(np.float32)


def _shadow(marks: Float) -> Float:
    """How dark a shadow makes the paper (H, W): it falls in from the edge, is wider than any pen, and never black."""
    from scipy import ndimage

    wide = np.asarray(ndimage.grey_opening(marks, size=max(9, max(marks.shape) // 8)))
    places = np.empty(wide.shape, np.int32)
    ndimage.label(wide > 0.04, output=places)
    falling = np.unique(np.concatenate([places[0], places[-1], places[:, 0], places[:, -1]]))
    shadow = np.zeros_like(marks)
    for place in falling[falling > 0]:
        there = places == place
        if np.median(wide[there]) < 0.5:
            shadow[there] = wide[there]
    return shadow


def _unruled(marks: Float) -> Float:
    """Marks (H, W) without the lines of ruled or squared paper: four or more that go through the whole picture, upright
    or nearly so, and are fainter than the pen.
    """
    from scipy import ndimage

    faint = 0.6 * float(np.quantile(marks, 0.998))
    for flip in (False, True):
        page = marks.T if flip else marks
        falls = _falls(np.minimum(page, faint))  # no line that was drawn outweighs them
        ruling = np.median(_sheared(page, falls), axis=1)
        labels = np.empty(len(ruling), np.int32)
        ndimage.label(ruling > _RULED, output=labels)
        lines = np.array([label for label in range(1, labels.max() + 1) if ruling[labels == label].max() < faint])
        if len(lines) < 4:
            continue
        ruling = np.where(np.isin(labels, lines), ruling, 0)  # what is as dark as the pen was drawn along a ruler
        if falls.any():
            ruling = ndimage.maximum_filter1d(ruling, 3)
        ruled = _sheared(np.broadcast_to(ruling.astype(np.float32)[:, None], page.shape), -falls)
        page = np.where(page < 1.6 * ruled, 0, page)
        marks = page.T if flip else page
    return marks


def _falls(page: Float) -> NDArray[np.int_]:
    """How many rows down the ruling of a page (H, W) lies at each column: that slope at which most of it shows."""
    coarse = reduced(page, max(page.shape) / 256)
    best = 0.0
    for marks, reach in ((coarse, _SLANT), (page, 1.5 / 256)):
        width = marks.shape[1]
        count = 2 * round(reach * width) + 1
        slopes = [best + change for change in sorted(np.linspace(-reach, reach, count), key=abs)]  # of equals the least
        shown = [np.square(np.median(_sheared(marks, _down(slope, width)), axis=1)).sum() for slope in slopes]
        best = float(slopes[int(np.argmax(shown))])
    return _down(best, page.shape[1])


def _down(slope: float, width: int) -> NDArray[np.int_]:
    return np.rint(slope * (np.arange(width) - (width - 1) / 2)).astype(int)


def _sheared(page: Float, falls: NDArray[np.int_]) -> Float:
    """The page with each column moved up by its share of `falls`; at the rims it repeats its own."""
    rows = (np.arange(len(page))[:, None] + falls).clip(0, len(page) - 1)
    return np.take_along_axis(page, rows, axis=0)


def _lines_on_colours(image: Image.Image, ink: Float, *, dark: bool) -> Float:
    """The ink (H, W) of a line drawing that was coloured in: its lines alone, and the edges of colours without a line.

    Lines are what is darker in any channel than its wide surroundings (a white top-hat, Meyer 1979), lighter on dark
    paper. Where no such lines cross the wide areas of ink, as in a silhouette, the ink stays as it is.
    """
    from scipy import ndimage

    wide = max(9, round(_COLOURED * max(ink.shape)))
    fill = np.asarray(ndimage.grey_opening(ink, size=wide)) > 0.15
    if fill.mean() < 0.01:
        return ink
    channels = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
    hats: list[Float] = []
    contrasts: list[Float] = []
    for marks in 1 - channels if dark else channels:
        marks = reduced(marks, max(marks.shape) / _MAX_SIDE)
        surroundings = ndimage.grey_opening(marks, size=wide)
        hats.append((marks - surroundings).astype(np.float32))
        contrasts.append((marks - ndimage.maximum_filter(surroundings, size=wide)).astype(np.float32))
    hat, contrast = np.maximum.reduce(hats), np.maximum.reduce(contrasts)
    within = distance_to(~fill)
    inner = within > 0.25 * wide  # where it is no edge of the colour
    hat = (hat - 2 * np.median(hat[inner])).clip(0)  # without the grain of the colours
    drawn = hat > 0.2
    depth = distance_to(~drawn)
    crossing = drawn & inner & (distance_to(depth > 0.3 * wide) > 0.6 * wide)  # lines, not the corners of colours
    if not 0.01 * inner.sum() < crossing.sum() < 0.5 * inner.sum():
        return ink
    pen = float(np.quantile(depth[crossing], 0.9))
    drawn &= inner | (contrast >= 0.1)  # less the tips and corners of an area, which are no darker than it is
    edges = fill & (within <= 1.5) & (distance_to(drawn) > max(4.0, 4 * pen))
    return (drawn | edges).astype(np.float32)
