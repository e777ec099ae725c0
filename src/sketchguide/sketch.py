"""Drawings, and the spatial map that a drawing becomes.

A `Sketch` holds strokes (from SVG, Quick, Draw! or code) or a raster of ink (from a picture). `Sketch.rasterize` turns
either into a `SpatialMap`: thin lines of one thickness on blank paper, as an edge detector would give them. Coordinates
are (x, y), x to the right and y downwards; ink is 1 and paper is 0.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn
from xml.parsers import expat

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from sketchguide.errors import SketchError
from sketchguide.images import MAX_SIDE, MIN_SIDE, channel_extremes, from_grey, open_image, read_file, to_grey

LINE_WIDTH = 1.5 / 64
"""The thickness of a line, as a fraction of the picture's longer side."""

MAX_POINTS = 200_000
MAX_ASPECT = 32.0
MARGIN = 0.08

_MAX_SVG_BYTES = 10_000_000
_MAX_LINE_BYTES = 4_000_000
_MAX_COORDINATE = 1e6
_MAX_MAP_SIDE = 4096
_MAX_RASTER_SIDE = 1024

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]
Polarity = Literal["auto", "dark-on-light", "light-on-dark"]


def _refuse(message: str, *, hint: str = "") -> NoReturn:
    raise SketchError(message, hint=hint, field="sketch")


def _frozen(values: NDArray[Any]) -> Float:
    array = np.array(values, dtype=np.float32)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Stroke:
    """One line of the pen.

    Attributes:
        points: (N, 2) float32, x and y in canvas units: (0, 0) is the top left corner, (1, 1) the bottom right one.
            Points outside are allowed; what lies off the canvas is not drawn. A single point is a dot.
        width: thickness as a fraction of the canvas's longer side, at most 0.25; None is the default line.
        weight: how strongly the stroke binds, ≥ 0; 1 is normal.
        closed: the last point is joined to the first.
    """

    points: Float
    width: float | None = None
    weight: float = 1.0
    closed: bool = False

    def __post_init__(self) -> None:
        try:
            points = np.asarray(self.points)
            points = points.astype(np.float64) if points.dtype.kind in "iuf" else None
        except (ValueError, OverflowError):
            points = None
        if points is None or points.ndim != 2 or points.shape[1] != 2 or not len(points):
            _refuse("A stroke needs a list of points (x, y), at least one, all of them numbers.")
        if len(points) > MAX_POINTS:
            _refuse(f"A stroke has {len(points)} points; at most {MAX_POINTS} are allowed.")
        if not np.isfinite(points).all() or np.abs(points).max() > _MAX_COORDINATE:
            _refuse("A stroke has a coordinate that is not finite or lies absurdly far off the canvas.")
        if self.width is not None and not (_is_number(self.width) and 0 < self.width <= 0.25):
            _refuse(f"A stroke's width is {self.width}; it must be above 0 and at most 0.25 of the canvas.")
        if not (_is_number(self.weight) and 0 <= self.weight <= 1000):
            _refuse(f"A stroke's weight is {self.weight}; it must be 0 to 1000, and 1 is normal.")
        object.__setattr__(self, "points", _frozen(points))


@dataclass(frozen=True, eq=False)
class SpatialMap:
    """What should be where: the target of spatial guidance.

    Attributes:
        ink: (H, W) float32 in [0, 1]; a line is 1.
        weight: (H, W) float32 ≥ 0: how strongly each pixel binds; 1 is normal.
        kind: what the map shows, as predictors name it ("edges").
    """

    ink: Float
    weight: Float
    kind: str = "edges"

    def __post_init__(self) -> None:
        for name, top in (("ink", 1.0), ("weight", math.inf)):
            values = np.asarray(getattr(self, name))
            if values.ndim != 2 or not values.size or not np.isfinite(values).all():
                _refuse(f"A map's {name} must be finite numbers of shape (H, W).")
            if values.min() < 0 or values.max() > top:
                _refuse(f"A map's {name} lies in {values.min():g}..{values.max():g}; allowed is 0 to {top:g}.")
            object.__setattr__(self, name, _frozen(values))
        if self.ink.shape != self.weight.shape:
            _refuse(f"A map's ink {self.ink.shape} and weight {self.weight.shape} must have one shape.")

    @property
    def blank(self) -> bool:
        """There is no ink; guidance towards it would ask for an empty picture."""
        return float(self.ink.max()) < 0.05


@dataclass(frozen=True, eq=False)
class Sketch:
    """A drawing: strokes, a raster of ink, or both, on a canvas of a given aspect.

    Attributes:
        strokes: the lines, in drawing order.
        raster: (H, W) float32 ink in [0, 1], each side 16 to 8192, or None; stretched over the canvas and kept in 256
            levels (so that `to_json` loses nothing).
        aspect: width / height of the canvas, 1/32 to 32.
        name: what the drawing is called, for messages and labels.
    """

    strokes: tuple[Stroke, ...] = ()
    raster: Float | None = None
    aspect: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if not (_is_number(self.aspect) and 1 / MAX_ASPECT <= self.aspect <= MAX_ASPECT):
            _refuse(
                f"The canvas is {self.aspect} times as wide as high; allowed is 1/{MAX_ASPECT:g} to {MAX_ASPECT:g}."
            )
        object.__setattr__(self, "strokes", tuple(self.strokes))
        points = sum(len(stroke.points) for stroke in self.strokes)
        if points > MAX_POINTS:
            _refuse(f"The drawing has {points} points; at most {MAX_POINTS} are allowed.", hint="Simplify it first.")
        if self.raster is not None:
            raster = np.asarray(self.raster)
            if raster.ndim != 2 or not all(MIN_SIDE <= side <= MAX_SIDE for side in raster.shape):
                _refuse(
                    f"A raster of shape {raster.shape} was given; it must be (H, W), {MIN_SIDE} to {MAX_SIDE} each."
                )
            if not np.isfinite(raster).all() or raster.min() < 0 or raster.max() > 1:
                _refuse("A raster's ink must lie in 0 to 1.")
            object.__setattr__(self, "raster", _frozen(to_grey(from_grey(raster))))

    @classmethod
    def open(cls, path: str | Path, *, polarity: Polarity = "auto") -> Sketch:
        """A drawing from a file, by its content: a picture, SVG, Quick, Draw! ndjson or `to_json` output.

        All but pictures may be gzipped. Of an ndjson file with several drawings the first is taken, with a warning;
        `read_ndjson` gives all.

        Raises:
            SketchError: the file is missing, damaged, too large, or none of these.
        """
        data = read_file(path, field="sketch")
        name = Path(path).stem
        packed = data.startswith(_GZIP)
        if packed:
            data, name = _unpacked(data, name=str(path)), Path(name).stem
        start = data[:256].lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")[:1]
        if start == b"<":
            return cls.from_svg(data, name=name)
        if start != b"{":
            if packed:
                _refuse(f"{path} holds neither SVG nor ndjson; pictures are read as they are, not gzipped.")
            return replace(cls.from_image(open_image(path, field="sketch"), polarity=polarity), name=name)
        first, _, rest = data.strip().partition(b"\n")
        record = _loads(first)
        if record is None:
            record, rest = _loads(data), b""
        if record is None:
            _refuse(f"{path} is neither Quick, Draw! ndjson nor a saved sketch: its text is not valid JSON.")
        if "drawing" not in record:
            return cls.from_json(record)
        if rest.strip():
            warnings.warn(f"{path} holds several drawings; the first one is used.", stacklevel=2)
        return cls.from_quickdraw(record)

    @classmethod
    def from_strokes(
        cls,
        strokes: Sequence[ArrayLike],
        *,
        aspect: float = 1.0,
        weights: Sequence[float] | None = None,
        name: str = "",
    ) -> Sketch:
        """A drawing from arrays (N, 2) of x and y in canvas units (0 to 1 in both axes), one weight each if given."""
        if weights is not None and len(weights) != len(strokes):
            _refuse(f"{len(weights)} weights were given for {len(strokes)} strokes.")
        lines = (
            Stroke(points=points, weight=1.0 if weights is None else weights[index])  # pyright: ignore[reportArgumentType]
            for index, points in enumerate(strokes)
        )
        return cls(strokes=tuple(lines), aspect=aspect, name=name)

    @classmethod
    def from_svg(cls, source: str | bytes, *, name: str = "") -> Sketch:
        """A drawing from SVG text: the outlines of path, line, polyline, polygon, rect, circle and ellipse.

        Groups, nested `svg`, transforms, units, style attributes and simple style sheets are read; colours are not:
        every visible line is ink, a shape without a line gives its outline, and a filled shape that covers the canvas
        is paper. The line width met most is the default line, others keep their ratio to it. `data-weight="0.5"` on an
        element or group is the weight of its strokes. The canvas is the viewBox, else width and height, else what is
        drawn.

        Raises:
            SketchError: not well-formed, larger than 10 MB, over 200,000 points or 64 levels; a DOCTYPE, script, event
                handler or link to another file; `use`, `image` or `foreignObject`; a size that is zero, huge or not a
                number.
        """
        return _SvgReader().read(source, name=name)

    @classmethod
    def from_quickdraw(cls, record: Mapping[str, Any]) -> Sketch:
        """A drawing of the Quick, Draw! dataset: `drawing` is a list of strokes `[[x…], [y…]]`.

        A third list (time) is ignored. The drawing is centred on a square canvas with a margin of 8 %; `word` becomes
        the name.

        Raises:
            SketchError: no drawing, lists of different lengths, or values that are not numbers.
        """
        drawing = record.get("drawing")
        if not isinstance(drawing, list | tuple) or not drawing:
            _refuse("A Quick, Draw! record needs `drawing`, a list of strokes [[x…], [y…]].")
        strokes: list[NDArray[np.float64]] = []
        for stroke in drawing:
            try:
                x, y = (np.asarray(axis) for axis in stroke[:2])
                good = x.dtype.kind in "iuf" and y.dtype.kind in "iuf" and x.ndim == 1 and len(x) > 0
                points = np.stack([x, y], axis=1).astype(np.float64) if good else None
            except (ValueError, TypeError, OverflowError, KeyError):
                points = None
            if points is None or not np.isfinite(points).all() or np.abs(points).max() > _MAX_COORDINATE:
                _refuse("A Quick, Draw! stroke must be two lists of finite numbers of one length, [[x…], [y…]].")
            strokes.append(points)
        word = record.get("word", "")
        fitted, _ = _fitted(strokes, square=True)
        return cls.from_strokes(fitted, name=word if isinstance(word, str) else "")

    @classmethod
    def from_image(cls, image: Image.Image, *, polarity: Polarity = "auto") -> Sketch:
        """A drawing from a picture of lines: scanned, photographed, or drawn white on black.

        Uneven light is evened out and faint lines are strengthened; the longer side is reduced to 1024 without losing
        thin lines. A picture without contrast is a blank sketch.

        Args:
            polarity: which is ink. "auto" decides by the border and by which of the two covers less.

        Raises:
            SketchError: an unknown polarity, or a canvas longer than 32 times its width.
        """
        if polarity not in ("auto", "dark-on-light", "light-on-dark"):
            _refuse(f"Polarity {polarity!r} is unknown; allowed are auto, dark-on-light and light-on-dark.")
        aspect = image.width / image.height
        low, high = channel_extremes(image)
        if polarity == "auto":
            polarity = "light-on-dark" if _light_on_dark(0.5 * low + 0.5 * high) else "dark-on-light"
        return cls(raster=_ink(1 - low if polarity == "dark-on-light" else high), aspect=aspect)

    def to_json(self) -> dict[str, Any]:
        """The drawing as plain JSON values; `from_json` gives back exactly the same."""
        raster = None
        if self.raster is not None:
            buffer = io.BytesIO()
            from_grey(self.raster).save(buffer, format="PNG")
            raster = base64.b64encode(buffer.getvalue()).decode("ascii")
        strokes = [
            {
                # the shortest decimal that names the same float32 keeps files small
                "points": stroke.points.astype(str).astype(np.float64).tolist(),
                "width": stroke.width,
                "weight": stroke.weight,
                "closed": stroke.closed,
            }
            for stroke in self.strokes
        ]
        return {"name": self.name, "aspect": self.aspect, "strokes": strokes, "raster": raster}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Sketch:
        """The drawing that `to_json` wrote.

        Raises:
            SketchError: a field is missing or has a value that a sketch cannot have.
        """
        try:
            raster = record["raster"]
            if raster is not None:
                raster = to_grey(open_image(base64.b64decode(raster, validate=True), field="sketch"))
            return cls(
                strokes=tuple(
                    Stroke(
                        points=stroke["points"],
                        width=stroke["width"],
                        weight=stroke["weight"],
                        closed=bool(stroke["closed"]),
                    )
                    for stroke in record["strokes"]
                ),
                raster=raster,
                aspect=record["aspect"],
                name=str(record["name"]),
            )
        except SketchError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _refuse(f"This is not a saved sketch: {type(error).__name__} {error}.", hint="Use what to_json wrote.")

    def rasterize(self, *, size: tuple[int, int], line_width: float = LINE_WIDTH) -> SpatialMap:
        """The drawing as a map of thin, even, antialiased lines with round ends.

        The canvas is centred in the map and fills it as far as its aspect allows; the rest is blank paper. A raster is
        first reduced to the centre lines of its strokes (solid areas to their outlines), so the thickness that it was
        drawn with does not matter. Around strokes with a weight of their own the map's weight goes over to 1 within
        three line widths.

        Args:
            size: (width, height) in pixels, each 8 to 4096.
            line_width: of strokes without a width of their own, as a fraction of the map's longer side; at least one
                pixel is drawn.

        Raises:
            SketchError: size or line_width out of range.
        """
        width, height = size
        if not all(8 <= side <= _MAX_MAP_SIDE and side == int(side) for side in (width, height)):
            _refuse(f"A map of {width} × {height} was asked for; each side must be 8 to {_MAX_MAP_SIDE} pixels.")
        if not (_is_number(line_width) and 0 < line_width <= 0.25):
            _refuse(f"The line width is {line_width}; it must be above 0 and at most 0.25 of the picture.")
        fine = max(1, min(4, 1024 // max(width, height)))  # grid cells per pixel
        grid = (height * fine, width * fine)
        canvas_width = max(1, round(min(grid[1], grid[0] * self.aspect)))
        canvas_height = max(1, round(min(grid[0], grid[1] / self.aspect)))
        canvas = (canvas_height, canvas_width)
        pen = max(fine, line_width * max(grid))

        pens: dict[float, list[Stroke]] = {}
        for stroke in self.strokes:
            own = pen if stroke.width is None else max(fine, stroke.width * max(canvas))
            pens.setdefault(pen * _step(own / pen), []).append(stroke)
        lines = {own: _drawn(strokes, canvas=canvas) >= 0 for own, strokes in pens.items()}
        if self.raster is not None:
            lines[pen] = lines.get(pen, np.zeros(canvas, np.bool_)) | _centre_lines(self.raster, canvas=canvas)

        ink = np.zeros(grid, dtype=np.float32)
        for own, mask in lines.items():
            np.maximum(ink, _inked(_placed(mask, grid, blank=False), width=own), out=ink)
        if any(stroke.weight != 1 for stroke in self.strokes):
            weights = _drawn(sorted(self.strokes, key=lambda stroke: stroke.weight), canvas=canvas)
            weight = _spread(_placed(weights, grid, blank=-1.0), reach=pen)
        else:
            weight = np.ones(grid, dtype=np.float32)
        return SpatialMap(ink=_pooled(ink, fine), weight=_pooled(weight, fine))


def read_ndjson(path: str | Path, *, recognized_only: bool = False) -> Iterator[Sketch]:
    """The drawings of a Quick, Draw! file (.ndjson, or the same gzipped), one by one; empty lines are passed over.

    Args:
        recognized_only: only those that the game recognised.

    Raises:
        SketchError: the file cannot be read, or a line is damaged (the message names it).
    """
    name, number = str(path), 0
    try:
        with Path(path).open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            lines = gzip.GzipFile(fileobj=raw) if packed else raw
            while line := lines.readline(_MAX_LINE_BYTES):
                number += 1
                if not line.strip():
                    continue
                record = _loads(line)
                if record is None:
                    _refuse(f"{name}, line {number} is not a JSON object.")
                if recognized_only and record.get("recognized") is not True:
                    continue
                try:
                    sketch = Sketch.from_quickdraw(record)
                except SketchError as error:
                    raise SketchError(f"{name}, line {number}: {error.message}", field="sketch") from error
                yield sketch
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SketchError(f"{name} cannot be read after line {number}: {reason}.", field="sketch") from error


_GZIP = b"\x1f\x8b"


def _unpacked(data: bytes, *, name: str) -> bytes:
    """The first 16 MB that gzipped data holds: enough for any SVG and for the first drawing of a long file."""
    try:
        return zlib.decompressobj(wbits=31).decompress(data, 4 * _MAX_LINE_BYTES)
    except zlib.error as error:
        _refuse(f"{name} cannot be unpacked: {error}.")


def _loads(data: bytes) -> dict[str, Any] | None:
    """A JSON object, or None where the bytes are anything else."""
    if len(data) > 4 * _MAX_LINE_BYTES:
        return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _fitted(strokes: Sequence[NDArray[np.float64]], *, square: bool) -> tuple[list[NDArray[np.float64]], float]:
    """Strokes in any units, centred on a canvas of 0..1 with a margin round what is drawn; and the canvas's aspect."""
    everything = np.concatenate(strokes)
    low, extent = everything.min(axis=0), np.ptp(everything, axis=0)
    side = float(extent.max()) or 1.0
    room = np.full(2, side) if square else np.maximum(extent, side / MAX_ASPECT * 1.5)
    canvas = room + 2 * MARGIN / (1 - 2 * MARGIN) * side
    return [(points - low - extent / 2) / canvas + 0.5 for points in strokes], float(canvas[0] / canvas[1])


# ---- from a picture to ink


def _light_on_dark(lightness: NDArray[Any]) -> bool:
    """Border and area vote: paper reaches the border, and there is more paper than ink."""
    low, high = float(lightness.min()), float(lightness.max())
    dark = lightness < (low + high) / 2
    edge = max(1, min(dark.shape) // 50)
    inner = dark[edge:-edge, edge:-edge]
    border = (dark.sum() - inner.sum()) / (dark.size - inner.size)
    return bool(0.4 * border + 0.6 * dark.mean() > 0.5)


def _ink(marks: NDArray[Any]) -> Float:
    """(H, W) darkness of a drawing on light paper -> ink in [0, 1]: paper is 0, however lit, and a full line is 1."""
    from scipy import ndimage

    shrink = max(marks.shape) / _MAX_RASTER_SIDE
    if shrink > 1:
        if shrink >= 1.5:
            marks = np.asarray(ndimage.maximum_filter(marks, size=round(shrink)))
        height, width = (max(MIN_SIDE, round(side / shrink)) for side in marks.shape)
        marks = np.asarray(Image.fromarray(marks).resize((width, height), Image.Resampling.BOX))
    marks = np.maximum(marks - _paper(marks), 0).astype(np.float32)
    certain = marks[marks > 0.06]
    full = float(np.percentile(certain, 90)) if certain.size else 0.0
    return (marks / full).clip(0, 1) if full > 0.08 else np.zeros_like(marks)


def _paper(marks: NDArray[Any]) -> Float:
    """How dark the paper itself is at each pixel: a quadratic surface through the paler part of 12 × 12 tiles."""
    tiles = 12
    rows, columns = (np.linspace(0, side - 1, tiles * 12).astype(int) for side in marks.shape)
    sampled = marks[np.ix_(rows, columns)].reshape(tiles, 12, tiles, 12).transpose(0, 2, 1, 3)
    level = np.percentile(sampled.reshape(tiles * tiles, -1), 25, axis=1)

    def basis(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        y, x = y[:, None], x[None, :]
        return np.stack(np.broadcast_arrays(np.ones_like(x), x, y + 0 * x, x * x, x * y, y * y + 0 * x), axis=-1)

    terms = basis(*(np.linspace(-1, 1, tiles),) * 2).reshape(-1, 6)
    keep = np.ones(len(level), np.bool_)
    surface = np.zeros(6)
    for _ in range(6):  # tiles darker than the surface are ink, not paper
        surface = np.linalg.lstsq(terms[keep], level[keep], rcond=None)[0]
        fewer = level < terms @ surface + 0.06
        if fewer.sum() < 12 or (fewer == keep).all():
            break
        keep = fewer
    return (basis(*(np.linspace(-1, 1, side) for side in marks.shape)) @ surface).astype(np.float32)


# ---- from ink or strokes to even lines on a grid


def _centre_lines(ink: Float, *, canvas: tuple[int, int]) -> Mask:
    """(H, W) ink -> centre lines of its strokes and outlines of its solid areas, on a canvas (height, width)."""
    from scipy import ndimage

    height, width = canvas
    shrink = max(ink.shape) / max(canvas)
    if shrink < 1:
        picture = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)
        # smoothed by 0.7 of the given pixels, which leaves 0.53 of a line one pixel thick: no staircases
        mask = _marked(ndimage.gaussian_filter(np.asarray(picture), 0.7 / shrink) / 0.53)
    else:
        mask = _marked(ink)
        if shrink >= 1.5:
            mask = ndimage.maximum_filter(mask, size=round(shrink))
        picture = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
        mask = np.asarray(picture) >= 0.5
    mask = np.pad(mask, 1)
    depth = _distance(mask)
    solid_depth = max(4.0, 0.035 * max(canvas))
    outlines = np.zeros_like(mask)
    if depth.max() > solid_depth:
        core = depth > solid_depth
        solid: Mask = mask & (_distance(~core) <= solid_depth + 1.5)
        outlines = solid & (_distance(solid) <= 1)
        mask &= ~solid
    return (_thinned(mask) | outlines)[1:-1, 1:-1]


def _marked(ink: NDArray[Any]) -> Mask:
    """Where there is a line: certain ink, and the fainter ink that touches it."""
    from scipy import ndimage

    labels = np.empty(ink.shape, np.int32)
    ndimage.label(ink > 0.3, structure=np.ones((3, 3)), output=labels)
    certain = np.unique(labels[ink > 0.5])
    return np.isin(labels, certain[certain > 0])


# the eight neighbours, counter-clockwise from the right: (row, column)
_AROUND = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


@lru_cache(maxsize=1)
def _removable() -> tuple[Mask, Mask]:
    """For the two sub-iterations, which of the 256 neighbourhoods allow a pixel to go (Guo and Hall 1989)."""
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


def _thinned(mask: Mask) -> Mask:
    """Lines of any thickness reduced to one pixel, connected as before. The outermost pixels must be empty."""
    flat = mask.ravel().copy()
    around = np.array([row * mask.shape[1] + column for row, column in _AROUND])
    inked = np.flatnonzero(flat)
    bits = 1 << np.arange(8)
    while True:
        before = len(inked)
        for removable in _removable():
            gone = removable[flat[inked[:, None] + around] @ bits]
            flat[inked[gone]] = False
            inked = inked[~gone]
        if len(inked) == before:
            return flat.reshape(mask.shape)


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
            draw.point(_cells(points), fill=weight)
        elif (points >= 0).all() and (points <= (width, height)).all():
            draw.line(_cells(points), fill=weight)
        else:
            for segment in _clipped(points, limit=(width, height)):
                draw.line(_cells(segment), fill=weight)
    return np.asarray(picture)


def _cells(points: NDArray[np.float64]) -> list[float]:
    return np.floor(points).ravel().tolist()


def _clipped(points: NDArray[np.float64], *, limit: tuple[int, int]) -> NDArray[np.float64]:
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


def _placed(canvas: NDArray[Any], grid: tuple[int, int], *, blank: float) -> NDArray[Any]:
    """The canvas in the middle of a larger grid (height, width)."""
    page = np.full(grid, blank, dtype=canvas.dtype)
    top, left = (grid[0] - canvas.shape[0]) // 2, (grid[1] - canvas.shape[1]) // 2
    page[top : top + canvas.shape[0], left : left + canvas.shape[1]] = canvas
    return page


def _inked(lines: Mask, *, width: float) -> Float:
    """A round pen of `width` cells drawn along one-cell lines; its edge falls off over one cell."""
    if not lines.any():
        return np.zeros(lines.shape, dtype=np.float32)
    return (width / 2 + 0.5 - _distance(~lines)).clip(0, 1).astype(np.float32)


def _spread(weights: Float, *, reach: float) -> Float:
    """Weights on lines (-1: none) -> weights everywhere: the nearest line's within `reach`, 1 beyond thrice that."""
    from scipy import ndimage

    away = weights < 0
    nearest = np.empty((2, *weights.shape), np.int32)
    ndimage.distance_transform_edt(away, return_distances=False, return_indices=True, indices=nearest)
    hold = ((3 * reach - _distance(away)) / (2 * reach)).clip(0, 1).astype(np.float32)
    return 1 + (weights[tuple(nearest)] - 1) * hold


def _distance(mask: Mask) -> NDArray[np.float64]:
    """How far each cell of the mask is from the nearest cell outside it; 0 outside."""
    from scipy import ndimage

    distance = np.empty(mask.shape, np.float64)
    ndimage.distance_transform_edt(mask, distances=distance)
    return distance


def _pooled(values: Float, fine: int) -> Float:
    height, width = (side // fine for side in values.shape)
    return values.reshape(height, fine, width, fine).mean(axis=(1, 3))


# ---- SVG

_SVG = "http://www.w3.org/2000/svg"
_MAX_DEPTH = 64
_MAX_ELEMENTS = 100_000
_MAX_LIST = 3_000_000
_MAX_TEXT = 5_000
_MAX_NUMBER = 1e9
_MAX_CANVAS = 1e6
_GROUPS = frozenset({"svg", "g", "a", "switch"})
_SHAPES = frozenset({"path", "line", "polyline", "polygon", "rect", "circle", "ellipse"})
_UNSUPPORTED = frozenset({"use", "image", "foreignObject"})
_PROPERTIES = frozenset({"stroke", "stroke-width", "fill", "display", "visibility", "opacity", "transform"})

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_LENGTH = re.compile(rf"\s*({_NUMBER.pattern})\s*([a-zA-Z%]*)\s*")
_TRANSFORM = re.compile(r"\s*,?\s*([a-zA-Z]+)\s*\(([^()]*)\)")
_PATH_CHARACTERS = re.compile(r"[MmZzLlHhVvCcSsQqTtAa0-9eE+\-.,\s]*")
_UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "in": 96.0, "cm": 96 / 2.54, "mm": 9.6 / 2.54, "em": 16.0}

Matrix = NDArray[np.float64]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class _Style:
    """What an element hands down to those inside it."""

    matrix: Matrix
    viewport: tuple[float, float]
    lined: bool = False
    filled: bool = True
    width: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True)
class _Outline:
    """One subpath in root coordinates; `width` is None for the outline of a shape without a line."""

    points: NDArray[np.float64]
    closed: bool
    width: float | None
    weight: float


class _SvgReader:
    """Reads one SVG document with expat: nothing is loaded, expanded or run."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.stack: list[_Style | None] = []  # None: inside something that is not drawn
        self.rules: dict[str, dict[str, str]] = {}
        self.sheet: list[str] | None = None
        self.outlines: list[_Outline] = []
        self.canvas: tuple[float, float, float, float] | None = None
        self.elements = 0
        self.points = 0
        self.texts = 0

    def refuse(self, message: str, *, hint: str = "") -> NoReturn:
        _refuse(f"The SVG drawing, line {self.parser.CurrentLineNumber}: {message}", hint=hint)

    def read(self, source: str | bytes, *, name: str) -> Sketch:
        if len(source) > _MAX_SVG_BYTES:
            _refuse(f"The SVG drawing is larger than the {_MAX_SVG_BYTES // 1_000_000} MB allowed.")
        encoding = None
        if isinstance(source, str):
            source, encoding = source.encode("utf-8", "surrogatepass"), "utf-8"
        self.parser = expat.ParserCreate(encoding, namespace_separator=" ")
        self.parser.StartDoctypeDeclHandler = self.on_doctype
        self.parser.StartElementHandler = self.on_start
        self.parser.EndElementHandler = self.on_end
        self.parser.CharacterDataHandler = self.on_text
        try:
            with np.errstate(all="ignore"):
                self.parser.Parse(source, True)
        except (expat.ExpatError, LookupError, ValueError) as error:
            if isinstance(error, SketchError):
                raise
            self.refuse(f"this is not well-formed SVG ({error}).")
        if self.texts:
            warnings.warn(f"{self.texts} text element(s) of the SVG drawing are not drawn.", stacklevel=3)
        return self.sketch(name)

    def sketch(self, name: str) -> Sketch:
        for outline in self.outlines:
            if not np.isfinite(outline.points).all() or np.abs(outline.points).max() > _MAX_NUMBER:
                _refuse("The SVG drawing has coordinates that are not finite or absurdly large.")
        if self.canvas is None:
            if not self.outlines:
                return Sketch(name=name)
            points, aspect = _fitted([outline.points for outline in self.outlines], square=False)
            shown = list(zip(self.outlines, points, strict=True))
        else:
            left, top, width, height = self.canvas
            aspect = width / height
            units = [(outline.points - (left, top)) / (width, height) for outline in self.outlines]
            shown = [
                (outline, points)
                for outline, points in zip(self.outlines, units, strict=True)
                if not (outline.width is None and _is_paper(points))
            ]
        usual = _usual_width([outline for outline, _ in shown])
        return Sketch(
            strokes=tuple(
                Stroke(
                    points=points,  # pyright: ignore[reportArgumentType]
                    width=_own_width(outline.width, usual),
                    weight=outline.weight,
                    closed=outline.closed,
                )
                for outline, points in shown
            ),
            aspect=aspect,
            name=name,
        )

    # -- what expat reports

    def on_doctype(self, *_: object) -> None:
        self.refuse("a DOCTYPE is not allowed.", hint="Delete that line, or save as plain SVG.")

    def on_text(self, text: str) -> None:
        if self.sheet is not None:
            self.sheet.append(text)

    def on_start(self, tag: str, attributes: dict[str, str]) -> None:
        self.count(1)
        if len(self.stack) >= _MAX_DEPTH:
            self.refuse(f"elements are nested more than {_MAX_DEPTH} deep.", hint="Ungroup the drawing first.")
        namespace, _, name = tag.rpartition(" ")
        values = self.checked(name, attributes)
        if not self.stack:
            if name != "svg" or namespace not in ("", _SVG):
                self.refuse(f"the outermost element is <{name[:40]}>, not <svg>.")
            self.stack.append(self.root(self.styled(name, values)))
            return
        parent = self.stack[-1]
        if name == "style":
            self.sheet = []
        if parent is None or namespace not in ("", _SVG):
            self.stack.append(None)
            return
        if name in _UNSUPPORTED:
            self.refuse(f"<{name}> is not supported.", hint="Convert clones and pictures to paths before exporting.")
        self.texts += name == "text"
        style = None
        if name in _GROUPS or name in _SHAPES:
            values = self.styled(name, values)
            style = self.inherited(parent, values)
        if style is not None and name in _SHAPES:
            self.shape(name, values, style)
            style = None
        if style is not None and name == "svg":
            style = self.nested(values, style)
        self.stack.append(style)

    def on_end(self, tag: str) -> None:
        self.stack.pop()
        if tag.rpartition(" ")[2] == "style" and self.sheet is not None:
            before, *commented = "".join(self.sheet).split("/*")
            rules = "".join([before, *(part.partition("*/")[2] for part in commented)]).split("}")
            self.count(len(rules))
            for rule in rules:
                selectors, _, body = rule.partition("{")
                for selector in selectors.split(","):
                    self.rules.setdefault(selector.strip(), {}).update(_declarations(body))
            self.sheet = None

    def count(self, more: int) -> None:
        self.elements += more
        if self.elements > _MAX_ELEMENTS:
            self.refuse(f"there are more than {_MAX_ELEMENTS} elements or rules.", hint="Simplify the drawing first.")

    # -- attributes

    def checked(self, name: str, attributes: dict[str, str]) -> dict[str, str]:
        """The attributes by local name; anything that could run or load is refused."""
        if name == "script":
            self.refuse("scripts are not allowed.", hint="Save as plain SVG.")
        values: dict[str, str] = {}
        for key, value in attributes.items():
            namespace, _, local = key.rpartition(" ")
            if not namespace and local.lower().startswith("on"):
                self.refuse(f"the event handler {local[:40]!r} is not allowed.", hint="Save as plain SVG.")
            if local == "href" and not value.strip().startswith(("#", "data:")):
                self.refuse(f"a link to {value[:60]!r} is not allowed.", hint="Embed or remove what it points to.")
            if not namespace:
                values[local] = value
        return values

    def styled(self, name: str, values: dict[str, str]) -> dict[str, str]:
        """Presentation attributes, overridden by style sheets and these by the style attribute."""
        styled = values | self.rules.get(name, {})
        for part in values.get("class", "").split():
            styled |= self.rules.get(f".{part}", {})
        return styled | _declarations(values.get("style", ""))

    def inherited(self, parent: _Style, values: Mapping[str, str]) -> _Style | None:
        """The element's own style; None when it is not to be seen."""
        if values.get("display") == "none" or values.get("visibility") in ("hidden", "collapse"):
            return None
        if "opacity" in values and self.length(values["opacity"], 1.0) <= 0:
            return None
        diagonal = math.hypot(*parent.viewport) / math.sqrt(2)
        style = parent
        if "stroke" in values and values["stroke"] != "inherit":
            style = replace(style, lined=values["stroke"].strip() not in ("none", "transparent"))
        if "fill" in values and values["fill"] != "inherit":
            style = replace(style, filled=values["fill"].strip() not in ("none", "transparent"))
        if "stroke-width" in values and values["stroke-width"] != "inherit":
            style = replace(style, width=self.length(values["stroke-width"], diagonal))
        if "data-weight" in values:
            weight = self.length(values["data-weight"], 1.0)
            if not 0 <= weight <= 1000:
                self.refuse(f"data-weight is {values['data-weight'][:40]!r}; it must be 0 to 1000.")
            style = replace(style, weight=weight)
        if "transform" in values:
            style = replace(style, matrix=style.matrix @ self.transform(values["transform"]))
        return style

    def length(self, text: str, whole: float) -> float:
        """A CSS length in pixels; a percentage is of `whole`."""
        match = _LENGTH.fullmatch(text[:_MAX_TEXT])
        unit = match[2].lower() if match else "?"
        factor = whole / 100 if unit == "%" else _UNITS.get(unit)
        if match is None or factor is None or abs(float(match[1])) > _MAX_NUMBER:
            self.refuse(f"{text[:40]!r} is not a length; a number with px, pt, pc, in, cm, mm, em or % is.")
        return float(match[1]) * factor

    def lengths(self, values: Mapping[str, str], names: str, viewport: tuple[float, float]) -> list[float]:
        """Several lengths, 0 where missing; percentages of the width, the height, or (radii) the diagonal."""
        wholes = {"x": viewport[0], "y": viewport[1], "r": math.hypot(*viewport) / math.sqrt(2)}
        wholes |= {"width": viewport[0], "height": viewport[1], "rx": viewport[0], "ry": viewport[1]}
        wholes |= {"cx": viewport[0], "cy": viewport[1], "x1": viewport[0], "x2": viewport[0]}
        wholes |= {"y1": viewport[1], "y2": viewport[1]}
        return [self.length(values.get(name, "0"), wholes[name]) for name in names.split()]

    def numbers(self, text: str) -> list[float]:
        if len(text) > _MAX_LIST:
            self.refuse(f"there are more than {MAX_POINTS} points.", hint="Simplify the drawing first.")
        found = [float(number) for number in _NUMBER.findall(text)]
        if _NUMBER.sub("", text).strip(" ,\t\r\n") or any(abs(number) > _MAX_NUMBER for number in found):
            self.refuse(f"{text[:40]!r} is not a list of numbers.")
        return found

    def transform(self, text: str) -> Matrix:
        if len(text) > _MAX_TEXT:
            self.refuse("a transform is longer than any drawing needs.")
        matrix = np.eye(3)
        if _TRANSFORM.sub("", text).strip(" ,\t\r\n") not in ("", "none"):
            self.refuse(f"the transform {text[:40]!r} cannot be read.")
        for name, inner in _TRANSFORM.findall(text):
            self.count(1)
            step = _transformation(name, self.numbers(inner))
            if step is None:
                self.refuse(f"the transform {name[:20]}({inner[:40]}) is unknown or has the wrong number of values.")
            matrix = matrix @ step
        return matrix

    # -- the canvas

    def box(self, text: str) -> tuple[float, float, float, float]:
        numbers = self.numbers(text)
        if len(numbers) != 4:
            self.refuse(f"the viewBox {text[:40]!r} must have four numbers.")
        left, top, width, height = numbers
        self.check_side(width)
        self.check_side(height)
        return left, top, width, height

    def check_side(self, side: float) -> None:
        if not 0 < side <= _MAX_CANVAS:
            self.refuse(f"a canvas side is {side:g}; it must be above 0 and at most {_MAX_CANVAS:g}.")

    def root(self, values: Mapping[str, str]) -> _Style | None:
        sides: list[float] = []
        for side in ("width", "height"):
            text = values.get(side, "auto").strip()
            if text != "auto":
                pixels = self.length(text, 100.0)
                self.check_side(pixels)
                if not text.endswith("%"):
                    sides.append(pixels)
        if "viewBox" in values:
            self.canvas = self.box(values["viewBox"])
        elif len(sides) == 2:
            self.canvas = (0.0, 0.0, sides[0], sides[1])
        if self.canvas is not None and not 1 / MAX_ASPECT <= self.canvas[2] / self.canvas[3] <= MAX_ASPECT:
            self.refuse(f"the canvas is {self.canvas[2]:g} × {self.canvas[3]:g}; at most 1:{MAX_ASPECT:g} is allowed.")
        viewport = (100.0, 100.0) if self.canvas is None else self.canvas[2:]
        return self.inherited(_Style(matrix=np.eye(3), viewport=viewport), values)

    def nested(self, values: Mapping[str, str], style: _Style) -> _Style:
        """An inner svg: its viewBox is fitted, centred, into its own rectangle."""
        outer = style.viewport
        sized = {"width": "100%", "height": "100%"} | dict(values)
        x, y, width, height = self.lengths(sized, "x y width height", outer)
        self.check_side(width)
        self.check_side(height)
        if "viewBox" not in values:
            return replace(style, matrix=style.matrix @ _affine(1, 0, 0, 1, x, y), viewport=(width, height))
        left, top, inner_width, inner_height = self.box(values["viewBox"])
        scale = min(width / inner_width, height / inner_height)
        x += (width - scale * inner_width) / 2 - scale * left
        y += (height - scale * inner_height) / 2 - scale * top
        matrix = style.matrix @ _affine(scale, 0, 0, scale, x, y)
        return replace(style, matrix=matrix, viewport=(inner_width, inner_height))

    # -- shapes

    def shape(self, name: str, values: Mapping[str, str], style: _Style) -> None:
        lined = style.lined and style.width > 0
        if not lined and not style.filled:
            return
        tolerance = None if self.canvas is None else max(self.canvas[2:]) / 1500
        pen = _Pen(style.matrix, tolerance=tolerance, room=MAX_POINTS - self.points, refuse=self.refuse)
        getattr(self, f"trace_{name}")(values, style.viewport, pen)
        pen.endPath()
        scale = math.sqrt(abs(float(np.linalg.det(style.matrix[:2, :2]))))
        for points, closed in pen.paths:
            self.points += len(points)
            width = style.width * scale if lined else None
            self.outlines.append(_Outline(points, closed or not lined, width, style.weight))

    def trace_path(self, values: Mapping[str, str], _viewport: tuple[float, float], pen: _Pen) -> None:
        from fontTools.svgLib.path.parser import parse_path

        data = values.get("d", "").strip()
        if len(data) > _MAX_LIST:
            self.refuse(f"there are more than {MAX_POINTS} points.", hint="Simplify the drawing first.")
        if not _PATH_CHARACTERS.fullmatch(data):
            self.refuse(f"the path data {data[:40]!r} has characters that path data cannot have.")
        # fontTools reads neither "5." nor line ends between the values of an arc
        data = re.sub(r"(\d)\.(?!\d)", r"\1", " ".join(data.split()))
        if "a" in data or "A" in data:
            data = re.sub(r"(?<![eE])([-+])", r" \1", data)
            if any(len(run) > 1000 for run in re.split(r"[ ,a-zA-Z]", data)):  # it would take quadratic time
                self.refuse("an arc's values run together without end.")
        try:
            parse_path(data, pen)
        except SketchError:
            raise
        except Exception as error:  # the parser promises no particular error
            self.refuse(f"the path data {data[:40]!r} cannot be read: {str(error)[:80]}.")

    def trace_line(self, values: Mapping[str, str], viewport: tuple[float, float], pen: _Pen) -> None:
        x1, y1, x2, y2 = self.lengths(values, "x1 y1 x2 y2", viewport)
        pen.polyline([(x1, y1), (x2, y2)], closed=False)

    def trace_polyline(self, values: Mapping[str, str], _viewport: tuple[float, float], pen: _Pen) -> None:
        pen.polyline(self.corners(values), closed=False)

    def trace_polygon(self, values: Mapping[str, str], _viewport: tuple[float, float], pen: _Pen) -> None:
        pen.polyline(self.corners(values), closed=True)

    def corners(self, values: Mapping[str, str]) -> list[Point]:
        numbers = self.numbers(values.get("points", ""))
        if len(numbers) % 2:
            self.refuse("`points` has an odd number of values.")
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def trace_rect(self, values: Mapping[str, str], viewport: tuple[float, float], pen: _Pen) -> None:
        x, y, width, height = self.lengths(values, "x y width height", viewport)
        given = {name: values[name] for name in ("rx", "ry") if values.get(name, "auto") != "auto"}
        given = {"rx": given.get("ry", "0"), "ry": given.get("rx", "0")} | given
        rx, ry = self.lengths(given, "rx ry", viewport)
        if width < 0 or height < 0 or rx < 0 or ry < 0:
            self.refuse("a rectangle has a negative size.")
        if width == 0 or height == 0:
            return
        rx, ry = min(rx, width / 2), min(ry, height / 2)
        right, bottom = x + width, y + height
        if rx == 0 or ry == 0:
            pen.polyline([(x, y), (right, y), (right, bottom), (x, bottom)], closed=True)
            return
        k = 1 - _QUARTER
        pen.moveTo((x + rx, y))
        pen.lineTo((right - rx, y))
        pen.curveTo((right - k * rx, y), (right, y + k * ry), (right, y + ry))
        pen.lineTo((right, bottom - ry))
        pen.curveTo((right, bottom - k * ry), (right - k * rx, bottom), (right - rx, bottom))
        pen.lineTo((x + rx, bottom))
        pen.curveTo((x + k * rx, bottom), (x, bottom - k * ry), (x, bottom - ry))
        pen.lineTo((x, y + ry))
        pen.curveTo((x, y + k * ry), (x + k * rx, y), (x + rx, y))
        pen.closePath()

    def trace_circle(self, values: Mapping[str, str], viewport: tuple[float, float], pen: _Pen) -> None:
        cx, cy, r = self.lengths(values, "cx cy r", viewport)
        self.ellipse(cx, cy, r, r, pen)

    def trace_ellipse(self, values: Mapping[str, str], viewport: tuple[float, float], pen: _Pen) -> None:
        cx, cy, rx, ry = self.lengths(values, "cx cy rx ry", viewport)
        self.ellipse(cx, cy, rx, ry, pen)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, pen: _Pen) -> None:
        if rx < 0 or ry < 0:
            self.refuse("a circle or ellipse has a negative radius.")
        if rx == 0 or ry == 0:
            return
        kx, ky = _QUARTER * rx, _QUARTER * ry
        pen.moveTo((cx + rx, cy))
        pen.curveTo((cx + rx, cy + ky), (cx + kx, cy + ry), (cx, cy + ry))
        pen.curveTo((cx - kx, cy + ry), (cx - rx, cy + ky), (cx - rx, cy))
        pen.curveTo((cx - rx, cy - ky), (cx - kx, cy - ry), (cx, cy - ry))
        pen.curveTo((cx + kx, cy - ry), (cx + rx, cy - ky), (cx + rx, cy))
        pen.closePath()


_QUARTER = 4 / 3 * (math.sqrt(2) - 1)
"""Where the control points of a cubic Bézier quarter circle lie."""


class _Pen:
    """Turns path commands into polylines in root coordinates. Its methods have the names of fontTools pens."""

    def __init__(
        self, matrix: Matrix, *, tolerance: float | None, room: int, refuse: Callable[[str], NoReturn]
    ) -> None:
        self.matrix = matrix
        self.tolerance = tolerance
        self.room = room
        self.refuse = refuse
        self.pieces: list[NDArray[np.float64]] = []
        self.paths: list[tuple[NDArray[np.float64], bool]] = []

    def add(self, points: NDArray[np.float64]) -> None:
        self.room -= len(points)
        if self.room < 0:
            self.refuse(f"there are more than {MAX_POINTS} points.")
        self.pieces.append(points)

    def mapped(self, *points: Point) -> NDArray[np.float64]:
        return np.array(points, dtype=np.float64).reshape(-1, 2) @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def moveTo(self, point: Point) -> None:  # noqa: N802
        self.endPath()
        self.add(self.mapped(point))

    def lineTo(self, point: Point) -> None:  # noqa: N802
        self.add(self.mapped(point))

    def curveTo(self, first: Point, second: Point, end: Point) -> None:  # noqa: N802
        p0, (p1, p2, p3) = self.pieces[-1][-1], self.mapped(first, second, end)
        # the chords of n pieces are off by at most |B''| / (8 n²), and |B''| is at most six times these
        bend = float(np.abs([p0 - 2 * p1 + p2, p1 - 2 * p2 + p3]).max())
        pieces = 24 if self.tolerance is None else math.sqrt(min(0.75 * bend / self.tolerance, 1e6))
        t = np.linspace(0, 1, int(np.clip(pieces, 1, 128)) + 1)[1:, None]
        s = 1 - t
        self.add(s**3 * p0 + 3 * s * s * t * p1 + 3 * s * t * t * p2 + t**3 * p3)

    def qCurveTo(self, control: Point, end: Point) -> None:  # noqa: N802
        p0 = self.pieces[-1][-1]
        p1, p2 = self.mapped(control, end)
        bend = float(np.abs(p0 - 2 * p1 + p2).max())
        pieces = 24 if self.tolerance is None else math.sqrt(min(0.25 * bend / self.tolerance, 1e6))
        t = np.linspace(0, 1, int(np.clip(pieces, 1, 128)) + 1)[1:, None]
        s = 1 - t
        self.add(s * s * p0 + 2 * s * t * p1 + t * t * p2)

    def closePath(self) -> None:  # noqa: N802
        self.finish(closed=True)

    def endPath(self) -> None:  # noqa: N802
        self.finish(closed=False)

    def finish(self, *, closed: bool) -> None:
        if self.pieces:
            self.paths.append((np.concatenate(self.pieces), closed))
            self.pieces = []

    def polyline(self, points: Sequence[Point], *, closed: bool) -> None:
        if points:
            self.add(self.mapped(*points))
            self.finish(closed=closed)


def _declarations(text: str) -> dict[str, str]:
    """`name: value; …` of a style attribute or rule: those properties that matter here."""
    pairs = (part.partition(":") for part in text.split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip() in _PROPERTIES}


def _affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Matrix:
    return np.array([[a, c, e], [b, d, f], [0, 0, 1]], dtype=np.float64)


def _transformation(name: str, values: Sequence[float]) -> Matrix | None:
    """One SVG transform function, or None where the name or the number of values is wrong."""
    match name, list(values):
        case "matrix", [a, b, c, d, e, f]:
            return _affine(a, b, c, d, e, f)
        case "translate", [x] | [x, _]:
            return _affine(1, 0, 0, 1, x, values[1] if len(values) == 2 else 0)
        case "scale", [x] | [x, _]:
            return _affine(x, 0, 0, values[-1], 0, 0)
        case "rotate", [degrees]:
            sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
            return _affine(cosine, sine, -sine, cosine, 0, 0)
        case "rotate", [degrees, x, y]:
            turned = _transformation("rotate", [degrees])
            return None if turned is None else _affine(1, 0, 0, 1, x, y) @ turned @ _affine(1, 0, 0, 1, -x, -y)
        case "skewX", [degrees]:
            return _affine(1, 0, math.tan(math.radians(degrees)), 1, 0, 0)
        case "skewY", [degrees]:
            return _affine(1, math.tan(math.radians(degrees)), 0, 1, 0, 0)
        case _:
            return None


def _is_paper(points: NDArray[np.float64]) -> bool:
    """A filled shape that runs along the edges of the canvas, or outside them, on all four sides."""
    low, high = points.min(axis=0), points.max(axis=0)
    on_edge = ((points <= 0.01) | (points >= 0.99)).any(axis=1)
    return bool((low <= 0.01).all() and (high >= 0.99).all() and on_edge.all())


def _usual_width(outlines: Sequence[_Outline]) -> float:
    """The line width that most of the drawn length has."""
    lengths: dict[float, float] = {}
    for outline in outlines:
        if outline.width:
            length = float(np.hypot(*np.diff(outline.points, axis=0).T).sum())
            lengths[outline.width] = lengths.get(outline.width, 0.0) + length
    return max(lengths, key=lambda width: lengths[width], default=1.0)


def _own_width(width: float | None, usual: float) -> float | None:
    """A width as its ratio to the usual one, 1/3 to 3; None (the default line) where it hardly differs."""
    if not width or abs(width / usual - 1) < 0.1:
        return None
    return LINE_WIDTH * min(max(width / usual, 1 / 3), 3.0)
