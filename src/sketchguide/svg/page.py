"""What becomes of shapes on the page: paper, lines of its colour, and lines that are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sketchguide.strokes import LINE_WIDTH, MAX_COORDINATE, Points, Stroke, fitted, in_reach, refuse
from sketchguide.svg.brushes import extent, is_brushed, rubs, unlined
from sketchguide.svg.hiding import seen
from sketchguide.svg.scanner import MAX_NUMBER, Box
from sketchguide.svg.shapes import Shape
from sketchguide.svg.styles import Colour

_WHOLE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
_PAINTED_PAGES = 50.0  # the area of all boxes around marks of brushes, in canvases
_MOST_OF_IT = 0.95  # of the canvas is enclosed by its paper
_MOST_HIDING = 200  # filled shapes of a drawing of which what they hide is looked for


@dataclass(frozen=True)
class Page:
    """The shapes on their canvas, points in canvas units, without the paper and what is painted in its colour."""

    drawn: tuple[Shape, ...]
    layers: tuple[tuple[Shape, bool], ...]  # marks of a brush and what is painted over them, and whether that is ink
    aspect: float  # width / height
    rubbed: int  # lines of the paper's colour
    outlined: int  # marks of a brush that are drawn as outlines, there being too many
    unseen: int  # shapes of which others leave nothing to be seen
    crowded: bool  # too many filled shapes to find what they hide

    @classmethod
    def of(cls, shapes: Sequence[Shape], *, canvas: Box | None, paper: Colour | None) -> Page:
        everything = [points for shape in shapes if not shape.whole for points, _ in shape.paths]
        if not all(in_reach(points, MAX_NUMBER) for points in everything):
            refuse("The SVG drawing has coordinates that are not finite or absurdly large.")
        aspect = 1.0
        if canvas is not None:
            left, top, width, height = canvas
            units, aspect = [(points - (left, top)) / (width, height) for points in everything], width / height
        else:
            units, aspect = fitted(everything, square=False) if everything else ([], 1.0)
        if not all(in_reach(points, MAX_COORDINATE) for points in units):
            refuse("The SVG drawing has a coordinate that lies absurdly far off the canvas.")
        placed = iter(units)
        shapes = [
            replace(shape, paths=tuple((_WHOLE if shape.whole else next(placed), closed) for _, closed in shape.paths))
            for shape in shapes
        ]
        # A line that nobody gave a pen is filled, which shows nothing; alone it was meant to be seen.
        shapes = [s for s in shapes if s.width or not all(_is_straight(points) for points, _ in s.paths)] or shapes
        drawn: list[Shape] = []
        layers: list[tuple[Shape, bool]] = []
        bare, room, outlined = True, _PAINTED_PAGES, 0
        over = _PAINTED_PAGES
        for shape in shapes:
            if shape.weight == 1 and shape.fill_colour not in (None, paper):
                shape = unlined(shape, aspect, unit=None if canvas is None else canvas[3])
            if shape.width is None or (shape.line_colour is not None and shape.line_colour == shape.fill_colour):
                paths = tuple(path for path in shape.paths if not is_paper(path[0]))
                if not paths:
                    paper = shape.fill_colour
                    continue
                shape = replace(shape, paths=paths)
            if shape.width is None:
                if bare and shape.fill_colour == paper is not None:
                    continue  # on bare paper its own colour shows nothing
                bare = False
            if shape.weight == 1 and is_brushed(shape, aspect):
                if (taken := extent(shape)) <= room:
                    room -= taken
                    layers.append((shape, shape.fill_colour != paper or paper is None or not rubs(shape, layers)))
                    continue
                outlined += 1
            if layers and shape.fill_colour is not None and (taken := extent(shape)) <= over:
                over -= taken
                layers.append((shape, False))
            drawn.append(shape)
        rubbing = [
            shape.width is not None and shape.line_colour == paper is not None and shape.fill_colour in (None, paper)
            for shape in drawn
        ]
        if all(rubbing) and not layers:  # light lines whose dark paper was not saved, or the other way round
            rubbing = [False] * len(drawn)
        shown = [shape for shape, rubs in zip(drawn, rubbing, strict=True) if not rubs]
        crowded = sum(shape.fill_colour is not None for shape in shown) > _MOST_HIDING
        remaining = shown if crowded else seen(shown, paper)
        return cls(
            tuple(remaining),
            tuple(layers),
            aspect,
            sum(rubbing),
            outlined,
            unseen=len(shown) - len(remaining),
            crowded=crowded,
        )

    def strokes(self, usual: float) -> tuple[Stroke, ...]:
        most = 4.0 if usual > 0 else 3.0  # who says the usual width means the others, as the page's pen does
        usual = usual if usual > 0 else _usual_width(self.drawn)
        return tuple(
            Stroke(
                points=points,  # pyright: ignore[reportArgumentType]
                width=_own_width(shape.width, usual, most),
                weight=shape.weight,
                closed=closed,
            )
            for shape in self.drawn
            for points, closed in shape.paths
        )

    def told(self) -> Iterator[str]:
        if self.rubbed:
            yield (
                f"{self.rubbed} line(s) of the SVG drawing have the colour of its paper and are not drawn. What they "
                "rub out stays: a PNG of the drawing has it as it looks."
            )
        if self.unseen:
            yield (
                f"{self.unseen} shape(s) of the SVG drawing are not drawn: they lie behind others, or on their own "
                'colour. What is meant as an outline needs fill="none".'
            )
        if self.crowded and not self.outlined:
            yield (
                "The SVG drawing has too many filled shapes to find what they hide: all of it is drawn. A PNG of the "
                "drawing has it as it looks."
            )
        if self.outlined:
            yield (
                f"{self.outlined} brush mark(s) of the SVG drawing give their outlines, not their centre lines: there "
                "are too many. A PNG of the drawing gives the lines."
            )


def is_paper(points: Points) -> bool:
    """An outline that runs along the edges of the canvas, or outside them, on all four sides."""
    low, high = points.min(axis=0), points.max(axis=0)
    on_edge = ((points <= 0.01) | (points >= 0.99)).any(axis=1)
    around = bool((low <= 0.01).all() and (high >= 0.99).all() and on_edge.all())
    return around and _area(points.clip(0, 1)) > _MOST_OF_IT  # not a triangle with its corners there


def _area(points: Points) -> float:
    """That an outline encloses."""
    (x, y), (after_x, after_y) = points.T, np.roll(points, -1, axis=0).T
    return abs(float(x @ after_y - y @ after_x)) / 2


def _is_straight(points: Points) -> bool:
    """Whether all points lie on one line, so that a fill shows nothing."""
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(spread[-1] <= 1e-6 * spread[0]) or len(points) < 3


def _usual_width(shapes: Sequence[Shape]) -> float:
    """The line width that half of the drawn length has at most: a pen that feels pressure never repeats one."""
    lengths: dict[float, float] = {}
    for shape in shapes:
        if shape.width:
            length = sum(float(np.hypot(*np.diff(points, axis=0).T).sum()) for points, _ in shape.paths)
            lengths[shape.width] = lengths.get(shape.width, 0.0) + length
    widths = sorted(lengths)
    drawn = np.cumsum([lengths[width] for width in widths])
    return widths[int(np.searchsorted(drawn, drawn[-1] / 2))] if widths else 1.0


def _own_width(width: float | None, usual: float, most: float) -> float | None:
    """A width as its ratio to the usual one, 1/3 to `most`; None (the default line) where it hardly differs."""
    if not width or abs(width / usual - 1) < 0.1:
        return None
    return LINE_WIDTH * min(max(width / usual, 1 / 3), most)
