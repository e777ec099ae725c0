from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import morphology

from sketchguide.lines import Mask, distance_to, round_pen, thin


def blobs(*shape: int) -> Mask:
    field = ndimage.gaussian_filter(
        np.random.default_rng(0).standard_normal(shape), [0] * (len(shape) - 2) + [1.5, 1.5]
    )
    return field > 0.1


@pytest.mark.parametrize("shape", [(30, 47), (3, 20, 31), (2, 2, 16, 16)])
def test_each_picture_is_thinned_as_scikit_image_does(shape: tuple[int, ...]) -> None:
    ink = blobs(*shape)
    given = ink.copy()
    thinned = thin(ink)
    assert (ink == given).all()
    assert 0 < thinned.sum() < ink.sum()
    for picture in np.ndindex(shape[:-2]):
        assert (thinned[picture] == morphology.thin(np.pad(ink[picture], 1))[1:-1, 1:-1]).all()


def test_ink_that_leaves_one_picture_does_not_touch_the_next() -> None:
    assert (thin(np.ones((2, 9, 9), np.bool_)) == thin(np.ones((9, 9), np.bool_))).all()


def test_distance_is_that_of_each_picture_and_defined_without_ink() -> None:
    ink = np.zeros((3, 8, 10), np.bool_)
    ink[0, 0, 0] = ink[2, 7, 9] = True
    rows, columns = np.indices((8, 10))
    distance = distance_to(ink)
    assert distance[0] == pytest.approx(np.hypot(rows, columns))
    assert (distance[1] == 18).all()
    assert distance[2] == pytest.approx(np.hypot(7 - rows, 9 - columns))
    assert (distance_to(ink[0]) == distance[0]).all()


def test_the_pen_is_round_and_falls_off_over_one_cell() -> None:
    distance = np.array([0, 1, 1.5, 2, 3])
    assert round_pen(distance, width=3).tolist() == [1, 1, 0.5, 0, 0]
    assert round_pen(torch.from_numpy(distance), width=3).tolist() == [1, 1, 0.5, 0, 0]


def test_reading_a_drawing_needs_neither_torch_nor_scipy_at_import() -> None:
    code = "import sys, sketchguide.sketch; print({'torch', 'scipy', 'fontTools'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"
