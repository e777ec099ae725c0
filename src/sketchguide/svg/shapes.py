"""The basic shapes and paths of SVG as polylines."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

import numpy as np

from sketchguide.errors import SketchError
from sketchguide.strokes import MAX_POINTS, Points
from sketchguide.svg.scanner import NUMBER, Point, Scanner, Size
from sketchguide.svg.styles import Colour
from sketchguide.svg.transforms import Matrix

_QUARTER = 4 / 3 * (math.sqrt(2) - 1)  # where the control points of a cubic Bézier quarter circle lie
_COMMAND = re.compile(r"([MmZzLlHhVvCcSsQqTtAa])")
_VALUE = f"({NUMBER.pattern})"
_ARC = re.compile(r"[\s,]*+".join(["", *[_VALUE] * 3, "([01])", "([01])", *[_VALUE] * 2]))


@dataclass(frozen=True, eq=False)
class Shape:
    """The subpaths of one element, each with whether it is closed; `width` is None for a shape without a line.

    A colour is None where there is none, or none that can be told.
    """

    paths: tuple[tuple[Points, bool], ...]
    width: float | None
    weight: float
    line_colour: Colour | None
    fill_colour: Colour | None
    even_odd: bool
    whole: bool  # covers a page whose size nobody knows


class Pen:
    """Turns path commands into polylines in root coordinates. Its methods have the names of fontTools pens."""

    def __init__(
        self, matrix: Matrix, *, tolerance: float | None, room: int, refuse: Callable[[str], NoReturn]
    ) -> None:
        self.matrix = matrix
        self.tolerance = tolerance
        self.room = room
        self.refuse = refuse
        self.pieces: list[Points] = []
        self.paths: list[tuple[Points, bool]] = []

    def add(self, points: Points) -> None:
        self.room -= len(points)
        if self.room < 0:
            self.refuse(f"there are more than {MAX_POINTS} points.")
        self.pieces.append(points)

    def mapped(self, *points: Point) -> Points:
        return np.array(points, dtype=np.float64).reshape(-1, 2) @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def cuts(self, error: float) -> Points:
        """The parameters (N, 1), the last one 1, at which to cut a curve that a single chord would miss by `error`."""
        pieces = 24 if self.tolerance is None else math.sqrt(min(error / self.tolerance, 1e6))
        return np.linspace(0, 1, int(np.clip(pieces, 1, 128)) + 1)[1:, None]

    def moveTo(self, point: Point) -> None:  # noqa: N802
        self.endPath()
        self.add(self.mapped(point))

    def lineTo(self, point: Point) -> None:  # noqa: N802
        self.add(self.mapped(point))

    def curveTo(self, first: Point, second: Point, end: Point) -> None:  # noqa: N802
        p0, (p1, p2, p3) = self.pieces[-1][-1], self.mapped(first, second, end)
        # the chords of n pieces are off by at most |B''| / (8 n²), and |B''| is at most six times these
        bend = float(np.abs([p0 - 2 * p1 + p2, p1 - 2 * p2 + p3]).max())
        t = self.cuts(0.75 * bend)
        s = 1 - t
        self.add(s**3 * p0 + 3 * s * s * t * p1 + 3 * s * t * t * p2 + t**3 * p3)

    def qCurveTo(self, control: Point, end: Point) -> None:  # noqa: N802
        p0 = self.pieces[-1][-1]
        p1, p2 = self.mapped(control, end)
        bend = float(np.abs(p0 - 2 * p1 + p2).max())
        t = self.cuts(0.25 * bend)
        s = 1 - t
        self.add(s * s * p0 + 2 * s * t * p1 + t * t * p2)

    def closePath(self) -> None:  # noqa: N802
        self.finish(closed=True)

    def endPath(self) -> None:  # noqa: N802
        self.finish(closed=False)

    def finish(self, *, closed: bool) -> None:
        """The end of a subpath; one that goes nowhere is not drawn."""
        if sum(map(len, self.pieces)) > 1 or (self.pieces and closed):
            self.paths.append((np.concatenate(self.pieces), closed))
        self.pieces = []

    def polyline(self, points: Sequence[Point], *, closed: bool) -> None:
        if points:
            self.add(self.mapped(*points))
            self.finish(closed=closed)


def _path(values: Mapping[str, str], _viewport: Size, pen: Pen, scan: Scanner) -> None:
    from fontTools.svgLib.path.parser import parse_path

    data = values.get("d", "").strip()
    scan.check_list(data)
    try:
        parse_path(_plain_path(data, scan), pen)
    except SketchError:
        raise
    except Exception as error:  # the parser promises no particular error
        scan.refuse(f"the path data {data[:40]!r} cannot be read: {str(error)[:80]}.")


def _plain_path(data: str, scan: Scanner) -> str:
    """Path data with its values apart and in the plainest form: fontTools passes over what it does not know, reads
    neither "5." nor "05", and draws nothing for an arc without a radius, which is a line.
    """
    before, *parts = _COMMAND.split(data)
    plain = [repr(number) for number in scan.numbers(before)]
    for command, text in zip(parts[::2], parts[1::2], strict=True):
        if command not in "Aa":
            plain += [command, *map(repr, scan.numbers(text))]
            continue
        at, text = 0, text.strip(" ,\t\r\n")
        while at < max(1, len(text)):
            arc = _ARC.match(text, at)
            if arc is None:
                scan.refuse(f"{text[at : at + 40]!r} are not the seven values of an arc.")
            at = arc.end()
            rx, ry, turn = (repr(number) for number in scan.numbers(" ".join(arc.groups()[:3])))
            end = [repr(number) for number in scan.numbers(" ".join(arc.groups()[5:]))]
            if float(rx) and float(ry):
                plain += [command, rx, ry, turn, arc[4], arc[5], *end]
            else:
                plain += ["L" if command == "A" else "l", *end]
    return " ".join(plain)


def _line(values: Mapping[str, str], viewport: Size, pen: Pen, scan: Scanner) -> None:
    x1, y1, x2, y2 = scan.lengths(values, "x1 y1 x2 y2", viewport)
    pen.polyline([(x1, y1), (x2, y2)], closed=False)


def _polyline(values: Mapping[str, str], _viewport: Size, pen: Pen, scan: Scanner) -> None:
    pen.polyline(_corners(values, scan), closed=False)


def _polygon(values: Mapping[str, str], _viewport: Size, pen: Pen, scan: Scanner) -> None:
    pen.polyline(_corners(values, scan), closed=True)


def _corners(values: Mapping[str, str], scan: Scanner) -> list[Point]:
    numbers = scan.numbers(values.get("points", ""))
    if len(numbers) % 2:
        scan.refuse("`points` has an odd number of values.")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _rect(values: Mapping[str, str], viewport: Size, pen: Pen, scan: Scanner) -> None:
    x, y, width, height = scan.lengths(values, "x y width height", viewport)
    given = {name: values[name] for name in ("rx", "ry") if values.get(name, "auto") != "auto"}
    given = {"rx": given.get("ry", "0"), "ry": given.get("rx", "0")} | given
    rx, ry = scan.lengths(given, "rx ry", viewport)
    if width < 0 or height < 0 or rx < 0 or ry < 0:
        scan.refuse("a rectangle has a negative size.")
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


def _circle(values: Mapping[str, str], viewport: Size, pen: Pen, scan: Scanner) -> None:
    cx, cy, r = scan.lengths(values, "cx cy r", viewport)
    _add_ellipse(cx, cy, r, r, pen, scan)


def _ellipse(values: Mapping[str, str], viewport: Size, pen: Pen, scan: Scanner) -> None:
    cx, cy, rx, ry = scan.lengths(values, "cx cy rx ry", viewport)
    _add_ellipse(cx, cy, rx, ry, pen, scan)


def _add_ellipse(cx: float, cy: float, rx: float, ry: float, pen: Pen, scan: Scanner) -> None:
    if rx < 0 or ry < 0:
        scan.refuse("a circle or ellipse has a negative radius.")
    if rx == 0 or ry == 0:
        return
    kx, ky = _QUARTER * rx, _QUARTER * ry
    pen.moveTo((cx + rx, cy))
    pen.curveTo((cx + rx, cy + ky), (cx + kx, cy + ry), (cx, cy + ry))
    pen.curveTo((cx - kx, cy + ry), (cx - rx, cy + ky), (cx - rx, cy))
    pen.curveTo((cx - rx, cy - ky), (cx - kx, cy - ry), (cx, cy - ry))
    pen.curveTo((cx + kx, cy - ry), (cx + rx, cy - ky), (cx + rx, cy))
    pen.closePath()


TRACERS: Mapping[str, Callable[[Mapping[str, str], Size, Pen, Scanner], None]] = MappingProxyType(
    {
        "path": _path,
        "line": _line,
        "polyline": _polyline,
        "polygon": _polygon,
        "rect": _rect,
        "circle": _circle,
        "ellipse": _ellipse,
    }
)
"""What draws a shape of that name, by its attributes and the viewport they are in."""
