from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import morphology
from skimage.measure import euler_number, label
from skimage.morphology import skeletonize

from drawings import drawn
from sketchguide.lines import Mask, covered, distance_to, round_pen, thin
from sketchguide.sketch import Sketch


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


def test_thick_ink_is_thinned_as_scikit_image_does() -> None:
    y, x = np.mgrid[:90, :110]
    away = np.hypot(x - 50, y - 45)
    ink = np.stack([away < 40, (away < 40) & (away > 18), (x < 70) & (y > 20), (x > 10) & (y < 60) & (away > 9)])
    thinned = thin(ink)
    for mine, given in zip(thinned, ink, strict=True):
        assert (mine == morphology.thin(np.pad(given, 1))[1:-1, 1:-1]).all()
    assert (thin(np.asfortranarray(ink[1])) == thinned[1]).all()
    assert (thin(ink[1].astype(np.uint8)) == thinned[1]).all()  # pyright: ignore[reportArgumentType]


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


def test_thinning_agrees_with_scikit_image_on_topology(cat: Sketch) -> None:
    mask = np.pad(np.asarray(drawn(cat, 200, width=5).convert("L")) < 128, 1)
    ours, theirs = thin(mask), skeletonize(mask)
    assert not (ours & ~mask).any()
    for count in (lambda lines: label(lines, connectivity=2).max(), lambda lines: euler_number(lines, connectivity=2)):
        assert count(ours) == count(theirs) == count(mask)
    assert ours.sum() == pytest.approx(theirs.sum(), rel=0.1)


def test_covered_counts_turns() -> None:
    square = np.array([[1.0, 1.0], [5.0, 1.0], [5.0, 5.0], [1.0, 5.0]])
    hole = square * 0.5 + 1.5
    inside = covered([square], grid=(6, 6))
    assert inside.sum() == 16
    assert inside[1:5, 1:5].all()
    assert covered([square, hole], grid=(6, 6)).sum() == 16
    assert covered([square, hole], grid=(6, 6), even_odd=True).sum() == 12
    assert covered([square, hole[::-1]], grid=(6, 6)).sum() == 12
    assert covered([square - 100], grid=(6, 6)).sum() == 0
    assert covered([(square - 3) * 100], grid=(6, 6)).all()


def test_reading_a_drawing_needs_neither_torch_nor_scipy_at_import() -> None:
    code = "import sys, sketchguide.sketch; print({'torch', 'scipy', 'fontTools'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"
