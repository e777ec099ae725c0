"""Drawings, and the spatial map that a drawing becomes.

A `Sketch` holds strokes (from SVG, Quick, Draw! or code) or a raster of ink (from a picture). `Sketch.rasterize` turns
either into a `SpatialMap`: thin lines of one thickness on blank paper, as an edge detector would give them. Coordinates
are (x, y), x to the right and y downwards; ink is 1 and paper is 0.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sketchguide.defaults import Polarity
from sketchguide.errors import SketchError, UsageError, warn
from sketchguide.images import (
    MAX_PIXELS,
    MAX_SIDE,
    MIN_SIDE,
    as_rgb,
    from_base64,
    from_grey,
    open_image,
    read_file,
    to_base64,
    to_grey,
)
from sketchguide.ink import PAPER_OF, ink_in
from sketchguide.rasterizing import even_lines, widened
from sketchguide.rasters import box_around, centred, reduced, window
from sketchguide.sheets import cut_out
from sketchguide.strokes import (
    LINE_WIDTH,
    MAX_ASPECT,
    MAX_COORDINATE,
    MAX_POINTS,
    Float,
    Points,
    Stroke,
    as_numbers,
    fitted,
    frozen,
    in_reach,
    is_number,
    on_the_page,
    refuse,
    with_margin,
)
from sketchguide.svg.document import read_svg

_MAX_LINE_BYTES = 4_000_000
_MAX_MAP_SIDE = 4096
_FOREIGN = MappingProxyType({"appState": "Excalidraw", "tldrawFileFormatVersion": "tldraw"})


@dataclass(frozen=True, eq=False)
class SpatialMap:
    """What should be where: the target of spatial guidance.

    Attributes:
        ink: (H, W) float32 in [0, 1]; a line is 1.
        weight: (H, W) float32 ≥ 0: how strongly each pixel binds; 1 is normal.
    """

    ink: Float
    weight: Float

    def __post_init__(self) -> None:
        for name, top in (("ink", 1.0), ("weight", math.inf)):
            values = np.asarray(getattr(self, name))
            if values.ndim != 2 or not values.size or not np.isfinite(values).all():
                refuse(f"A map's {name} must be finite numbers of shape (H, W).")
            if values.min() < 0 or values.max() > top:
                refuse(f"A map's {name} lies in {values.min():g}..{values.max():g}; allowed is 0 to {top:g}.")
            object.__setattr__(self, name, frozen(values))
        if self.ink.shape != self.weight.shape:
            refuse(f"A map's ink {self.ink.shape} and weight {self.weight.shape} must have one shape.")

    @property
    def blank(self) -> bool:
        """There is no ink; guidance towards it would ask for an empty picture."""
        return float(self.ink.max()) < 0.05

    def widened(self, factor: float) -> SpatialMap:
        """With lines wider by `factor` - 1 usual widths (LINE_WIDTH); at 1, as they are. UsageError below 1."""
        if not factor >= 1:
            raise UsageError(f"Lines cannot be made {factor:g} times as wide; 1 is the least.", field="widen")
        if factor == 1:
            return self
        return replace(self, ink=widened(self.ink, factor=factor))


@dataclass(frozen=True, eq=False)
class Sketch:
    """A drawing: strokes, a raster of ink, or both, on a canvas of a given aspect.

    Attributes:
        strokes: the lines, in drawing order.
        raster: (H, W) float32 ink in [0, 1], each side 16 to 8192 and at most 36 million pixels, or None; stretched
            over the canvas and kept in 256 levels (so that `to_json` loses nothing).
        aspect: width / height of the canvas, 1/32 to 32.
        name: what the drawing is called, for messages and labels.
    """

    strokes: tuple[Stroke, ...] = ()
    raster: Float | None = None
    aspect: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if not (is_number(self.aspect) and 1 / MAX_ASPECT <= self.aspect <= MAX_ASPECT):
            given = round(self.aspect, 3) if is_number(self.aspect) else self.aspect
            refuse(f"The canvas is {given} times as wide as high; allowed is 1/{MAX_ASPECT:g} to {MAX_ASPECT:g}.")
        object.__setattr__(self, "strokes", tuple(self.strokes))
        # File names may hold bytes that are no text, which could not be written into a PNG in the end.
        object.__setattr__(self, "name", self.name.encode("utf-8", "replace").decode())
        points = sum(len(stroke.points) for stroke in self.strokes)
        if points > MAX_POINTS:
            refuse(f"The drawing has {points} points; at most {MAX_POINTS} are allowed.", hint="Simplify it first.")
        if self.raster is not None:
            raster = np.asarray(self.raster)
            if raster.ndim != 2 or not all(MIN_SIDE <= side <= MAX_SIDE for side in raster.shape):
                refuse(f"A raster of shape {raster.shape} was given; it must be (H, W), {MIN_SIDE} to {MAX_SIDE} each.")
            if raster.size > MAX_PIXELS:
                refuse(f"A raster of {raster.size} pixels was given; at most {MAX_PIXELS} are allowed.")
            if not (raster.min() >= 0 and raster.max() <= 1):
                refuse("A raster's ink must lie in 0 to 1.")
            object.__setattr__(self, "raster", frozen(to_grey(from_grey(raster))))

    @classmethod
    def open(cls, source: str | Path | bytes, *, polarity: Polarity = "auto") -> Sketch:
        """A drawing from a file or its bytes, by its content: a picture, SVG, Quick, Draw! ndjson or `to_json` output.

        All but pictures may be gzipped. Of an ndjson file with several drawings the first is taken, with a warning;
        `read_ndjson` gives all.

        Raises:
            SketchError: the file is missing, damaged, too large, or none of these.
        """
        if not isinstance(source, str | Path | bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            refuse(
                f"Sketch.open takes the name of a file, not a {type(source).__name__}.",
                hint="Of a picture: Sketch.from_image(picture).",
            )
        path = "The drawing" if isinstance(source, bytes) else str(source)
        data = source if isinstance(source, bytes) else read_file(source, field="sketch")
        name = "" if isinstance(source, bytes) else Path(source).stem
        packed = data.startswith(_GZIP)
        if packed:
            data, name = _unpacked(data, name=path), Path(name).stem
        start = _first_letter(data)
        if start in (b"<", b"{") and polarity != "auto":
            told = f"{path} holds strokes, which are ink: polarity {polarity} changes nothing."
            warn(told)
        if start == b"<":
            try:
                return cls.from_svg(data, name=name)
            except SketchError as error:
                raise SketchError(f"{path}: {error.message}", hint=error.hint, field=error.field) from error
        if start != b"{":
            if packed:
                refuse(f"{path} holds neither SVG nor ndjson; pictures are read as they are, not gzipped.")
            image = open_image(source, field="sketch", paper=PAPER_OF.get(polarity))
            return replace(cls.from_image(image, polarity=polarity), name=name)
        first, _, rest = data.strip().partition(b"\n")
        record = _loads(first)
        if record is None:
            record, rest = _loads(data), b""
        if record is None:
            refuse(f"{path} is neither Quick, Draw! ndjson nor a saved sketch: its text is not valid JSON.")
        for mark, program in _FOREIGN.items():
            if mark in record:
                refuse(f"{path} is a file of {program}, which is not read.", hint="Export the drawing as SVG or PNG.")
        if "drawing" not in record:
            if not {"strokes", "raster"} <= record.keys():
                refuse(f"{path} is neither Quick, Draw! ndjson nor a sketch that `to_json` wrote.")
            return cls.from_json(record)
        if rest.strip():
            warn(f"{path} holds several drawings; the first one is used.")
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
            refuse(f"{len(weights)} weights were given for {len(strokes)} strokes.")
        lines = (
            Stroke(points=points, weight=1.0 if weights is None else weights[index])  # pyright: ignore[reportArgumentType]
            for index, points in enumerate(strokes)
        )
        return cls(strokes=tuple(lines), aspect=aspect, name=name)

    @classmethod
    def from_svg(cls, source: str | bytes, *, name: str = "") -> Sketch:
        """A drawing from SVG text: the outlines of path, line, polyline, polygon, rect, circle and ellipse.

        Groups, clones (`use`), nested `svg`, transforms, units, style attributes and simple style sheets are read. Of
        colours only that of the paper counts, which a filled shape that covers the canvas has, or the page's own
        `background`, and white is without one: what is painted in it is no ink. Every other visible line is; a shape
        without a line gives its outline, a long and narrow one, such as the mark of a brush, its centre line, also
        where a line of its own colour runs around it. Clips and masks are not applied. The line
        width met most is the default line, others keep their ratio to it. `data-weight="0.5"` on an element or group is
        the weight of its strokes (and the mark of a brush gives its outline then). The canvas is the viewBox, else
        width and height, else what is drawn.

        Raises:
            SketchError: not well-formed, larger than 10 MB, over 200,000 points or 64 levels; a DOCTYPE with
                declarations, script, event handler or link to another file; `image`, also as what a shape is filled
                with, or `foreignObject`; a size that is zero, huge or not a number.
        """
        read = read_svg(source)
        return cls(strokes=read.strokes, raster=read.painted, aspect=read.aspect, name=name)

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
            refuse("A Quick, Draw! record needs `drawing`, a list of strokes [[x…], [y…]].")
        strokes: list[Points] = []
        for stroke in drawing:
            try:
                axes = as_numbers(stroke[:2])
            except (TypeError, LookupError):
                axes = None
            if axes is None or axes.ndim != 2 or len(axes) != 2 or not axes.size or not in_reach(axes, MAX_COORDINATE):
                refuse("A Quick, Draw! stroke must be two lists of finite numbers of one length, [[x…], [y…]].")
            strokes.append(axes.T)
        word = record.get("word", "")
        points, _ = fitted(strokes, square=True)
        return cls.from_strokes(points, name=word if isinstance(word, str) else "")

    @classmethod
    def from_image(cls, image: Image.Image, *, polarity: Polarity = "auto") -> Sketch:
        """A drawing from a picture of lines: scanned, photographed, or drawn white on black.

        It is turned upright and laid on paper as `open_image` does. Of a photo of a sheet on a darker table the sheet
        is cut out, with a warning, unless the polarity is given. Uneven light and shadows that fall in from the edge
        are evened out, faint lines that rule the whole page are taken off, grain is smoothed where lines are hardly
        darker, and faint lines are strengthened; of a drawing that was coloured in the lines are taken, and the edges
        of colours without a line. The longer side is reduced to 1024 without losing thin lines. A picture without
        contrast is a blank sketch, with a warning where that may be its grain.

        Args:
            polarity: which is ink. "auto" decides by the border and by which of the two covers less; what is
                transparent is white with "dark-on-light" and black with "light-on-dark".

        Raises:
            SketchError: an unknown polarity, a side below 16 or above 8192 pixels, or a canvas longer than 32 times its
                width.
        """
        if polarity not in ("auto", "dark-on-light", "light-on-dark"):
            refuse(f"Polarity {polarity!r} is unknown; allowed are auto, dark-on-light and light-on-dark.")
        image = as_rgb(image, field="sketch", paper=PAPER_OF.get(polarity))
        if polarity == "auto" and (sheet := cut_out(image)) is not None:
            warn(
                "The picture is taken for a photo of a sheet of paper: what lies around the sheet is cut off. Polarity "
                "dark-on-light leaves it whole."
            )
            image = sheet
        return cls(raster=ink_in(image, polarity=polarity), aspect=image.width / image.height)

    def to_json(self) -> dict[str, Any]:
        """The drawing as plain JSON values; `from_json` gives back exactly the same."""
        raster = None if self.raster is None else to_base64(from_grey(self.raster))
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
                raster = to_grey(from_base64(raster, field="sketch"))
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
            refuse(f"This is not a saved sketch: {type(error).__name__} {error}.", hint="Use what to_json wrote.")

    def on_canvas(self, aspect: float, *, cut: bool = False) -> Sketch:
        """The drawing in the middle of a canvas of another `aspect`, as large as it fits; the rest is blank paper.

        With `cut` it fills that canvas instead, and what sticks out is cut off, as of a picture that is made to fit.
        """
        if cut:
            width, height = min(1.0, aspect / self.aspect), min(1.0, self.aspect / aspect)
            box = ((1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2)
            return replace(self.cropped(box), aspect=aspect)
        height = max(1.0, self.aspect / aspect)
        shrunk = np.array([self.aspect / (aspect * height), 1 / height])
        strokes = tuple(
            replace(stroke, points=(stroke.points.astype(np.float64) - 0.5) * shrunk + 0.5) for stroke in self.strokes
        )
        raster = self.raster
        if raster is not None:
            around = raster.shape / shrunk[::-1]
            raster = reduced(raster, max(around.max() / MAX_SIDE, math.sqrt(around.prod() / MAX_PIXELS)))
            rows, columns = (max(MIN_SIDE, int(side)) for side in raster.shape / shrunk[::-1] + 0.5)
            raster = centred(raster, (min(rows, MAX_SIDE), min(columns, MAX_SIDE)))
        return replace(self, strokes=strokes, raster=raster, aspect=aspect)

    def cropped(self, box: tuple[float, float, float, float]) -> Sketch:
        """The part of the drawing in `box` (left, top, right, bottom), in canvas units; lines are drawn as wide as
        before, as fractions of what they lie on.

        Raises:
            SketchError: the box is empty, reaches beyond the canvas, or is longer than 32 times its width.
        """
        left, top, right, bottom = box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            refuse(f"The box {box} is no part of the canvas; it must be (left, top, right, bottom), each 0 to 1.")
        if tuple(box) == (0, 0, 1, 1):
            return self
        start, sides = np.array([left, top]), np.array([right - left, bottom - top])
        parts = [part for stroke in self.strokes for part in on_the_page(stroke)]
        strokes = tuple(replace(part, points=(part.points.astype(np.float64) - start) / sides) for part in parts)
        raster = self.raster
        if raster is not None:
            height, width = raster.shape
            columns, rows = (max(MIN_SIDE, round(cells)) for cells in sides * (width, height))
            cells = (left * width, top * height, right * width, bottom * height)
            part = Image.fromarray(raster).resize((columns, rows), Image.Resampling.BILINEAR, box=cells)
            raster = np.asarray(part).clip(0, 1)
        return replace(self, strokes=strokes, raster=raster, aspect=float(self.aspect * sides[0] / sides[1]))

    @property
    def blank(self) -> bool:
        """Whether nothing of it lies on its canvas."""
        return self.rasterize(size=(64, 64)).blank

    @property
    def filled(self) -> float:
        """Share of a square picture that the box around the drawing takes, 0..1; dirt is left out as by `trimmed`."""
        low, high = self._box or (np.zeros(2), np.zeros(2))
        return float(np.prod(high - low)) / max(self.aspect, 1.0) ** 2

    @property
    def elongation(self) -> float:
        """Width / height of the box around a drawing of which `filled` is above 0; dirt is left out."""
        low, high = self._box or (np.zeros(2), np.ones(2))
        return float(np.divide(*(high - low)))

    @property
    def _box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Corners (x, y) of the box around what is drawn, in heights of the canvas; None of nothing or a dot."""
        page = np.array([self.aspect, 1.0])
        corners: list[NDArray[Any]] = [part.points * page for stroke in self.strokes for part in on_the_page(stroke)]
        if self.raster is not None and (box := box_around(self.raster)) is not None:
            corners.append(box * page / self.raster.shape[::-1])
        everything = np.concatenate([*corners, np.empty((0, 2))]).astype(np.float64)
        if not len(everything) or not np.ptp(everything, axis=0).any():
            return None
        return everything.min(axis=0), everything.max(axis=0)

    def trimmed(self) -> Sketch:
        """The drawing cut out of the blank paper around it, with a margin of 8 %: it fills what it is laid on.

        Of a raster, specks far from the drawing and lines along the page's edge are taken for dirt and cut off too.
        What is blank, or a single dot, stays as it is.
        """
        box = self._box
        if box is None:
            return self
        page, raster = np.array([self.aspect, 1.0]), self.raster
        strokes = [part for stroke in self.strokes for part in on_the_page(stroke)]
        low, high = box
        canvas = with_margin(high - low)
        start = (low + high - canvas) / 2
        if raster is not None:
            cells = raster.shape[::-1] / page
            left, top = (int(place) for place in np.round(start * cells))
            columns, rows = (max(MIN_SIDE, round(side)) for side in canvas * cells)
            raster = window(raster, (top, left), (rows, columns))
            start, canvas = np.array([left, top]) / cells, np.array([columns, rows]) / cells
        moved = tuple(replace(stroke, points=frozen((stroke.points * page - start) / canvas)) for stroke in strokes)
        return replace(self, strokes=moved, raster=raster, aspect=float(canvas[0] / canvas[1]))

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
        try:
            width, height = size
        except (TypeError, ValueError):
            refuse(f"size is {size}; it must be (width, height).")
        if not all(8 <= side <= _MAX_MAP_SIDE and side == int(side) for side in (width, height)):
            refuse(f"A map of {width} × {height} was asked for; each side must be 8 to {_MAX_MAP_SIDE} pixels.")
        if not (is_number(line_width) and 0 < line_width <= 0.25):
            refuse(f"The line width is {line_width}; it must be above 0 and at most 0.25 of the picture.")
        ink, weight = even_lines(
            self.strokes, self.raster, aspect=self.aspect, size=(width, height), line_width=line_width
        )
        return SpatialMap(ink=ink, weight=weight)


def as_sketch(given: object) -> Sketch:
    """A drawing, or that in the file that is named. Raises a UsageError for anything else."""
    if isinstance(given, Sketch):
        return given
    if isinstance(given, str | Path):
        return Sketch.open(given)
    raise UsageError(
        f"A sketch is a Sketch or a file, not a {type(given).__name__}.",
        hint="Of a picture: Sketch.from_image(picture).",
        field="sketch",
    )


def holds_strokes(data: bytes) -> bool:
    """Whether a file of these bytes is SVG, ndjson or a saved sketch, gzipped or not, and no picture."""
    return data.startswith(_GZIP) or _first_letter(data) in (b"<", b"{")


def _first_letter(data: bytes) -> bytes:
    """The first byte that is no byte order mark, half of a UTF-16 letter or white space."""
    return data[:256].lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")[:1]


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
                    refuse(f"{name}, line {number} is not a JSON object.")
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
        refuse(f"{name} cannot be unpacked: {error}.")


def _loads(data: bytes) -> dict[str, Any] | None:
    """A JSON object, or None where the bytes are anything else."""
    if len(data) > 4 * _MAX_LINE_BYTES:
        return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
