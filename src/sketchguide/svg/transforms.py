"""The transforms of SVG as matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Matrix:
    return np.array([[a, c, e], [b, d, f], [0, 0, 1]], dtype=np.float64)


def transformation(name: str, values: Sequence[float]) -> Matrix | None:
    """One SVG transform function, or None where the name or the number of values is wrong."""
    match name, list(values):
        case "matrix", [a, b, c, d, e, f]:
            return affine(a, b, c, d, e, f)
        case "translate", [x] | [x, _]:
            return affine(1, 0, 0, 1, x, values[1] if len(values) == 2 else 0)
        case "translateX", [x]:
            return affine(1, 0, 0, 1, x, 0)
        case "translateY", [y]:
            return affine(1, 0, 0, 1, 0, y)
        case "translate3d", [x, y, _]:
            return affine(1, 0, 0, 1, x, y)
        case (("translateZ" | "scaleZ"), [_]):
            return affine(1, 0, 0, 1, 0, 0)
        case "scale3d", [x, y, _]:
            return affine(x, 0, 0, y, 0, 0)
        case "scale", [x] | [x, _]:
            return affine(x, 0, 0, values[-1], 0, 0)
        case "scaleX", [x]:
            return affine(x, 0, 0, 1, 0, 0)
        case "scaleY", [y]:
            return affine(1, 0, 0, y, 0, 0)
        case (("rotate" | "rotateZ"), [degrees]):
            sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
            return affine(cosine, sine, -sine, cosine, 0, 0)
        case "rotate", [degrees, x, y]:
            turned = transformation("rotate", [degrees])
            return None if turned is None else affine(1, 0, 0, 1, x, y) @ turned @ affine(1, 0, 0, 1, -x, -y)
        case "skewX", [degrees]:
            return affine(1, 0, math.tan(math.radians(degrees)), 1, 0, 0)
        case "skewY", [degrees]:
            return affine(1, math.tan(math.radians(degrees)), 0, 1, 0, 0)
        case _:
            return None
