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
from PIL import Image, ImageDraw

from sketchguide.defaults import Polarity
from sketchguide.errors import SketchError, UsageError, warn
from sketchguide.images import (
    MAX_PIXELS,
    MAX_SIDE,
    MIN_SIDE,
    Paper,
    as_rgb,
    channel_extremes,
    from_base64,
    from_grey,
    open_image,
    read_file,
    to_base64,
    to_grey,
)
from sketchguide.lines import Mask, distance_to, rim, round_pen, thin
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
    refuse,
    with_margin,
)
from sketchguide.svg import read_svg

_MAX_LINE_BYTES = 4_000_000
_MAX_MAP_SIDE = 4096
_MAX_RASTER_SIDE = 1024
_RULED = 0.06  # darkness of the faintest line that rules a page
_SLANT = 0.09  # rows per column, 5 degrees, by which its lines may be turned
_SPECK = 0.015  # of the longer side: smaller is dirt, if it lies alone
_GRAINY = 12  # times the paper's grain: fainter lines need it smoothed
_SMOOTH = 2.0  # cells, standard deviation by which it is
_SPECKS = 12  # that are left in a grainy picture: more are hardly meant
_EDGE = 0.03  # of the page: a thinner mark at its edge is a scanner's
_COLOURED = 0.06  # of the longer side: what is wider is no line where colours are
_FOREIGN = MappingProxyType({"appState": "Excalidraw", "tldrawFileFormatVersion": "tldraw"})
PAPER_OF: Mapping[Polarity, Paper] = MappingProxyType({"dark-on-light": "white", "light-on-dark": "black"})


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
        height, width = self.ink.shape
        fine = _fineness(width, height)
        lines = np.asarray(Image.fromarray(self.ink).resize((width * fine, height * fine), Image.Resampling.BILINEAR))
        wider = (factor - 1) * LINE_WIDTH * max(lines.shape)
        ink = round_pen(distance_to(lines >= 0.5), width=wider + 1)  # 1: from the middle of a cell
        return replace(self, ink=np.maximum(self.ink, _pooled(ink.astype(np.float32), fine)))


@dataclass(frozen=True, eq=False)
class Sketch:
    """A drawing: strokes, a raster of ink, or both, on a canvas of a given aspect.

    Attributes:
        strokes: the lines, in drawing order.
        raster: (H, W) float32 ink in [0, 1], each side 16 to 8192 and at most 32 million pixels, or None; stretched
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
        colours only that of the paper counts, which a filled shape that covers the canvas has, and white is without
        one: what is painted in it is no ink. Every other visible line is; a shape without a line gives its outline, a
        long and narrow one, such as the mark of a brush, its centre line. Clips and masks are not applied. The line
        width met most is the default line, others keep their ratio to it. `data-weight="0.5"` on an element or group is
        the weight of its strokes (and the mark of a brush gives its outline then). The canvas is the viewBox, else
        width and height, else what is drawn.

        Raises:
            SketchError: not well-formed, larger than 10 MB, over 200,000 points or 64 levels; a DOCTYPE with
                declarations, script, event handler or link to another file; `image` or `foreignObject`; a size that is
                zero, huge or not a number.
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
        low, high = channel_extremes(image)
        found = polarity == "auto"
        dark = not _light_on_dark(0.5 * low + 0.5 * high) if found else polarity == "dark-on-light"
        ink, unclear = _ink(1 - low if dark else high)
        if not ink.any():  # paper of a strong colour is as dark in one channel as ink, or as light
            grey = to_grey(image)
            dark = not _light_on_dark(grey) if found else dark
            ink, unclear = _ink(1 - grey if dark else grey)
            if found and not ink.any():  # where light falls off, dark paper can look like ink
                dark = not dark
                ink, unclear = _ink(1 - grey if dark else grey)
        ink = _lines_on_colours(image, ink, dark=dark)
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
        return cls(raster=ink, aspect=image.width / image.height)

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
            raster = _reduced(raster, max(around.max() / MAX_SIDE, math.sqrt(around.prod() / MAX_PIXELS)))
            rows, columns = (max(MIN_SIDE, int(side)) for side in raster.shape / shrunk[::-1] + 0.5)
            raster = _middle(raster, (min(rows, MAX_SIDE), min(columns, MAX_SIDE)))
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
        parts = [part for stroke in self.strokes for part in _on_the_page(stroke)]
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
        corners: list[NDArray[Any]] = [part.points * page for stroke in self.strokes for part in _on_the_page(stroke)]
        if self.raster is not None and (box := _extent(self.raster)) is not None:
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
        strokes = [part for stroke in self.strokes for part in _on_the_page(stroke)]
        low, high = box
        canvas = with_margin(high - low)
        start = (low + high - canvas) / 2
        if raster is not None:
            cells = raster.shape[::-1] / page
            left, top = (int(place) for place in np.round(start * cells))
            columns, rows = (max(MIN_SIDE, round(side)) for side in canvas * cells)
            raster = _window(raster, (top, left), (rows, columns))
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
        fine = _fineness(width, height)
        grid = (height * fine, width * fine)
        canvas_width = max(1, round(min(grid[1], grid[0] * self.aspect)))
        canvas_height = max(1, round(min(grid[0], grid[1] / self.aspect)))
        canvas = (canvas_height, canvas_width)
        pen = max(fine, line_width * max(grid))

        pens: dict[float, list[Stroke]] = {}
        for stroke in self.strokes:
            own = pen if stroke.width is None else max(fine, stroke.width * max(grid))
            pens.setdefault(pen * _step(own / pen), []).append(stroke)
        lines = {own: _drawn(strokes, canvas=canvas) >= 0 for own, strokes in pens.items()}
        if self.raster is not None:
            lines[pen] = lines.get(pen, np.zeros(canvas, np.bool_)) | _centre_lines(self.raster, canvas=canvas)

        ink = np.zeros(grid, dtype=np.float32)
        for own, mask in lines.items():
            distance = distance_to(_placed(mask, grid, blank=False))
            np.maximum(ink, round_pen(distance, width=own), out=ink)
        if any(stroke.weight != 1 for stroke in self.strokes):
            weights = _drawn(sorted(self.strokes, key=lambda stroke: stroke.weight), canvas=canvas)
            weight = _spread(_placed(weights, grid, blank=-1.0), reach=pen)
        else:
            weight = np.ones(grid, dtype=np.float32)
        return SpatialMap(ink=_pooled(ink, fine), weight=_pooled(weight, fine))


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


def looks_drawn(image: Image.Image) -> bool:
    """Whether a picture is a drawing: colourless, almost all of it paper of one tone, with some ink on it."""
    low, high = channel_extremes(image)
    grey = (low + high) / 2
    away = np.abs(grey - np.median(grey))
    colour, paper, ink = (float(np.mean(where)) for where in (high - low > 0.2, away < 0.1, away > 0.25))
    return colour < 0.01 and paper > 0.6 and 0.001 < ink < 0.35


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


# ---- from a picture to ink


def _light_on_dark(lightness: NDArray[Any]) -> bool:
    """Border and area vote: paper reaches the border, and there is more paper than ink. A dark border alone is a frame.
    A few pixels that are brighter or darker than both have no say.
    """
    low, high = np.quantile(lightness, (0.0005, 0.9995))
    if high - low < 0.1:
        low, high = lightness.min(), lightness.max()
    dark = lightness < (low + high) / 2
    edge = max(1, min(dark.shape) // 50)
    inner = dark[edge:-edge, edge:-edge]
    border = (dark.sum() - inner.sum()) / (dark.size - inner.size)
    return bool(dark.mean() > 0.4 and 0.4 * border + 0.6 * dark.mean() > 0.5)


def _ink(marks: NDArray[Any]) -> tuple[Float, bool]:
    """(H, W) darkness of a drawing on light paper -> ink in [0, 1]: paper is 0, however lit, and a full line is 1; and
    whether that is uncertain, since the paper is as grainy as the lines are dark.
    """
    reduced = _reduced(marks, max(marks.shape) / _MAX_RASTER_SIDE)
    marks = _evened(reduced)
    full = _full_line(marks, least=0.06)
    if full <= 0.08:
        return np.zeros_like(marks), False
    if full >= _GRAINY * _grain(reduced):
        return (marks / full).clip(0, 1), False
    return _ink_on_grain(reduced)


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
    labels, boxes = _parts(ink > 0.3)
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

    small = _reduced(ink, max(ink.shape) / 256) > 0.3
    broad = max(3, round(0.025 * max(small.shape)))
    broadly: Mask = np.asarray(ndimage.binary_opening(small, np.ones((broad, broad))), bool)
    return bool(rim(broadly).mean() > 0.2 or (not dark and broadly.mean() > 0.5))


def _reduced(marks: NDArray[Any], shrink: float) -> NDArray[Any]:
    """Marks (H, W) at 1 / `shrink` of their size, if that is above 1, thin lines kept."""
    from scipy import ndimage

    if shrink <= 1:
        return marks
    if shrink >= 1.5:
        marks = np.asarray(ndimage.maximum_filter(marks, size=round(shrink)))
    height, width = (max(MIN_SIDE, round(side / shrink)) for side in marks.shape)
    return np.asarray(Image.fromarray(marks).resize((width, height), Image.Resampling.BOX))


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
    coarse = _reduced(page, max(page.shape) / 256)
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
        marks = _reduced(marks, max(marks.shape) / _MAX_RASTER_SIDE)
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


def _marked(ink: NDArray[Any]) -> Mask:
    """Where there is a line: certain ink, and the fainter ink that touches it."""
    from scipy import ndimage

    labels = np.empty(ink.shape, np.int32)
    ndimage.label(ink > 0.3, structure=np.ones((3, 3)), output=labels)
    certain = np.unique(labels[ink > 0.5])
    return np.isin(labels, certain[certain > 0])


def _parts(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Connected parts of a mask (H, W): their numbers, from 1, in its cells, and the boxes (N, 2 corners, x and y)."""
    from scipy import ndimage

    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, structure=np.ones((3, 3)), output=labels)
    found = [[(one.start, one.stop) for one in (across, down)] for down, across in ndimage.find_objects(labels)]
    return labels, np.array(found, np.float64).reshape(-1, 2, 2).transpose(0, 2, 1)


def _step(ratio: float) -> float:
    """Pens come in steps of a fifth, so that a thousand different widths cost no more than a dozen."""
    return 1.2 ** round(math.log(ratio, 1.2))


def _fineness(width: int, height: int) -> int:
    """Grid cells per pixel on either axis, for a map of that size."""
    return max(1, min(4, 1024 // max(width, height)))


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
            for segment in _clipped(points, limit=(width, height)):
                draw.line(_cells(segment, (width, height)), fill=weight)
    return np.asarray(picture)


def _cells(points: Points, limit: tuple[int, int]) -> list[float]:
    """x and y of the cells that points lie in; the far edges of the canvas belong to its last cells."""
    return np.where(points == limit, np.array(limit) - 1, np.floor(points)).ravel().tolist()


def _clipped(points: Points, *, limit: tuple[int, int]) -> NDArray[np.float64]:
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


def _on_the_page(stroke: Stroke) -> list[Stroke]:
    """The parts of a stroke that are drawn."""
    points = stroke.points.astype(np.float64)
    if ((points >= 0) & (points <= 1)).all():
        return [stroke]
    parts: list[list[NDArray[np.float64]]] = []
    for start, end in _clipped(np.concatenate([points, points[:1]]) if stroke.closed else points, limit=(1, 1)):
        if parts and np.allclose(parts[-1][-1], start, rtol=0, atol=1e-9):
            parts[-1].append(end)
        else:
            parts.append([start, end])
    return [replace(stroke, points=frozen(np.array(part)), closed=False) for part in parts]


def _extent(ink: Float) -> NDArray[np.float64] | None:
    """Two corners (x, y) of the box around what is drawn, in cells, without what is taken for dirt; None of nothing."""
    _, boxes = _parts(_marked(ink))
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


def _placed(canvas: NDArray[Any], grid: tuple[int, int], *, blank: float) -> NDArray[Any]:
    """The canvas in the middle of a larger grid (height, width)."""
    page = np.full(grid, blank, dtype=canvas.dtype)
    top, left = (grid[0] - canvas.shape[0]) // 2, (grid[1] - canvas.shape[1]) // 2
    page[top : top + canvas.shape[0], left : left + canvas.shape[1]] = canvas
    return page


def _middle(values: Float, sides: tuple[int, int]) -> Float:
    """A raster (H, W) in the middle of a larger one with these `sides`, blank around it."""
    top, left = (int((old - new) / 2) for old, new in zip(values.shape, sides, strict=True))
    return _window(values, (top, left), sides)


def _window(values: Float, corner: tuple[int, int], sides: tuple[int, int]) -> Float:
    """The part of a raster (H, W) of these `sides` whose first row and column `corner` is; blank where it has none."""
    top, left = corner
    page = np.zeros(sides, values.dtype)
    within = values[max(top, 0) : top + sides[0], max(left, 0) : left + sides[1]]
    below, beside = max(-top, 0), max(-left, 0)
    page[below : below + within.shape[0], beside : beside + within.shape[1]] = within
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
