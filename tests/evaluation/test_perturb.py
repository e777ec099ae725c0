from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from sketchguide.errors import UsageError
from sketchguide.evaluation.perturb import PERTURBATIONS, perturb, with_gaps
from sketchguide.sketch import Sketch, SpatialMap

SIZE = (64, 64)
LINE = Sketch.from_strokes([[(0.1, 0.5), (0.9, 0.5)]])
SQUARE = Sketch.from_strokes([[(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2)]])
FORMS = ("strokes", "map")


@cache
def drawn(sketch: Sketch) -> SpatialMap:
    return sketch.rasterize(size=SIZE)


def spoilt(sketch: Sketch, kind: str, form: str, *, seed: int = 0) -> SpatialMap:
    if form == "strokes":
        return perturb(sketch, kind, size=SIZE, seed=seed)
    return perturb(drawn(sketch), kind, seed=seed)


def thickness(drawing: SpatialMap) -> float:
    """Mean ink of the columns in the middle of `LINE`, in pixels."""
    return float(drawing.ink[:, 20:44].sum(axis=0).mean())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", sorted(PERTURBATIONS))
def test_maps_keep_size_range_and_seed(kind: str, form: str) -> None:
    first, again = (spoilt(SQUARE, kind, form, seed=3) for _ in range(2))
    assert first.ink.shape == (64, 64)
    assert first.ink.min() >= 0
    assert first.ink.max() <= 1
    assert np.array_equal(first.ink, again.ink)
    others = [np.array_equal(first.ink, spoilt(SQUARE, kind, form, seed=k).ink) for k in range(4, 8)]
    assert all(others) if kind in ("thick", "thin", "inverted") else not all(others)
    assert not np.array_equal(first.ink, drawn(SQUARE).ink)


@pytest.mark.parametrize("form", FORMS)
def test_thick_and_thin_lines_have_the_stated_thickness(form: str) -> None:
    assert thickness(drawn(LINE)) == pytest.approx(1.5, abs=0.1)
    assert thickness(spoilt(LINE, "thick", form)) == pytest.approx(3.75, abs=0.3)
    assert thickness(spoilt(LINE, "thin", form)) == pytest.approx(1, abs=0.1)


def test_thick_and_thin_keep_the_ratio_of_own_widths() -> None:
    own = Sketch(strokes=tuple(type(s)(points=s.points, width=4 / 64) for s in LINE.strokes))
    assert thickness(perturb(own, "thick", size=SIZE)) == pytest.approx(10, rel=0.1)
    assert thickness(perturb(own, "thin", size=(192, 192))) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_broken_lines_lose_a_third_in_gaps_of_six_pixels(form: str) -> None:
    # The round ends of the pen fill 1.5 px of each gap between strokes; gaps cut from a map have no ends.
    filled = 1.5 / 64 if form == "strokes" else 0
    fractions, gaps = [], []
    for seed in range(40):
        line = spoilt(LINE, "broken", form, seed=seed).ink[30:34].max(axis=0)[8:56] >= 0.5
        fractions.append(1 - line.mean())
        ends = np.flatnonzero(np.diff(line.astype(int)))
        gaps += [b - a for a, b in pairwise(ends) if not line[a + 1]]
        assert line.any()
    assert np.mean(gaps) / 64 == pytest.approx(6 / 64 - filled, abs=1.1 / 64)
    assert 0.2 < np.mean(fractions) < 0.42


def length(points: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(np.diff(points.astype(np.float64), axis=0), axis=1).sum())


def test_broken_strokes_lose_a_third_of_their_length() -> None:
    zigzag = np.array([(0.1 + 0.8 * (k % 2), 0.02 + 0.96 * k / 40) for k in range(41)])
    (whole,) = Sketch.from_strokes([zigzag], weights=[2]).strokes
    parts = with_gaps(whole, np.ones(2), np.random.default_rng(0))
    assert sum(length(part.points) for part in parts) / length(whole.points) == pytest.approx(2 / 3, abs=0.03)
    assert len(parts) == pytest.approx(length(whole.points) / (18 / 64), rel=0.1)
    assert {part.weight for part in parts} == {2}
    corners = {tuple(point) for point in whole.points.tolist()}
    kept = [point for part in parts for point in part.points[1:-1].tolist()]
    assert {tuple(point) for point in kept} <= corners
    assert len(kept) == pytest.approx(2 / 3 * 41, abs=6)


def test_broken_keeps_what_is_shorter_than_a_gap_and_never_all_paper() -> None:
    short = Sketch.from_strokes([[(0.5, 0.5), (0.55, 0.5)], [(0.2, 0.2)]])
    for form in FORMS:
        for seed in range(10):
            assert spoilt(short, "broken", form, seed=seed).ink.max() > 0.5
    assert np.array_equal(perturb(short, "broken", size=SIZE).ink, drawn(short).ink)


def test_broken_breaks_a_closed_stroke_along_its_last_side_too() -> None:
    (stroke,) = SQUARE.strokes
    closed = Sketch(strokes=(type(stroke)(points=stroke.points[:-1], closed=True),))
    assert np.array_equal(drawn(closed).ink, drawn(SQUARE).ink)
    assert np.array_equal(perturb(closed, "broken", size=SIZE).ink, perturb(SQUARE, "broken", size=SIZE).ink)


def test_broken_lengths_do_not_depend_on_the_aspect_of_the_canvas() -> None:
    for aspect, size in ((2.0, (128, 64)), (0.5, (64, 128))):
        for along in ([(0.1, 0.5), (0.9, 0.5)], [(0.5, 0.1), (0.5, 0.9)]):
            gaps: list[int] = []
            for seed in range(8):
                ink = perturb(Sketch.from_strokes([along], aspect=aspect), "broken", size=size, seed=seed).ink
                line = ink.max(axis=0 if along[0][1] == 0.5 else 1) >= 0.5
                ends = np.flatnonzero(np.diff(line.astype(int)))
                gaps += [b - a for a, b in pairwise(ends) if not line[a + 1]]
            assert np.mean(gaps) == pytest.approx(12 - 3, abs=1)  # less the ends of the pen


@pytest.mark.parametrize("form", FORMS)
def test_gaps_of_a_square_sketch_in_a_wide_map_are_measured_by_the_map(form: str) -> None:
    whole = LINE.rasterize(size=(128, 64))  # the line has 51 of the 128 pixels
    gaps: list[int] = []
    for seed in range(20):
        spoilt_line = perturb(LINE if form == "strokes" else whole, "broken", size=(128, 64), seed=seed)
        line = spoilt_line.ink.max(axis=0) >= 0.5
        ends = np.flatnonzero(np.diff(line.astype(int)))
        gaps += [b - a for a, b in pairwise(ends) if not line[a + 1]]
    filled = 3 if form == "strokes" else 0  # by the ends of the pen
    assert np.mean(gaps) == pytest.approx(12 - filled, abs=1.5)


@pytest.mark.parametrize("form", FORMS)
def test_shifted_maps_are_the_drawing_two_pixels_on(form: str) -> None:
    clean = drawn(SQUARE).ink
    moves = {(0, 2), (0, -2), (2, 0), (-2, 0)}
    seen = set()
    for seed in range(20):
        ink = spoilt(SQUARE, "shifted", form, seed=seed).ink
        seen |= {move for move in moves if np.array_equal(ink, np.roll(clean, move, axis=(0, 1)))}
    assert seen == moves
    assert perturb(SQUARE, "shifted", size=(256, 256)).ink.sum() == drawn_sum(256)


def drawn_sum(side: int) -> float:
    return float(SQUARE.rasterize(size=(side, side)).ink.sum())


def test_shifted_brings_in_paper_and_takes_the_weight_along() -> None:
    weight = np.full((16, 64), 2.0, np.float32)
    weight[:, 0] = 5
    edge = SpatialMap(np.ones((16, 64), np.float32), weight)
    for seed in range(20):
        moved = perturb(edge, "shifted", seed=seed)
        paper = moved.ink == 0
        assert paper.sum() in (2 * 16, 2 * 64)
        assert (moved.weight[paper] == 1).all()
        if paper[:, :2].all():
            assert (moved.weight[:, 2] == 5).all()
            return
    pytest.fail("never shifted to the right")


@pytest.mark.parametrize("form", FORMS)
def test_inverted_is_one_minus_ink(form: str) -> None:
    assert np.allclose(spoilt(SQUARE, "inverted", form).ink, 1 - drawn(SQUARE).ink)


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 192)])
def test_stray_strokes_are_added_and_nothing_is_lost(size: tuple[int, int]) -> None:
    blank = SpatialMap(*(np.full((size[1], size[0]), value, np.float32) for value in (0, 1)))
    pen = 1.5 * max(size) / 64
    inked = [float(perturb(blank, "stray", seed=seed).ink.sum()) for seed in range(20)]
    # Four strokes of 16/64 on average with a round end of the pen on either side
    assert np.mean(inked) == pytest.approx(4 * (16 / 64 * min(size) * pen + math.pi / 4 * pen**2), rel=0.12)
    clean = SQUARE.rasterize(size=size)
    ink = perturb(SQUARE, "stray", size=size, seed=1).ink
    assert (ink >= clean.ink).all()
    assert np.array_equal(ink, np.maximum(clean.ink, perturb(blank, "stray", seed=1).ink))


def test_a_sketch_with_a_raster_is_changed_as_its_map() -> None:
    raster = Sketch(raster=LINE.rasterize(size=(128, 128)).ink, strokes=SQUARE.strokes)
    expected = perturb(drawn(raster), "broken", seed=1)
    assert np.array_equal(perturb(raster, "broken", size=SIZE, seed=1).ink, expected.ink)


def test_weights_and_kind_stay() -> None:
    weight = np.linspace(0, 2, 64 * 64, dtype=np.float32).reshape(64, 64)
    heavy = SpatialMap(drawn(SQUARE).ink, weight)
    for kind in set(PERTURBATIONS) - {"shifted"}:
        spoiled = perturb(heavy, kind, seed=1)
        assert np.array_equal(spoiled.weight, weight)
    (stroke,) = SQUARE.strokes
    heavy_strokes = Sketch(strokes=(type(stroke)(points=stroke.points, weight=3),))
    assert perturb(heavy_strokes, "broken", size=SIZE).weight.max() == 3


@pytest.mark.parametrize("kind", sorted(PERTURBATIONS))
def test_blank_drawings_do_not_fail(kind: str) -> None:
    for form in FORMS:
        blank = spoilt(Sketch(), kind, form)
        assert (blank.ink.max() == 0) == (kind not in ("inverted", "stray"))


def test_refused() -> None:
    with pytest.raises(UsageError, match="thick, thin, broken, shifted, inverted, stray"):
        perturb(LINE, "torn", size=SIZE)
    with pytest.raises(UsageError, match="size of its own"):
        perturb(LINE, "thick")
    with pytest.raises(UsageError, match="64x64"):
        perturb(drawn(LINE), "thick", size=(32, 32))
