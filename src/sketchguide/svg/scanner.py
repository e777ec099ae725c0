"""The values of SVG attributes: lengths, lists of numbers, transforms and boxes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NoReturn
from xml.parsers import expat

import numpy as np

from sketchguide.strokes import MAX_POINTS, refuse
from sketchguide.svg.transforms import Matrix, transformation

MAX_NUMBER = 1e9
MAX_TEXT = 5_000
_MAX_ELEMENTS = 100_000
_MAX_LIST = 3_000_000
_MAX_CANVAS = 1e6

NUMBER = re.compile(r"[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?+")
_LENGTH = re.compile(rf"\s*({NUMBER.pattern})\s*([a-zA-Z%]*)\s*")
_TRANSFORM = re.compile(r"([a-zA-Z]+(?:3d)?) ?\(([^()]*)\)")
_UNIT = re.compile(r"(?<=[\d.])(?:px|deg)\b")
_ANGLE = re.compile(rf"({NUMBER.pattern})(turn|grad|rad)\b")
_DEGREES = {"turn": 360.0, "grad": 0.9, "rad": 180 / math.pi}
_ORIGINS = {"left": "0%", "top": "0%", "center": "50%", "right": "100%", "bottom": "100%"}
_METRIC = {"cm": 96 / 2.54, "mm": 9.6 / 2.54, "q": 2.4 / 2.54}
_OF_FONT = {"em": 16.0, "rem": 16.0, "ex": 8.0, "ch": 8.0}
_UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "in": 96.0, **_METRIC, **_OF_FONT}

Point = tuple[float, float]
Size = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, width, height


class Scanner:
    """Reads the values of a document's attributes. A refusal names the line at which the parser is."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.parser = parser
        self.counted = 0

    def refuse(self, message: str, *, hint: str = "") -> NoReturn:
        refuse(f"The SVG drawing, line {self.parser.CurrentLineNumber}: {message}", hint=hint)

    def count(self, more: int) -> None:
        """Adds to the elements, rules and transforms that were met; refuses too many."""
        self.counted += more
        if self.counted > _MAX_ELEMENTS:
            self.refuse(f"there are more than {_MAX_ELEMENTS} elements or rules.", hint="Simplify the drawing first.")

    def length(self, text: str, whole: float) -> float:
        """A CSS length in pixels; a percentage is of `whole`."""
        match = _LENGTH.fullmatch(text[:MAX_TEXT])
        unit = match[2].lower() if match else "?"
        factor = whole / 100 if unit == "%" else _UNITS.get(unit)
        if match is None or factor is None or abs(float(match[1])) > MAX_NUMBER:
            units = ", ".join([*filter(None, _UNITS), "%"])
            self.refuse(f"{text[:40]!r} is not a length: a number, alone or with one of {units}.")
        return float(match[1]) * factor

    def lengths(self, values: Mapping[str, str], names: str, viewport: Size) -> list[float]:
        """Several lengths, 0 where missing; percentages of the width, the height, or (radii) the diagonal."""
        wholes = dict.fromkeys(["x", "x1", "x2", "cx", "rx", "width"], viewport[0])
        wholes |= dict.fromkeys(["y", "y1", "y2", "cy", "ry", "height"], viewport[1])
        wholes["r"] = diagonal(viewport)
        return [self.length(values.get(name, "0"), wholes[name]) for name in names.split()]

    def origin(self, text: str, viewport: Size) -> Point:
        """The point that a transform leaves where it is."""
        words = text.split()[:2]
        if words and (words[0] in ("top", "bottom") or words[-1] in ("left", "right")):
            words.reverse()
        across, down = [_ORIGINS.get(word, word) for word in [*words, "center", "center"][:2]]
        return self.length(across, viewport[0]), self.length(down, viewport[1])

    def check_list(self, text: str) -> None:
        if len(text) > _MAX_LIST:
            self.refuse(f"there are more than {MAX_POINTS} points.", hint="Simplify the drawing first.")

    def numbers(self, text: str) -> list[float]:
        self.check_list(text)
        found = [float(number) for number in NUMBER.findall(text)]
        if NUMBER.sub("", text).strip(" ,\t\r\n") or any(abs(number) > MAX_NUMBER for number in found):
            self.refuse(f"{text[:40]!r} is not a list of numbers.")
        return found

    def transform(self, text: str) -> Matrix:
        if len(text) > MAX_TEXT:
            self.refuse("a transform is longer than any drawing needs.")
        text = " ".join(text.split())  # long blanks would take cubic time
        matrix = np.eye(3)
        if _TRANSFORM.sub("", text).strip(" ,\t\r\n") not in ("", "none"):
            self.refuse(f"the transform {text[:40]!r} cannot be read.")
        for name, inner in _TRANSFORM.findall(text):
            self.count(1)
            inner = _ANGLE.sub(lambda angle: repr(float(angle[1]) * _DEGREES[angle[2]]), inner)
            step = transformation(name, self.numbers(_UNIT.sub("", inner)))
            if step is None:
                self.refuse(f"the transform {name[:20]}({inner[:40]}) is unknown or has the wrong number of values.")
            matrix = matrix @ step
        return matrix

    def box(self, text: str) -> Box:
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


def diagonal(viewport: Size) -> float:
    """What percentages that belong to neither axis are of."""
    return math.hypot(*viewport) / math.sqrt(2)
