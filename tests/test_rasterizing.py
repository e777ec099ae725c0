import math
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage.measure import euler_number, label

from drawings import CIRCLE, LINE, difference, drawn, thickness
from sketchguide.errors import SketchError, UsageError
from sketchguide.lines import distance_to
from sketchguide.sketch import Sketch
from sketchguide.strokes import LINE_WIDTH, Stroke


@pytest.mark.parametrize("side", [64, 128, 512])
def test_default_lines_have_one_thickness_at_every_size(side: int) -> None:
    mapped = Sketch.from_strokes([[[0.1, 0.5], [0.9, 0.5]]]).rasterize(size=(side, side))
    assert mapped.ink.shape == mapped.weight.shape == (side, side)
    assert mapped.ink.dtype == np.float32
    assert mapped.ink[:, side // 2].sum() == pytest.approx(1.5 / 64 * side, rel=0.12)
    assert mapped.ink.max() > 0.85


@pytest.mark.parametrize("angle", [0, 0.3, 0.8, 1.2])
def test_thickness_does_not_depend_on_direction(angle: float) -> None:
    way = 0.35 * np.array([math.cos(angle), math.sin(angle)])
    mapped = Sketch.from_strokes([[0.5 - way, 0.5 + way]]).rasterize(size=(64, 64))
    assert mapped.ink.sum() / (0.7 * 64) == pytest.approx(1.55, rel=0.08)


def test_ends_are_round_and_dots_are_discs() -> None:
    mapped = Sketch.from_strokes([[[0.5, 0.5]]]).rasterize(size=(128, 128), line_width=0.2)
    assert mapped.ink.sum() == pytest.approx(math.pi * (0.1 * 128) ** 2, rel=0.05)


def test_lines_are_where_they_were_drawn() -> None:
    sketch = Sketch.from_strokes([[[0.25, 0.1], [0.25, 0.9]], [[0.1, 0.75], [0.9, 0.75]]])
    ink = sketch.rasterize(size=(64, 64)).ink
    columns, rows = ink[10:40].sum(axis=0), ink[:, 30:60].sum(axis=1)
    assert (columns * (np.arange(64) + 0.5)).sum() / columns.sum() == pytest.approx(16, abs=0.3)
    assert (rows * (np.arange(64) + 0.5)).sum() / rows.sum() == pytest.approx(48, abs=0.3)


def test_thin_pens_draw_at_least_a_pixel() -> None:
    ink = Sketch.from_strokes([[[0.1, 0.5], [0.9, 0.5]]]).rasterize(size=(64, 64), line_width=1e-6).ink
    assert ink[:, 32].sum() == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("size", [(64, 64), (256, 192)])
def test_a_map_with_widened_lines_is_that_of_a_wider_pen(size: tuple[int, int], cat: Sketch) -> None:
    drawn = cat.rasterize(size=size)
    assert drawn.widened(1) is drawn
    wide, wanted = drawn.widened(2).ink, cat.rasterize(size=size, line_width=2 * LINE_WIDTH).ink
    assert (wide >= drawn.ink).all()
    assert np.abs(wide - wanted).mean() < 0.25 * np.abs(drawn.ink - wanted).mean()
    with pytest.raises(UsageError, match="1 is the least"):
        drawn.widened(0.5)


def test_own_widths_are_kept() -> None:
    wide = Stroke(points=np.array([[0.1, 0.5], [0.9, 0.5]]), width=0.125)
    ink = Sketch(strokes=(wide,)).rasterize(size=(64, 64)).ink
    assert ink[:, 32].sum() == pytest.approx(8, rel=0.12)


@pytest.mark.parametrize("size", [(64, 64), (256, 64), (64, 256)])
def test_widths_keep_their_ratio_in_every_frame(size: tuple[int, int]) -> None:
    usual, wide = (
        Stroke(points=np.array([[y, 0.1], [y, 0.9]]), width=w) for y, w in ((0.25, None), (0.75, 2 * LINE_WIDTH))
    )
    row = Sketch(strokes=(usual, wide)).rasterize(size=size).ink[size[1] // 2]
    assert row[size[0] // 2 :].sum() == pytest.approx(2 * row[: size[0] // 2].sum(), rel=0.25)


def test_closed_strokes_close() -> None:
    corner = np.array([[0.2, 0.2], [0.8, 0.2], [0.8, 0.8]])
    opened = Sketch(strokes=(Stroke(points=corner),)).rasterize(size=(64, 64)).ink
    closed = Sketch(strokes=(Stroke(points=corner, closed=True),)).rasterize(size=(64, 64)).ink
    assert opened[32, 32] == 0
    assert closed[32, 32] == 1


@pytest.mark.parametrize(("size", "box"), [((96, 48), (24, 0, 72, 48)), ((48, 96), (0, 24, 48, 72))])
def test_a_square_canvas_is_letterboxed(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    frame = Stroke(points=np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]), closed=True)
    mapped = Sketch(strokes=(frame,)).rasterize(size=size)
    assert mapped.ink.shape == (size[1], size[0])
    rows, columns = np.nonzero(mapped.ink > 0.5)
    left, top, right, bottom = box
    expected = (left + 4.8, top + 4.8, right - 4.8, bottom - 4.8)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx(expected, abs=1.6)


def test_a_wide_canvas_keeps_its_aspect() -> None:
    image = Image.new("RGB", (300, 150), "white")
    ImageDraw.Draw(image).ellipse([90, 15, 210, 135], outline="black", width=4)
    strokes = Sketch.from_svg(
        f'<svg viewBox="0 0 300 150"><circle cx="150" cy="75" r="60" {LINE} stroke-width="4"/></svg>'
    )
    for sketch in (Sketch.from_image(image), strokes):
        assert sketch.aspect == 2
        for size in ((64, 64), (128, 64), (64, 128)):
            rows, columns = np.nonzero(sketch.rasterize(size=size).ink > 0.5)
            assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
            assert np.ptp(columns) == pytest.approx(0.4 * min(size[0], 2 * size[1]), abs=2.5)


def test_lines_on_the_edge_of_the_canvas_are_drawn() -> None:
    frame = Sketch.from_svg(
        '<svg viewBox="0 0 100 100"><rect width="100" height="100" fill="none" stroke="black"/></svg>'
    )
    ink = frame.rasterize(size=(64, 64)).ink
    assert min(ink[0].mean(), ink[-1].mean(), ink[:, 0].mean(), ink[:, -1].mean()) > 0.85
    dot = Sketch.from_strokes([[[1.0, 1.0]]]).rasterize(size=(64, 64))
    assert dot.ink[-1, -1] > 0.5


def test_what_lies_off_the_canvas_is_cut_at_its_edge() -> None:
    far = Sketch.from_strokes([[[-9e5, 0.5], [9e5, 0.5]], [[-2, -2], [-1, 3]], [[0.5, 7]]])
    near = Sketch.from_strokes([[[0, 0.5], [1, 0.5]]])
    size = (96, 64)
    assert np.array_equal(far.rasterize(size=size).ink, near.rasterize(size=size).ink)
    assert Sketch.from_strokes([[[2, 2], [3, 3]]]).rasterize(size=(64, 64)).blank


def test_slanted_lines_are_cut_where_they_leave() -> None:
    crossing = Sketch.from_strokes([[[-1, -0.5], [2, 1.5], [-1, 1.5]]]).rasterize(size=(64, 64))
    inside = Sketch.from_strokes([[[0, 1 / 6], [1, 5 / 6]]]).rasterize(size=(64, 64))
    assert difference(crossing, inside) < 0.02


def test_a_blank_sketch_is_a_blank_map() -> None:
    for sketch in (Sketch(), Sketch.from_image(Image.new("RGB", (40, 40), "white")), Sketch.from_svg("<svg/>")):
        assert sketch.rasterize(size=(32, 32)).blank


@pytest.mark.parametrize("size", [(0, 64), (64, 7), (5000, 64), (64.5, 64), (math.nan, 64), (math.inf, 64)])
def test_map_sizes_are_checked(size: Any) -> None:
    with pytest.raises(SketchError, match="8 to 4096"):
        Sketch().rasterize(size=size)


@pytest.mark.parametrize("line_width", [0, -1, 0.5, math.nan])
def test_line_widths_are_checked(line_width: float) -> None:
    with pytest.raises(SketchError, match="line width"):
        Sketch().rasterize(size=(64, 64), line_width=line_width)


def test_weights_spread_around_their_strokes() -> None:
    upper, lower = [[0.1, 0.25], [0.9, 0.25]], [[0.1, 0.75], [0.9, 0.75]]
    mapped = Sketch.from_strokes([upper, lower], weights=[3.0, 0.0]).rasterize(size=(64, 64))
    assert mapped.weight[16, 32] == pytest.approx(3, abs=0.05)
    assert mapped.weight[48, 32] == pytest.approx(0, abs=0.05)
    assert mapped.weight[32, 32] == 1
    assert 1 < mapped.weight[19, 32] < 3
    assert (Sketch.from_strokes([upper, lower]).rasterize(size=(64, 64)).weight == 1).all()
    with pytest.raises(SketchError, match="1 weights were given for 2"):
        Sketch.from_strokes([upper, lower], weights=[1.0])


def test_weights_off_the_canvas_bind_nothing() -> None:
    mapped = Sketch.from_strokes([[[2, 2], [3, 3]]], weights=[3.0]).rasterize(size=(64, 64))
    assert mapped.blank
    assert (mapped.weight == 1).all()


def test_where_strokes_cross_their_order_does_not_matter() -> None:
    across, down = [[0.1, 0.5], [0.9, 0.5]], [[0.5, 0.1], [0.5, 0.9]]
    one = Sketch.from_strokes([across, down], weights=[2.0, 0.5]).rasterize(size=(64, 64))
    other = Sketch.from_strokes([down, across], weights=[0.5, 2.0]).rasterize(size=(64, 64))
    assert one.weight[31:33, 31:33].max() > 1.5
    assert one.weight[16, 32] == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(one.weight, other.weight)


def test_thickness_of_the_drawing_does_not_matter(cat: Sketch) -> None:
    vector = cat.rasterize(size=(64, 64))
    maps = [Sketch.from_image(drawn(cat, width=width)).rasterize(size=(64, 64)) for width in (1, 3, 9)]
    for mapped in maps:
        assert difference(mapped, maps[1]) < 0.06
        assert difference(mapped, vector) < 0.09
        assert thickness(mapped) == pytest.approx(thickness(vector), rel=0.08)


@pytest.mark.parametrize("side", [64, 128, 512])
@pytest.mark.parametrize("width", [0.03, 0.05, 0.08])
def test_a_thick_pen_is_no_area(side: int, width: float) -> None:
    """A line of one thickness is read as one line, not as its two sides, and has no knots at its corners."""
    house = Sketch.from_strokes([[[0.2, 0.9], [0.2, 0.45], [0.5, 0.15], [0.8, 0.45], [0.8, 0.9], [0.2, 0.9]]])
    picture = drawn(house, side, width=side * width)
    read, meant = (sketch.rasterize(size=(128, 128)) for sketch in (Sketch.from_image(picture), house))
    assert read.ink.sum() == pytest.approx(meant.ink.sum(), rel=0.1)
    assert (read.ink > 0.5)[distance_to(meant.ink > 0.5) > 4].sum() == 0


def test_thin_lines_survive_being_shrunk_twenty_times(cat: Sketch) -> None:
    mapped = Sketch.from_image(drawn(cat, 1280, width=1)).rasterize(size=(64, 64))
    assert difference(mapped, cat.rasterize(size=(64, 64))) < 0.09


def test_small_pictures_can_be_enlarged(cat: Sketch) -> None:
    mapped = Sketch.from_image(drawn(cat, 128, width=2)).rasterize(size=(256, 256))
    assert difference(mapped, cat.rasterize(size=(256, 256))) < 0.15


def test_lines_stay_connected_and_loops_stay_loops() -> None:
    for width in (1, 4, 12):
        image = drawn(Sketch.from_strokes([CIRCLE, [[0.5, 0.05], [0.5, 0.95]]]), 300, width=width)
        binary = Sketch.from_image(image).rasterize(size=(64, 64)).ink > 0.4
        assert label(binary, connectivity=2).max() == 1
        assert euler_number(binary, connectivity=2) == -1


def test_solid_areas_become_outlines_and_dots_stay() -> None:
    image = Image.new("RGB", (400, 400), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse([40, 100, 240, 300], fill="black")
    draw.ellipse([320, 190, 334, 204], fill="black")
    ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink
    assert ink[32, 22] == 0
    assert ink[32, 5:9].max() == 1
    assert ink[28:34, 49:56].max() > 0.9


def test_a_solid_area_that_fills_the_picture_becomes_its_outline() -> None:
    image = Image.new("L", (256, 256), "white")
    ImageDraw.Draw(image).ellipse([2, 2, 253, 253], fill="black")
    y, x = np.mgrid[:64, :64] - 31.5
    radius = np.hypot(x, y)[Sketch.from_image(image).rasterize(size=(64, 64)).ink > 0.5]
    assert radius.min() > 28
    assert radius.max() < 34
