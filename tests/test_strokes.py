import math
from typing import Any

import numpy as np
import pytest

from sketchguide.errors import SketchError
from sketchguide.strokes import Stroke


@pytest.mark.parametrize(
    "points",
    [
        [],
        [[1, 2, 3]],
        [1, 2],
        [[0, math.nan]],
        [[math.inf, 0]],
        [["0", "1"]],
        [[True, False]],
        [[0, 1], [2]],
        [[1e9, 0]],
        [[10**400, 0]],
        None,
    ],
)
def test_strokes_need_finite_points(points: Any) -> None:
    with pytest.raises(SketchError):
        Stroke(points=points)


@pytest.mark.parametrize("width", [0, -1, 0.3, math.nan, True, "1"])
def test_stroke_widths_are_checked(width: Any) -> None:
    with pytest.raises(SketchError, match="width"):
        Stroke(points=np.zeros((2, 2)), width=width)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, 1e6, None])
def test_stroke_weights_are_checked(weight: Any) -> None:
    with pytest.raises(SketchError, match="weight"):
        Stroke(points=np.zeros((2, 2)), weight=weight)
