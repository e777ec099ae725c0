import contextlib
import gzip
import json
import math
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from scipy.ndimage import distance_transform_edt
from skimage.measure import euler_number, label
from skimage.morphology import skeletonize

from sketchguide.defaults import Polarity
from sketchguide.errors import SketchError, SketchguideWarning, UsageError
from sketchguide.lines import covered, distance_to, thin
from sketchguide.sketch import LINE_WIDTH, MAX_POINTS, Sketch, SpatialMap, Stroke, read_ndjson

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "sketches"
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 100 100">{}</svg>'
)
LINE = 'fill="none" stroke="black"'
CIRCLE = np.stack([0.5 + 0.3 * np.cos(np.linspace(0, 6.2, 80)), 0.5 + 0.3 * np.sin(np.linspace(0, 6.2, 80))], axis=1)


def svg(body: str) -> Sketch:
    return Sketch.from_svg(SVG.format(body))


def drawn(
    sketch: Sketch, size: int = 512, *, width: float = 3, ink: Any = "black", paper: Any = "white"
) -> Image.Image:
    """The sketch as somebody's drawing program would save it, with lines of `width` pixels."""
    big = Image.new("RGB", (2 * size, 2 * size), paper)
    draw = ImageDraw.Draw(big)
    for stroke in sketch.strokes:
        points = [tuple(point) for point in (stroke.points * 2 * size).tolist()]
        draw.line(points, fill=ink, width=round(2 * width), joint="curve")
        for x, y in points:
            draw.ellipse([x - width, y - width, x + width, y + width], fill=ink)
    return big.resize((size, size), Image.Resampling.BOX)


def difference(one: SpatialMap, other: SpatialMap) -> float:
    """Ink that only one of two maps has, as a share of the ink that each has."""
    return float(np.abs(one.ink - other.ink).sum() / (one.ink.sum() + other.ink.sum()))


def thickness(mapped: SpatialMap) -> float:
    """Ink per pixel of centre line."""
    return float(mapped.ink.sum() / skeletonize(mapped.ink > 0.5).sum())


def same(one: Sketch, other: Sketch) -> bool:
    return one.to_json() == other.to_json()


# -- strokes and maps


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


def test_strokes_and_maps_cannot_be_changed() -> None:
    stroke = Stroke(points=np.zeros((2, 2)))
    mapped = Sketch(strokes=(stroke,)).rasterize(size=(16, 16))
    for array in (stroke.points, mapped.ink, mapped.weight):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_maps_are_checked() -> None:
    page = np.zeros((8, 8), np.float32)
    for ink, weight in ((page - 1, page), (page + 2, page), (page, page - 1), (page, page[:4]), (page * np.nan, page)):
        with pytest.raises(SketchError):
            SpatialMap(ink=ink, weight=weight)
    assert SpatialMap(ink=page, weight=page + 5).blank
    assert not SpatialMap(ink=page + 0.5, weight=page).blank


@pytest.mark.parametrize("aspect", [0, -1, math.nan, math.inf, 33, 0.01, "1", None])
def test_the_canvas_cannot_be_absurdly_long(aspect: Any) -> None:
    with pytest.raises(SketchError):
        Sketch(aspect=aspect)


def test_rasters_are_checked() -> None:
    page = np.zeros((32, 32), np.float32)
    for raster in (page + 2, page - 1, page * np.nan, page[0], page[:8], np.zeros((32, 9000), np.float32)):
        with pytest.raises(SketchError):
            Sketch(raster=raster)


def test_too_many_points_in_all() -> None:
    half = np.zeros((MAX_POINTS // 2 + 1, 2))
    with pytest.raises(SketchError, match="at most 200000"):
        Sketch.from_strokes([half, half])


# -- rasterising


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


def test_a_name_that_is_no_text_is_kept_as_far_as_it_can_be(tmp_path: Path) -> None:
    file = tmp_path / "caf\udce9.svg"
    try:
        file.write_text('<svg viewBox="0 0 9 9"><path d="M1 1L8 8" stroke="black"/></svg>')
    except (OSError, UnicodeError):
        pytest.skip("this file system holds names that are text alone")
    assert Sketch.open(file).name == "caf?"


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


# -- pictures


@pytest.fixture(scope="module")
def cat() -> Sketch:
    return Sketch.open(EXAMPLES / "cat.svg")


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


@pytest.mark.parametrize(("ink", "paper"), [("black", "white"), ("white", "black"), (90, 150), ("yellow", "white")])
def test_polarity_is_detected(cat: Sketch, ink: Any, paper: Any) -> None:
    colours = [(colour,) * 3 if isinstance(colour, int) else colour for colour in (ink, paper)]
    mapped = Sketch.from_image(drawn(cat, 256, ink=colours[0], paper=colours[1])).rasterize(size=(64, 64))
    assert difference(mapped, cat.rasterize(size=(64, 64))) < 0.09


@pytest.mark.parametrize("pair", [("yellow", "blue"), ("yellow", "red"), ("cyan", "blue"), ("lime", "red")])
def test_of_pure_colours_the_lighter_and_the_darker_can_be_ink(cat: Sketch, pair: tuple[str, str]) -> None:
    for ink, paper in (pair, pair[::-1]):
        mapped = Sketch.from_image(drawn(cat, 256, ink=ink, paper=paper)).rasterize(size=(64, 64))
        assert difference(mapped, cat.rasterize(size=(64, 64))) < 0.09


@pytest.mark.parametrize(("ink", "paper", "stray"), [(25, 115, 255), (230, 140, 0), (90, 150, 255), (150, 90, 0)])
def test_a_stray_pixel_does_not_turn_a_drawing_over(cat: Sketch, ink: int, paper: int, stray: int) -> None:
    image = drawn(cat, 256, ink=(ink,) * 3, paper=(paper,) * 3)
    image.putpixel((3, 200), (stray,) * 3)
    assert difference(Sketch.from_image(image).rasterize(size=(64, 64)), cat.rasterize(size=(64, 64))) < 0.09


@pytest.mark.parametrize(
    ("ink", "paper"), [((30, 30, 30), (250, 220, 40)), ((20, 20, 20), (255, 140, 0)), ((255, 255, 255), (0, 0, 255))]
)
def test_ink_on_coloured_paper_is_read(cat: Sketch, ink: Any, paper: Any) -> None:
    mapped = Sketch.from_image(drawn(cat, 256, ink=ink, paper=paper)).rasterize(size=(64, 64))
    assert difference(mapped, cat.rasterize(size=(64, 64))) < 0.09


def test_pictures_are_taken_as_files_are(cat: Sketch) -> None:
    """Upright, and 16 bits a pixel as what they mean."""
    grey = np.asarray(drawn(cat, 256).convert("L")).astype(np.uint16)
    deep = Image.fromarray(20000 + grey * 117)
    assert difference(Sketch.from_image(deep).rasterize(size=(64, 64)), cat.rasterize(size=(64, 64))) < 0.09
    sideways = Image.new("RGB", (100, 50), "white")
    sideways.getexif()[274] = 6
    assert Sketch.from_image(sideways).aspect == 0.5


@pytest.mark.parametrize("dark_share", [0.45, 0.6])
def test_a_large_silhouette_is_not_taken_for_paper(dark_share: float) -> None:
    half = 100 * math.sqrt(dark_share)
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).rectangle([100 - half, 100 - half, 100 + half, 100 + half], fill="black")
    ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink
    assert ink[32, 32] == 0
    assert ink[32, 32 - round(half * 0.32) - 1 :][:3].max() > 0.8


@pytest.mark.parametrize("width", [5, 16])
def test_a_dark_frame_does_not_turn_a_drawing_over(cat: Sketch, width: int) -> None:
    image = drawn(cat, 256)
    ImageDraw.Draw(image).rectangle([0, 0, 255, 255], outline="black", width=width)
    with pytest.warns(SketchguideWarning, match="crop") if width > 5 else contextlib.nullcontext():
        ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink[6:58, 6:58]
    assert np.abs(ink - cat.rasterize(size=(64, 64)).ink[6:58, 6:58]).mean() < 0.03


def test_a_table_that_cannot_be_told_from_the_drawing_is_warned_of() -> None:
    """The corner of something dark beside the sheet, and no whole sheet."""
    photo = Image.new("RGB", (400, 300), (230, 228, 222))
    draw = ImageDraw.Draw(photo)
    draw.polygon([(0, 0), (300, 0), (180, 90), (90, 120), (60, 300), (0, 300)], fill=(60, 45, 35))
    draw.ellipse((200, 120, 330, 250), outline=(40, 40, 50), width=3)
    with pytest.warns(SketchguideWarning, match="crop the picture to the sheet"):
        Sketch.from_image(photo)


def test_polarity_can_be_forced() -> None:
    image = Image.new("RGB", (100, 100), "white")
    ImageDraw.Draw(image).rectangle([4, 4, 95, 95], fill="black")
    ImageDraw.Draw(image).line([20, 50, 80, 50], fill="white", width=3)
    maps = {"dark-on-light": Sketch.from_image(image, polarity="dark-on-light").rasterize(size=(64, 64))}
    with pytest.warns(SketchguideWarning, match="read as a shape of the drawing"):  # the white around the black
        maps["light-on-dark"] = Sketch.from_image(image, polarity="light-on-dark").rasterize(size=(64, 64))
    assert maps["light-on-dark"].ink[32, 32] == 1
    assert maps["dark-on-light"].ink[20, 32] == 0
    assert not np.array_equal(maps["light-on-dark"].ink, maps["dark-on-light"].ink)
    with pytest.raises(SketchError, match="Polarity"):
        Sketch.from_image(image, polarity="inverted")  # type: ignore[arg-type]


def test_a_photographed_pencil_drawing(cat: Sketch) -> None:
    clean = np.asarray(drawn(cat, 400, width=2).convert("L")) / 255
    y, x = np.mgrid[-1:1:400j, -1:1:400j]
    light = 0.7 - 0.2 * x - 0.12 * y
    shot = light * (0.6 + 0.4 * clean) + np.random.default_rng(0).normal(0, 0.015, clean.shape)
    image = Image.fromarray((shot.clip(0, 1) * 255).astype(np.uint8))
    assert difference(Sketch.from_image(image).rasterize(size=(64, 64)), cat.rasterize(size=(64, 64))) < 0.1


def grainy(cat: Sketch, *, contrast: float, noise: float, dots: int = 0) -> Image.Image:
    """600 x 600: the cat in pencil, and dots twice as wide as its lines, on paper that is lit from one side."""
    page = drawn(cat, 600, width=4)
    for row, column in islice(np.ndindex(10, 10), dots):
        x, y = 20 + 60 * column, 10 + 22 * row
        ImageDraw.Draw(page).ellipse([x, y, x + 8, y + 8], fill="black")
    y, x = np.mgrid[-1:1:600j, -1:1:600j]
    light = 0.6 - 0.15 * x - 0.1 * y
    shot = light * (1 - contrast + contrast * np.asarray(page.convert("L")) / 255)
    shot += np.random.default_rng(0).normal(0, noise, shot.shape)
    return Image.fromarray((shot.clip(0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize(("contrast", "noise"), [(0.25, 0.03), (0.2, 0.02), (0.5, 0.08)])
def test_grain_is_not_read_as_specks(cat: Sketch, contrast: float, noise: float) -> None:
    found = Sketch.from_image(grainy(cat, contrast=contrast, noise=noise)).rasterize(size=(64, 64))
    assert difference(found, cat.rasterize(size=(64, 64))) < 0.1


def test_dots_on_grainy_paper_are_kept_and_many_are_told(cat: Sketch) -> None:
    for dots, warned in ((8, False), (40, True)):
        told = pytest.warns(SketchguideWarning, match="hardly be told from its grain")
        with told if warned else contextlib.nullcontext():
            found = Sketch.from_image(grainy(cat, contrast=0.4, noise=0.03, dots=dots))
        clean = Sketch.from_image(grainy(cat, contrast=0.4, noise=0, dots=dots))
        assert difference(found.rasterize(size=(64, 64)), clean.rasterize(size=(64, 64))) < 0.1


def test_lines_fainter_than_the_grain_are_told(cat: Sketch) -> None:
    with pytest.warns(SketchguideWarning, match="hardly be told from its grain"):
        assert Sketch.from_image(grainy(cat, contrast=0.04, noise=0.05)).rasterize(size=(64, 64)).blank


def photo(cat: Sketch, light: NDArray[np.float64], *, width: int = 4) -> Image.Image:
    """The cat on paper that `light` (400, 400) falls on."""
    clean = np.asarray(drawn(cat, 400, width=width).convert("L")) / 255
    return Image.fromarray((light * (0.2 + 0.8 * clean) * 255).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("depth", [0.85, 0.7, 0.6])
@pytest.mark.parametrize("edge", [0.005, 0.05, 0.2])
def test_a_shadow_from_the_edge_hides_nothing(cat: Sketch, depth: float, edge: float) -> None:
    y, x = np.mgrid[0:1:400j, 0:1:400j]
    expected = cat.rasterize(size=(64, 64))
    for away in (x + y - 1, np.hypot(x - 1, y - 1) - 0.6):  # over half of the page, and a hand in the corner
        light = depth + (1 - depth) / (1 + np.exp(-away / edge))
        assert difference(Sketch.from_image(photo(cat, light)).rasterize(size=(64, 64)), expected) < 0.1


def test_a_dark_shape_that_bleeds_off_the_page_is_no_shadow() -> None:
    image = Image.new("L", (400, 400), 255)
    ImageDraw.Draw(image).ellipse([100, 200, 300, 500], fill=60)
    ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink
    assert ink[31:34, 32].max() > 0.5  # its outline
    assert ink[45, 32] == 0


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(("width", "turned"), [(2, 0), (6, 0), (4, 0.3), (4, -1.5), (4, 4)])
def test_the_lines_of_ruled_paper_are_no_drawing(cat: Sketch, *, squared: bool, width: int, turned: float) -> None:
    image = Image.new("RGB", (400, 400), "white")
    draw = ImageDraw.Draw(image)
    for at in range(10, 400, 20):
        draw.line([0, at, 400, at], fill=(190, 215, 240))
        if squared:
            draw.line([at, 0, at, 400], fill=(190, 215, 240))
    image = image.rotate(turned, Image.Resampling.BICUBIC, fillcolor="white")
    image.paste(
        drawn(cat, 400, width=width), mask=Image.eval(drawn(cat, 400, width=width).convert("L"), lambda v: 255 - v)
    )
    expected = cat.rasterize(size=(64, 64))
    assert difference(Sketch.from_image(image).rasterize(size=(64, 64)), expected) < 0.1


@pytest.mark.parametrize("turned", [0, 1])
def test_a_line_that_is_drawn_along_the_ruling_stays_and_the_ruling_goes(turned: float) -> None:
    image = Image.new("L", (400, 400), 255)
    for at in range(10, 400, 20):
        ImageDraw.Draw(image).line([0, at, 400, at], fill=210)
    image = image.rotate(turned, Image.Resampling.BICUBIC, fillcolor=255)
    ImageDraw.Draw(image).line([20, 190, 380, 190], fill=20, width=4)
    ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink
    assert ink[29:32, 5:59].max(axis=0).min() > 0.5
    assert not ink[:28].any()
    assert not ink[34:].any()


def house(size: int, *, coloured: bool) -> Image.Image:
    """Lines, or lines around areas of colour."""
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    for colour, corners in (
        ((250, 220, 90), [(0.2, 0.45), (0.8, 0.45), (0.8, 0.9), (0.2, 0.9)]),
        ((220, 60, 50), [(0.2, 0.45), (0.5, 0.15), (0.8, 0.45)]),
        ((120, 180, 240), [(0.28, 0.55), (0.42, 0.55), (0.42, 0.7), (0.28, 0.7)]),
    ):
        points = [(x * size, y * size) for x, y in corners]
        if coloured:
            draw.polygon(points, fill=colour)
        draw.line([*points, *points[:2]], fill="black", width=size // 80, joint="curve")
    return image


@pytest.mark.parametrize("size", [200, 512, 1500])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_drawing_that_was_coloured_in_is_its_lines(size: int, *, inverted: bool) -> None:
    turn: Callable[[Image.Image], Image.Image] = ImageOps.invert if inverted else Image.Image.copy
    expected = Sketch.from_image(turn(house(size, coloured=False))).rasterize(size=(64, 64))
    assert difference(Sketch.from_image(turn(house(size, coloured=True))).rasterize(size=(64, 64)), expected) < 0.1


def test_a_colour_without_a_line_is_read_as_its_edge_beside_those_that_have_lines() -> None:
    image = house(512, coloured=True)
    ImageDraw.Draw(image).ellipse([10, 10, 110, 110], fill=(250, 180, 0))
    ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink
    assert ink[7, 0:4].max() > 0.5
    assert ink[7, 12:16].max() > 0.5
    assert ink[5:10, 5:10].max() == 0
    assert ink[40, 26:28].max() > 0.5  # the window


def test_lines_that_are_drawn_across_the_page_stay() -> None:
    image = Image.new("L", (400, 400), 255)
    for at in range(50, 400, 60):
        ImageDraw.Draw(image).line([0, at, 400, at], fill=40, width=4)
    assert (Sketch.from_image(image).rasterize(size=(64, 64)).ink[:, 32] > 0.5).sum() >= 6


@pytest.mark.parametrize(
    "colour", [(255, 255, 255), (250, 250, 250), (245, 245, 240), (255, 240, 150), (200, 200, 200)]
)
@pytest.mark.parametrize("polarity", ["auto", "light-on-dark"])
def test_light_lines_on_nothing_are_seen(tmp_path: Path, colour: tuple[int, int, int], polarity: Polarity) -> None:
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse([40, 40, 160, 160], outline=colour, width=4)
    image.save(tmp_path / "ring.png")
    for sketch in (Sketch.from_image(image, polarity=polarity), Sketch.open(tmp_path / "ring.png", polarity=polarity)):
        ink = sketch.rasterize(size=(64, 64)).ink
        assert ink[12:15, 32].max() > 0.5
        assert ink[32, 32] == 0


@pytest.mark.parametrize("polarity", ["auto", "dark-on-light", "light-on-dark"])
def test_pictures_without_contrast_are_blank(polarity: Polarity) -> None:
    for colour in ("white", "black", (128, 120, 130)):
        image = Image.new("RGB", (64, 64), colour)
        assert Sketch.from_image(image, polarity=polarity).rasterize(size=(64, 64)).blank


def test_noise_is_not_ink() -> None:
    noise = np.random.default_rng(0).normal(0.9, 0.02, (200, 200)).clip(0, 1)
    image = Image.fromarray((noise * 255).astype(np.uint8))
    assert Sketch.from_image(image).rasterize(size=(64, 64)).blank


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


def test_long_pictures_are_refused() -> None:
    with pytest.raises(SketchError, match="times as wide as high"):
        Sketch.from_image(Image.new("RGB", (2000, 20), "white"))


def test_thinning_agrees_with_scikit_image_on_topology(cat: Sketch) -> None:
    mask = np.pad(np.asarray(drawn(cat, 200, width=5).convert("L")) < 128, 1)
    ours, theirs = thin(mask), skeletonize(mask)
    assert not (ours & ~mask).any()
    for count in (lambda lines: label(lines, connectivity=2).max(), lambda lines: euler_number(lines, connectivity=2)):
        assert count(ours) == count(theirs) == count(mask)
    assert ours.sum() == pytest.approx(theirs.sum(), rel=0.1)


# -- Quick, Draw!


def test_quickdraw_is_centred_with_a_margin() -> None:
    sketch = Sketch.from_quickdraw({"word": "axe", "drawing": [[[0, 255], [0, 100]], [[10], [20], [0.5]]]})
    points = np.concatenate([stroke.points for stroke in sketch.strokes])
    assert sketch.name == "axe"
    assert sketch.aspect == 1
    assert points.min(axis=0) == pytest.approx([0.08, 0.5 - 0.42 * 100 / 255], abs=1e-6)
    assert points.max(axis=0) == pytest.approx([0.92, 0.5 + 0.42 * 100 / 255], abs=1e-6)
    dot = Sketch.from_quickdraw({"drawing": [[[7], [9]]]})
    assert dot.strokes[0].points.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    "drawing",
    [
        None,
        [],
        "x",
        [[]],
        [7],
        [[1, 2]],
        [[[], []]],
        [[[1, 2], [1]]],
        [[[1, "2"], [1, 2]]],
        [[["1"], ["2"]]],
        [[[math.nan], [1]]],
        [[[10**400], [1]]],
        [[[True], [False]]],
        [[[None], [1]]],
        [{"x": [1], "y": [1]}],
    ],
)
def test_bad_drawings_are_refused(drawing: Any) -> None:
    with pytest.raises(SketchError, match="Quick, Draw!"):
        Sketch.from_quickdraw({"drawing": drawing})


GOOD = json.dumps({"word": "line", "recognized": True, "drawing": [[[0, 255], [0, 255]]]})
POOR = json.dumps({"word": "blot", "recognized": False, "drawing": [[[0, 9], [0, 5]]]})


@pytest.mark.parametrize("suffix", ["ndjson", "ndjson.gz"])
def test_ndjson_is_read_line_by_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"some.{suffix}"
    data = f"{GOOD}\n\n{POOR}\n{GOOD}".encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert [sketch.name for sketch in read_ndjson(path)] == ["line", "blot", "line"]
    assert [sketch.name for sketch in read_ndjson(path, recognized_only=True)] == ["line", "line"]
    with pytest.warns(SketchguideWarning, match="several drawings"):
        assert Sketch.open(path).name == "line"


@pytest.mark.parametrize(
    "bad", ["{", "[1]", '{"word": "x"}', '{"drawing": [[[NaN], [1]]]}', "[" * 100_000, '{"drawing": 3', "\ud800"]
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "some.ndjson"
    path.write_bytes(f"{GOOD}\n{POOR}\n{bad}\n".encode("utf-8", "surrogatepass"))
    sketches = read_ndjson(path)
    assert len(list(islice(sketches, 2))) == 2
    with pytest.raises(SketchError, match=r"some\.ndjson, line 3"):
        next(sketches)


def test_unreadable_ndjson_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "cut.ndjson.gz"
    broken.write_bytes(gzip.compress(f"{GOOD}\n".encode() * 500)[:-20])
    for path in (broken, tmp_path / "none.ndjson", tmp_path):
        with pytest.raises(SketchError, match="cannot be read"):
            list(read_ndjson(path))


# -- saved sketches


def test_json_loses_nothing(cat: Sketch) -> None:
    rng = np.random.default_rng(0)
    strokes = tuple(
        Stroke(points=rng.normal(0.5, 0.3, (9, 2)), width=width, weight=weight, closed=closed)
        for width, weight, closed in ((None, 1.0, False), (0.1, 0.25, True))
    )
    sketch = Sketch(strokes=strokes, raster=rng.random((40, 30), dtype=np.float32), aspect=0.75, name="Ä ☂")
    again = Sketch.from_json(json.loads(json.dumps(sketch.to_json())))
    assert same(again, sketch)
    for one, other in zip(again.strokes, sketch.strokes, strict=True):
        assert np.array_equal(one.points, other.points)
        assert (one.width, one.weight, one.closed) == (other.width, other.weight, other.closed)
    assert again.raster is not None
    assert np.array_equal(again.raster, sketch.raster)
    assert (again.aspect, again.name) == (sketch.aspect, sketch.name)
    assert np.array_equal(
        Sketch.from_json(cat.to_json()).rasterize(size=(64, 64)).ink, cat.rasterize(size=(64, 64)).ink
    )


@pytest.mark.parametrize(
    "change",
    [
        {"aspect": None},
        {"aspect": math.nan},
        {"raster": "???"},
        {"raster": "aGVsbG8="},
        {"raster": 3},
        {"strokes": None},
        {"strokes": [{}]},
        {"strokes": [3]},
        {"strokes": [{"points": [[0]], "width": 1, "weight": 1, "closed": 0}]},
    ],
)
def test_damaged_json_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SketchError):
        Sketch.from_json(Sketch().to_json() | change)


def test_missing_json_fields_are_refused() -> None:
    with pytest.raises(SketchError, match="not a saved sketch"):
        Sketch.from_json({})


# -- files


def test_files_open_by_content(tmp_path: Path, cat: Sketch) -> None:
    drawing = (EXAMPLES / "cat.svg").read_bytes()
    utf16 = drawing.decode().encode("utf-16")
    for name, data in {
        "cat.png": drawing,
        "cat": b"\xef\xbb\xbf \n" + drawing,
        "cat.svgz": gzip.compress(drawing),
    }.items():
        (tmp_path / name).write_bytes(data.replace(b"\xef\xbb\xbf \n", b"\xef\xbb\xbf"))
        assert same(Sketch.open(tmp_path / name), cat)
    (tmp_path / "cat.txt").write_bytes(utf16)
    assert same(Sketch.open(str(tmp_path / "cat.txt")), cat)
    (tmp_path / "cat.sketch").write_text(json.dumps(cat.to_json(), indent=1))
    assert same(Sketch.open(tmp_path / "cat.sketch"), cat)
    (tmp_path / "one.svg").write_text(GOOD)
    assert Sketch.open(tmp_path / "one.svg").name == "line"
    drawn(cat, 200).save(tmp_path / "photo.svg", format="JPEG")
    opened = Sketch.open(tmp_path / "photo.svg")
    assert opened.name == "photo"
    assert difference(opened.rasterize(size=(64, 64)), cat.rasterize(size=(64, 64))) < 0.1


def test_pictures_are_upright_and_on_paper(tmp_path: Path, cat: Sketch) -> None:
    expected = cat.rasterize(size=(64, 64))
    image = drawn(cat, 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    clear = Image.new("RGBA", image.size, "black")
    clear.putalpha(image.convert("L").point(lambda value: 255 - value))
    clear.save(tmp_path / "clear.png")
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(tmp_path / "deep.png")
    for name in ("turned.png", "clear.png", "deep.png"):
        assert difference(Sketch.open(tmp_path / name).rasterize(size=(64, 64)), expected) < 0.09


@pytest.mark.parametrize(
    "data", [b"", b"text", b"{", b"{}", b'{"a": 1}\n{"b": 2}', b"<", b"<html/>", b"%PDF-1.7", b"\x1f\x8b\x08damaged"]
)
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "sketch.svg"
    path.write_bytes(data)
    with pytest.raises(SketchError) as caught:
        Sketch.open(path)
    assert caught.value.field == "sketch"


def test_missing_files_and_gzipped_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SketchError, match="There is no file"):
        Sketch.open(tmp_path / "none.svg")
    (tmp_path / "p.gz").write_bytes(gzip.compress(b"\x89PNG"))
    with pytest.raises(SketchError, match="not gzipped"):
        Sketch.open(tmp_path / "p.gz")


def test_unpacking_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "bomb.svgz").write_bytes(gzip.compress(b"<svg>" + bytes(20_000_000), 1))
    with pytest.raises(SketchError, match="10 MB"):
        Sketch.open(tmp_path / "bomb.svgz")


# -- SVG: what is read


def box(sketch: Sketch) -> list[float]:
    points = np.concatenate([stroke.points for stroke in sketch.strokes])
    return [*points.min(axis=0), *points.max(axis=0)]


@pytest.mark.parametrize(
    "shape",
    [
        '<line x1="20" y1="30" x2="80" y2="60" {}/>',
        '<polyline points="20,30 50 60,80 40" {}/>',
        '<polygon points="20,30 50 60 80 40" {}/>',
        '<rect x="20" y="30" width="60" height="30" {}/>',
        '<rect x="20" y="30" width="60" height="30" rx="9" {}/>',
        '<rect x="20" y="30" width="60" height="30" rx="90" ry="4" {}/>',
        '<ellipse cx="50" cy="45" rx="30" ry="15" {}/>',
        '<path d="M20 30 L80 60" {}/>',
        '<path d="m20,30h60v30" {}/>',
        '<path d="M20 30C20 70 80 70 80 30M50 60" {}/>',
        '<path d="M20 45a30 15 0 1160 0 30 15 0 01-60 0z" {}/>',
        '<path d="M20 45 A 30 15 0\n1 1 80 45\nA 30. 15 0 0 1 20 45" {}/>',
        '<path d="M20 30 80 60q0 0 0 0t0 0" {}/>',
        '<path d="M020 030. L 080 0060" {}/>',
    ],
)
def test_shapes(shape: str) -> None:
    assert box(svg(shape.format(LINE))) == pytest.approx([0.2, 0.3, 0.8, 0.6], abs=0.003)


def test_circles_are_round_and_curves_smooth() -> None:
    points = svg(f'<circle cx="50" cy="50" r="40" {LINE}/>').strokes[0].points.astype(float)
    radius = np.hypot(*(points - 0.5).T)
    assert radius == pytest.approx(0.4, abs=2e-4)
    turns = np.unwrap(np.arctan2(*np.diff(points, axis=0).T))
    assert np.abs(np.diff(turns)).max() < 0.3


def test_subpaths_are_strokes() -> None:
    sketch = svg(f'<path d="M1 1 9 9 1 9 Z M20 20 30 30 m5 5 9 9 z l5 0" {LINE}/>')
    assert [stroke.closed for stroke in sketch.strokes] == [True, False, True, False]
    assert sketch.strokes[-1].points == pytest.approx(np.array([[0.35, 0.35], [0.40, 0.35]]))


def test_numbers_of_paths_may_run_together_and_begin_with_zeros() -> None:
    (stroke,) = svg(f'<path d="M010 05.5L1.5.5 5..5-5-.5e1" {LINE}/>').strokes
    assert stroke.points == pytest.approx(np.array([[10, 5.5], [1.5, 0.5], [5, 0.5], [-5, -5]]) / 100)


def test_an_arc_without_a_radius_is_a_line() -> None:
    arc = svg(f'<path d="M10 10 A0 9 0 0 1 90 10 a9 0 0 010 80 L10 90" {LINE}/>').strokes[0]
    assert arc.points == pytest.approx(np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]))


@pytest.mark.parametrize("path", ["M12 4v16M0 0", "M12 4v16m0 0", "M0 0M12 4v16"])
def test_a_move_alone_draws_nothing(path: str) -> None:
    assert len(svg(f'<path d="{path}" {LINE}/>').strokes) == 1
    assert len(svg(f'<path d="{path} M5 5z M6 6h0" {LINE}/>').strokes) == 3


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("translate(10)", [0.3, 0.3, 0.9, 0.6]),
        ("translate(10,-20)", [0.3, 0.1, 0.9, 0.4]),
        ("scale(0.5)", [0.1, 0.15, 0.4, 0.3]),
        ("scale(.5 1)", [0.1, 0.3, 0.4, 0.6]),
        ("rotate(90 50 50)", [0.4, 0.2, 0.7, 0.8]),
        ("translate(50 50) rotate(90), translate(-50 -50)", [0.4, 0.2, 0.7, 0.8]),
        ("matrix(1 0 0 1 10 10)", [0.3, 0.4, 0.9, 0.7]),
        ("skewX(45)", [0.5, 0.3, 1.4, 0.6]),
        ("skewY(0)", [0.2, 0.3, 0.8, 0.6]),
        ("none", [0.2, 0.3, 0.8, 0.6]),
    ],
)
def test_transforms(transform: str, expected: list[float]) -> None:
    rect = f'<rect x="20" y="30" width="60" height="30" {LINE}/>'
    assert box(svg(f'<g transform="{transform}">{rect}</g>')) == pytest.approx(expected, abs=1e-5)
    assert box(svg(rect.replace("/>", f' transform="{transform}"/>'))) == pytest.approx(expected, abs=1e-5)


def test_units_and_percentages() -> None:
    sketch = svg(
        f'<line x1="10%" y1="20%" x2="96px" y2="1in" {LINE}/><line x1="25.4mm" y1="2.54cm" x2="72pt" y2="6pc" {LINE}/>'
    )
    assert sketch.strokes[0].points == pytest.approx(np.array([[0.1, 0.2], [0.96, 0.96]]))
    assert sketch.strokes[1].points == pytest.approx(np.array([[0.96, 0.96], [0.96, 0.96]]))


def test_the_canvas_is_view_box_then_size_then_drawing() -> None:
    line = f'<line x1="40" y1="30" x2="50" y2="50" {LINE}/>'
    viewed = Sketch.from_svg(f'<svg width="7mm" height="3mm" viewBox="30 10 40 80">{line}</svg>')
    assert viewed.aspect == 0.5
    assert viewed.strokes[0].points == pytest.approx(np.array([[0.25, 0.25], [0.5, 0.5]]))
    sized = Sketch.from_svg(f'<svg width="200" height="100">{line}</svg>')
    assert sized.aspect == 2
    assert sized.strokes[0].points == pytest.approx(np.array([[0.2, 0.3], [0.25, 0.5]]))
    bare = Sketch.from_svg(f'<svg width="100%" height="100%">{line}</svg>')
    margin = 20 * 0.08 / 0.84
    assert bare.aspect == pytest.approx((10 + 2 * margin) / (20 + 2 * margin))
    side = margin / (10 + 2 * margin)
    assert box(bare) == pytest.approx([side, 0.08, 1 - side, 0.92], abs=1e-4)


def test_inner_svg_is_fitted() -> None:
    inner = f'<svg x="20" y="20" width="60" height="30" viewBox="0 0 10 10"><rect width="10" height="10" {LINE}/></svg>'
    assert box(svg(inner)) == pytest.approx([0.35, 0.2, 0.65, 0.5], abs=1e-5)
    moved = f'<svg x="20" y="20"><rect width="10" height="10" {LINE}/></svg>'
    assert box(svg(moved)) == pytest.approx([0.2, 0.2, 0.3, 0.3], abs=1e-5)


HIDDEN = [
    '<g display="none">{}</g>',
    '<g style="display: none">{}</g>',
    '<g visibility="hidden">{}</g>',
    '<g opacity="0">{}</g>',
    "<defs>{}</defs>",
    "<symbol>{}</symbol>",
    "<clipPath>{}</clipPath>",
    "<mask><g>{}</g></mask>",
    "<pattern>{}</pattern>",
    "<marker>{}</marker>",
    "<metadata>{}</metadata>",
    "<unknown>{}</unknown>",
    '<g xmlns="http://example.org/other">{}</g>',
]


@pytest.mark.parametrize(
    "shape",
    [
        '<path d="M1 1 9 9 1 9" style="stroke: none !important; fill: none"/>',
        '<path d="M1 1 9 9 1 9" style="display: none!important"/>',
        '<path d="M1 1 9 9 1 9" fill-opacity="0"/>',
        '<path d="M1 1 9 9 1 9" fill="none" stroke="red" stroke-opacity="0%"/>',
        '<style>#a{display:none}</style><path id="a" d="M1 1 9 9 1 9"/>',
        '<path d="M1 1 9 9 1 9" stroke="rgba(0, 0, 0, 0)" fill="NONE"/>',
        '<path d="M1 1 9 9 1 9" stroke="#00000000" fill="#fff0"/>',
        '<path d="M1 1 9 9 1 9" stroke="rgb(9 9 9 / 0%)" fill="hsla(1,2%,3%,.0)"/>',
        '<path d="M1 1 9 9 1 9" style="/* not */ Display: NONE"/>',
        '<path d="M1 1 9 9 1 9" display=" none "/>',
    ],
)
def test_what_a_style_hides_is_not_drawn(shape: str) -> None:
    assert svg(shape).strokes == ()


def test_a_switch_shows_the_first_that_it_can() -> None:
    first, second = (f'<path d="M{x} 1 9 9" {LINE}/>' for x in (1, 2))
    foreign = '<foreignObject requiredExtensions="http://example.org"/>'
    (stroke,) = svg(f"<switch>{second}{first}</switch>").strokes
    assert np.array_equal(stroke.points, svg(second).strokes[0].points)
    nested = f"<switch>{foreign}<g>{first}<switch>{second}{first}</switch></g>{first}</switch>{first}"
    assert len(svg(nested).strokes) == 3


def test_a_style_may_have_comments() -> None:
    assert len(svg('<path d="M1 1 9 9" style="/* a */stroke:black;/*fill:red;*/fill:none"/>').strokes) == 1


@pytest.mark.parametrize("hostile", ['<path stroke="rgba(0,0,0,{}x)" d="M0 0L9 9"/>', "<style>{}</style>"])
def test_styles_are_read_in_the_time_that_their_length_takes(hostile: str) -> None:
    svg(hostile.format(("@" if "style" in hostile else "0") * 2_000_000))  # quadratic, this took hours


def test_what_is_shown_again_inside_something_hidden_is_drawn() -> None:
    line = f'<path d="M1 1 9 9" {LINE} visibility="visible"/>'
    assert len(svg(f'<g visibility="hidden">{line}<path d="M1 1 9 9" {LINE}/></g>').strokes) == 1


def test_rules_for_other_media_do_not_count() -> None:
    rules = "@import url(a.css); @media print{.x{fill:red} .a{display:none}} .b{display:none}"
    shapes = f'<path class="a" d="M1 1 9 9" {LINE}/><path class="b" d="M1 1 9 9" {LINE}/>'
    assert len(svg(f"<style>{rules}</style>{shapes}").strokes) == 1


@pytest.mark.parametrize(
    ("css", "plain"),
    [
        ("translate(10px, 5px) rotate(20deg)", "translate(10 5) rotate(20)"),
        ("translateX(1.5e1px) translateY(5px)", "translate(15 5)"),
        ("scaleX(0.5) scaleY(2)", "scale(0.5 2)"),
    ],
)
def test_transforms_are_read_as_browsers_write_them(css: str, plain: str) -> None:
    rect = f'<rect x="20" y="20" width="30" height="10" {LINE} '
    assert box(svg(f'{rect}style="transform: {css}"/>')) == pytest.approx(box(svg(f'{rect}transform="{plain}"/>')))


@pytest.mark.parametrize("origin", ["30 45", "30% 45px", "top left", "right", "center"])
def test_transforms_turn_about_their_origin(origin: str) -> None:
    x, y = {"30 45": (30, 45), "30% 45px": (30, 45), "top left": (0, 0), "right": (100, 50), "center": (50, 50)}[origin]
    rect = f'<rect x="20" y="30" width="60" height="30" {LINE} transform="'
    turned = svg(f'{rect}rotate(20) scale(0.5)" transform-origin="{origin}"/>')
    assert box(turned) == pytest.approx(
        box(svg(f'{rect}translate({x} {y}) rotate(20) scale(0.5) translate({-x} {-y})"/>'))
    )


def test_the_aspect_is_kept_or_not_as_asked() -> None:
    def inner(how: str) -> list[float]:
        rect = f'<rect width="10" height="10" {LINE}/>'
        sides = 'x="20" y="20" width="60" height="30" viewBox="0 0 10 10"'
        return box(svg(f'<svg {sides} preserveAspectRatio="{how}">{rect}</svg>'))

    assert inner("none") == pytest.approx([0.2, 0.2, 0.8, 0.5])
    assert inner("xMinYMid") == pytest.approx([0.2, 0.2, 0.5, 0.5])
    assert inner("xMaxYMax meet") == pytest.approx([0.5, 0.2, 0.8, 0.5])
    assert inner("xMidYMin slice") == pytest.approx([0.2, 0.2, 0.8, 0.8])
    line = f'<path d="M0 0 10 10" {LINE}/>'
    whole = Sketch.from_svg(
        f'<svg width="200" height="100" viewBox="0 0 10 10" preserveAspectRatio="none">{line}</svg>'
    )
    assert whole.aspect == 2
    assert box(whole) == pytest.approx([0, 0, 1, 1])


@pytest.mark.parametrize("wrapper", HIDDEN)
def test_what_is_not_seen_is_not_drawn(wrapper: str) -> None:
    assert svg(wrapper.format('<path d="M1 1 9 9"/>')).strokes == ()


def test_shapes_without_line_and_fill_are_not_drawn() -> None:
    assert (
        svg('<g fill="none"><path d="M1 1 9 9"/><path d="M1 1 9 9" stroke="red" stroke-width="0"/></g>').strokes == ()
    )


def test_filled_shapes_give_their_closed_outline_and_paper_gives_nothing() -> None:
    paper = '<rect width="100%" height="100%" fill="#fff"/><path d="M-5-5H105V105H-5" fill="#eee"/>'
    sketch = svg(f'{paper}<path d="M20 20 80 20 50 70" fill="red"/><rect width="100" height="100" {LINE}/>')
    assert [stroke.closed for stroke in sketch.strokes] == [True, True]
    assert len(sketch.strokes[0].points) == 3


@pytest.mark.parametrize(
    "colour", ["#000", "#0000000f", "rgb(0,0,0)", "rgb(0 0 0)", "rgba(0,0,0,0.05)", "hsl(0,0%,0%)"]
)
def test_black_is_seen(colour: str) -> None:
    assert len(svg(f'<path d="M1 1 9 9" stroke="{colour}" fill="none"/>').strokes) == 1


@pytest.mark.parametrize("selector", ["*", "path", "path.a", ".b.a", "path#c.a", "svg path", "svg   .a", ".other, *.b"])
def test_rules_are_for_tags_classes_and_ids(selector: str) -> None:
    sheet = f"<style>{selector} {{ stroke: #000; fill: none }}</style>"
    (stroke,) = svg(f'{sheet}<path id="c" class="a b" d="M1 1 9 9 9 1"/>').strokes
    assert not stroke.closed
    (other,) = svg(f'{sheet}<polygon points="1,1 9,9 9,1" fill="red"/>').strokes
    assert other.closed


def test_the_rule_that_says_more_prevails_and_among_equal_ones_the_last() -> None:
    def shown(rules: str) -> bool:
        return bool(svg(f'<style>{rules}</style><path id="c" class="a b" d="M1 1 9 9" {LINE}/>').strokes)

    hide, show = "{display:none}", "{display:inline}"
    assert shown(f"path.a{show} .a{hide} path{hide} *{hide}")
    assert shown(f"#c{show} path.a.b{hide}")
    assert shown(f".a.b{show} .b{hide}")
    assert not shown(f".b{show} .a{hide}")
    assert not shown(f".a{show} .b{hide}")
    assert not shown(f".b{hide} .a{show} .b{hide}")


def test_rules_that_are_not_read_are_named() -> None:
    sheet = "<style>g > path{stroke:red;fill:none} path:hover{fill:red} text{font:serif}</style>"
    with pytest.warns(SketchguideWarning, match=r"2 style rule\(s\).*'g > path'"):
        svg(f'{sheet}<path d="M1 1 9 9"/>')


def test_style_sheets_of_drawing_programs_are_read() -> None:
    sheet = "<defs><style>/* x */ .st0, .st1{fill:none;stroke:#000} .st2{display:none} line{stroke:red}</style></defs>"
    body = '<path class="a st0" d="M1 1 9 9 1 9"/><path class="st2" d="M1 1 9 9"/><line x2="9" y2="9" fill="none"/>'
    assert [stroke.closed for stroke in svg(sheet + body).strokes] == [False, False]


def test_line_widths_are_relative_to_the_usual_one() -> None:
    long = f'<path d="M5 5 95 5 95 95" {LINE} stroke-width="4"/>'
    sketch = svg(
        long
        + f'<path d="M5 50 15 50" {LINE} style="stroke-width: 8px"/>'
        + f'<g transform="scale(0.5)"><path d="M5 50 15 50" {LINE} stroke-width="8"/></g>'
        + f'<path d="M5 50 15 50" {LINE} stroke-width="400"/>'
        + f'<path d="M5 50 15 50" {LINE} stroke-width="1%"/>'
    )
    widths = [stroke.width and stroke.width / LINE_WIDTH for stroke in sketch.strokes]
    assert widths == [None, pytest.approx(2), None, pytest.approx(3), pytest.approx(1 / 3)]
    for hairline in (0.01, 40):
        assert svg(f'<path d="M5 5 95 5" {LINE} stroke-width="{hairline}"/>').strokes[0].width is None


def test_what_is_important_in_a_style_sheet_prevails() -> None:
    sheet = "<style>.a{stroke:none!important} .b{stroke:#000 ! Important} .c{stroke:none}</style>"
    line = '<path class="{}" style="stroke:{}" d="M1 1 9 9" fill="none"/>'
    for name, style, seen in (
        ("a", "red", False),
        ("b", "none", True),
        ("c", "red", True),
        ("a", "red!important", True),
    ):
        assert bool(svg(sheet + line.format(name, style)).strokes) == seen


def test_a_pen_that_feels_pressure_has_the_usual_width_on_the_whole() -> None:
    """Each piece has a width of its own; the thinnest comes up twice, as where a program allows no thinner one."""
    rng = np.random.default_rng(0)
    turn = np.linspace(0, 2 * np.pi, 201)
    x, y = 50 + 40 * np.cos(turn), 50 + 40 * np.sin(turn)
    widths = [f"{width:.3f}" for width in (*rng.uniform(2, 6, 198), 1.5, 1.5)]
    pieces = "".join(
        f'<path d="M{x[i]:.2f} {y[i]:.2f}L{x[i + 1]:.2f} {y[i + 1]:.2f}" {LINE} stroke-width="{width}"/>'
        for i, width in enumerate(widths)
    )
    even = svg(f'<circle cx="50" cy="50" r="40" {LINE}/>').rasterize(size=(256, 256)).ink.mean()
    assert svg(pieces).rasterize(size=(256, 256)).ink.mean() == pytest.approx(even, rel=0.25)


def test_the_usual_width_may_be_said() -> None:
    line = f'<path d="M5 5 95 5" {LINE} stroke-width="6"/>'
    said = '<svg viewBox="0 0 100 100" data-usual-width="2">'
    (wide,) = Sketch.from_svg(f"{said}{line}</svg>").strokes
    assert wide.width == pytest.approx(3 * LINE_WIDTH)
    assert svg(line).strokes[0].width is None


def test_line_widths_that_cannot_be_told_are_the_inherited_ones() -> None:
    wide = f'<path d="M5 50 15 50" {LINE} stroke-width="4"/>'
    for odd in ("", "var(--pen, 2)", "calc(1px + 2px)", "unset", "revert", "inherit"):
        assert (
            svg(f'<g stroke-width="4">{wide}<path d="M5 5 95 5" {LINE} stroke-width="{odd}"/></g>').strokes[1].width
            is None
        )
    page = f'<path d="M5 5 95 5" {LINE} stroke-width="4"/>'
    thin = svg(f'{page}<g stroke-width="4"><path d="M5 50 15 50" {LINE} stroke-width="initial"/></g>').strokes[1]
    assert thin.width == pytest.approx(LINE_WIDTH / 3)
    assert svg(f'{page}<path d="M5 50 15 50" {LINE} stroke-width="0.5rem"/>').strokes[1].width == pytest.approx(
        2 * LINE_WIDTH
    )


def test_data_weight_is_the_stroke_weight() -> None:
    line = f'<path d="M5 5 95 5" {LINE}/>'
    sketch = svg(
        f'<g data-weight="0.5">{line}{line.replace("path", "path data-weight=" + chr(34) + "3" + chr(34))}</g>{line}'
    )
    assert [stroke.weight for stroke in sketch.strokes] == [0.5, 3, 1]


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ('<path d="M50 0L100 100H0z"/>', 1),
        ('<path d="M0 0L100 100M100 0L0 100" stroke="#000"/>', 2),
        ('<line x1="0" y1="0" x2="100" y2="100" stroke="#000"/><circle cx="80" cy="20" r="9"/>', 2),
        ('<polygon points="30,0 70,0 100,30 100,70 70,100 30,100 0,70 0,30"/>', 1),
        ('<rect width="100" height="100" fill="#fed"/><circle cx="50" cy="50" r="20"/>', 1),
    ],
    ids=["triangle", "cross", "diagonal", "octagon", "paper"],
)
def test_shapes_that_reach_the_edges_are_no_paper(body: str, count: int) -> None:
    assert len(svg(body).strokes) == count


def test_filled_shapes_with_a_light_rim_are_drawn() -> None:
    body = '<circle cx="50" cy="50" r="20" fill="red" stroke="white"/><path d="M40 10H60" stroke="black"/>'
    assert len(svg(body).strokes) == 2


def test_links_of_shapes_and_of_the_footer_of_diagrams_are_let_be() -> None:
    linked = f'<a href="https://example.org"><path d="M5 5 95 5" {LINE}/></a>'
    footer = '<switch><g requiredFeatures="x"/><a xlink:href="https://example.org"><text>no</text></a></switch>'
    assert len(svg(linked + footer).strokes) == 1


def test_a_line_without_a_pen_is_seen_alone_only() -> None:
    line = '<path d="M5 5H95"/>'
    assert len(svg(line).strokes) == 1
    assert len(svg(f'{line}<circle cx="50" cy="50" r="20"/>').strokes) == 1
    assert len(svg('<path d="M20 20L80 80L80 20L20 80z"/><circle cx="50" cy="90" r="5"/>').strokes) == 2


def test_what_lies_behind_other_shapes_is_not_drawn() -> None:
    behind = f'<path d="M0 50H100" {LINE}/>'
    in_front = '<rect x="30" y="30" width="40" height="40" fill="{}" stroke="black"/>'
    left, right, square = svg(behind + in_front.format("white")).strokes
    assert square.closed
    for part, ends in ((left, (0, 0.3)), (right, (0.7, 1))):
        assert part.points[[0, -1], 0] == pytest.approx(ends, abs=0.02)
        assert part.points[:, 1] == pytest.approx(0.5)
    assert len(svg(in_front.format("white") + behind).strokes) == 2
    for seen_through in ("none", "transparent", '#fff" fill-opacity="0.5', "url(#gradient)", "color(srgb 1 1 1 / 0)"):
        assert len(svg(behind + in_front.format(seen_through)).strokes) == 2
    for solid in ('#fff" fill-opacity="0.996', '#fff" opacity=".99', "color(display-p3 1.0000 1 100%)"):
        assert len(svg(behind + in_front.format(solid)).strokes) == 3


@pytest.mark.parametrize("text", ["null", "undefined", "inherit", "", "1,5"])
def test_opacities_that_are_none_are_passed_over_as_in_browsers(text: str) -> None:
    line = f'<path d="M5 5H95" {LINE} opacity="{text}" stroke-opacity="{text}" fill-opacity="{text}"/>'
    assert len(svg(line).strokes) == 1


def test_clones_are_drawn_where_they_stand_and_in_their_own_style() -> None:
    corner = '<path id="corner" d="M10 10H20V20"/>'
    clone = '<use xlink:href="#corner" x="30" y="40" fill="none" stroke="black" transform="scale(2)"/>'
    for body in (f"<defs>{corner}</defs>{clone}", f"{clone}<defs>{corner}</defs>"):
        (stroke,) = svg(body).strokes
        assert not stroke.closed
        assert stroke.points == pytest.approx(np.array([[0.8, 1], [1, 1], [1, 1.2]]))
    first, second = svg(corner.replace("<path", f"<path {LINE}") + '<use href="#corner" y="50"/>').strokes
    assert second.points - first.points == pytest.approx(np.array([[0, 0.5]] * 3))


def test_clones_of_clones_and_symbols() -> None:
    dot = '<circle id="dot" r="5" fill="none" stroke="black"/>'
    pair = f'<defs>{dot}<g id="pair"><use href="#dot" x="10"/><use href="#dot" x="30"/></g></defs>'
    strokes = svg(f'{pair}<use href="#pair" y="20"/><use href="#pair" y="60"/>').strokes
    middles = [stroke.points.min(axis=0) + stroke.points.max(axis=0) for stroke in strokes]
    assert np.array(middles) / 2 == pytest.approx(np.array([[0.1, 0.2], [0.3, 0.2], [0.1, 0.6], [0.3, 0.6]]), abs=1e-3)
    symbol = '<symbol id="box" viewBox="0 0 4 4"><path d="M1 1H3" stroke="black"/></symbol>'
    (line,) = svg(f'{symbol}<use href="#box" x="20" y="40" width="40" height="40"/>').strokes
    assert line.points == pytest.approx(np.array([[0.3, 0.5], [0.5, 0.5]]))


def test_clones_of_what_is_not_there_are_told() -> None:
    with pytest.warns(SketchguideWarning, match=r"2 clone\(s\) of the SVG drawing show what is not in it"):
        assert len(svg(f'<path d="M5 5H95" {LINE}/><use href="#away"/><use/>').strokes) == 1


def test_an_outline_is_cut_where_a_shape_in_front_begins() -> None:
    around = '<circle cx="50" cy="50" r="30" fill="none" stroke="black"/>'
    over = '<rect x="60" y="10" width="30" height="80" fill="white" stroke="black"/>'
    arc, square = svg(around + over).strokes
    assert (arc.closed, square.closed) == (False, True)
    assert arc.points[:, 0].max() == pytest.approx(0.6, abs=0.03)
    assert arc.points[:, 0].min() == pytest.approx(0.2, abs=0.01)


def test_areas_of_one_colour_have_one_outline() -> None:
    body, head = '<circle cx="40" cy="50" r="25"/>', '<circle cx="65" cy="50" r="20"/>'
    assert [stroke.closed for stroke in svg(body + head).strokes] == [False, False]
    assert [stroke.closed for stroke in svg(body + head.replace("/>", ' fill="red"/>')).strokes] == [False, True]
    ink = svg(body + head).rasterize(size=(100, 100)).ink
    assert ink[50, 15:66].max(initial=0) > 0.5  # the outside of both
    assert not ink[40:60, 30:80].any()


def test_shapes_of_which_nothing_is_seen_are_told() -> None:
    line = f'<path d="M30 50H70" {LINE}/>'
    with pytest.warns(SketchguideWarning, match=r"1 shape\(s\) of the SVG drawing are not drawn"):
        drawing = svg(line + '<rect x="10" y="30" width="80" height="40" fill="white" stroke="black"/>')
    assert len(drawing.strokes) == 1
    with pytest.warns(SketchguideWarning, match='needs fill="none"'):
        assert len(svg('<circle cx="50" cy="50" r="40"/><circle cx="50" cy="50" r="10"/>').strokes) == 1


def test_too_many_shapes_are_drawn_whole() -> None:
    many = '<rect x="10" y="10" width="80" height="80" fill="white" stroke="black"/>' * 201
    with pytest.warns(SketchguideWarning, match="too many filled shapes to find what they hide"):
        assert len(svg(many).strokes) == 201


@pytest.mark.parametrize("mark", ['marker-end="url(#a)"', 'style="marker-end:url(#a)"'])
def test_arrowheads_are_told(mark: str) -> None:
    unmarked = '<path d="M5 9H95" fill="none" stroke="black" marker-end="none" style="marker:none;marker-mid: none"/>'
    assert len(svg(unmarked).strokes) == 1
    with pytest.warns(SketchguideWarning, match=r"1 line\(s\) of the SVG drawing have arrowheads"):
        assert len(svg(f'<path d="M5 5H95" {LINE} {mark}/>').strokes) == 1


def test_the_clip_of_illustrators_files_hides_nothing() -> None:
    frame = '<defs><rect id="one" width="100" height="100"/></defs>'
    clip = '<clipPath id="two"><use xlink:href="#one"/></clipPath>'
    body = f'<path d="M5 5H95" clip-path="url(#two)" {LINE}/>'
    assert len(svg(frame + clip + body).strokes) == 1
    with pytest.warns(SketchguideWarning, match="1 clip"):
        svg(frame.replace("100", "50") + clip + body)


@pytest.mark.parametrize(
    "beside",
    [
        '<defs><marker><rect id="a" width="auto" height="3"/></marker></defs>',
        '<x:rect xmlns:x="urn:q" id="a" width="auto" height="3"/>',
        '<rect id="a" display="none" width="auto" height="auto"/>',
    ],
)
def test_rectangles_that_are_not_drawn_need_not_be_read(beside: str) -> None:
    assert len(svg(f'{beside}<path d="M5 5H95" {LINE}/>').strokes) == 1


def test_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cut.svg"
    file.write_text("<svg")
    with pytest.raises(SketchError, match=r"cut\.svg: The SVG drawing, line 1"):
        Sketch.open(file)


def test_a_round_area_of_colour_has_a_whole_outline() -> None:
    picture = Image.new("RGB", (600, 600), "white")
    pen = ImageDraw.Draw(picture)
    pen.ellipse((75, 75, 525, 525), fill="#ffd83d")
    pen.arc((180, 200, 420, 420), 20, 160, fill="#333", width=12)
    pen.line((220, 200, 220, 260), fill="#333", width=12)
    pen.line((380, 200, 380, 260), fill="#333", width=12)
    ink = Sketch.from_image(picture).rasterize(size=(128, 128)).ink
    turns = np.linspace(0, 2 * np.pi, 180)
    around = [ink[round(64 + 48 * np.sin(t)) - 2 :][:5, round(64 + 48 * np.cos(t)) - 2 :][:, :5].max() for t in turns]
    assert min(around) > 0.5


def test_text_is_left_out_with_a_warning() -> None:
    with pytest.warns(SketchguideWarning, match="1 text element"):
        assert len(svg(f'<text x="5" y="5">hello</text><path d="M5 5 95 5" {LINE}/>').strokes) == 1


def test_prefixed_and_unqualified_names_are_read() -> None:
    body = f'<s:path d="M5 5 95 5" {LINE}/>'
    assert len(Sketch.from_svg(f'<s:svg xmlns:s="http://www.w3.org/2000/svg">{body}</s:svg>').strokes) == 1
    assert len(Sketch.from_svg(f'<svg><path d="M5 5 95 5" {LINE}/></svg>').strokes) == 1


def ribbon(width: float) -> str:
    """The outline of a brush that goes along the waves of a sine, as path data."""
    x = np.linspace(10, 90, 60)
    y = 50 + 25 * np.sin(x / 12)
    normal = np.stack([-np.gradient(y), np.gradient(x)], axis=1)
    normal *= width / 2 / np.linalg.norm(normal, axis=1, keepdims=True)
    middle = np.stack([x, y], axis=1)
    points = np.concatenate([middle + normal, (middle - normal)[::-1]])
    return "M" + " ".join(f"{a:.2f} {b:.2f}" for a, b in points) + "Z"


@pytest.mark.parametrize("width", [1.5, 4, 8])
def test_the_mark_of_a_brush_gives_its_centre_line(width: float) -> None:
    x = np.linspace(10, 90, 60)
    wave = " ".join(f"{a:.2f},{50 + 25 * np.sin(a / 12):.2f}" for a in x)
    line = svg(f'<polyline points="{wave}" {LINE}/>').rasterize(size=(128, 128)).ink
    mark = svg(f'<path d="{ribbon(width)}"/>')
    assert not mark.strokes
    ink = mark.rasterize(size=(128, 128)).ink
    assert abs(ink.sum() / line.sum() - 1) < 0.12
    near = np.where(line > 0.3, 0.0, 1.0)
    assert distance_transform_edt(near)[ink > 0.5].max() < 2 + 0.6 * width
    assert np.array_equal(Sketch.from_json(mark.to_json()).rasterize(size=(128, 128)).ink, ink)


def test_a_brush_that_crosses_itself_and_a_ring_are_filled_as_their_rule_says() -> None:
    ring = "M20 50A30 30 0 1 1 80 50A30 30 0 1 1 20 50ZM24 50A26 26 0 1 0 76 50A26 26 0 1 0 24 50Z"
    (circle,) = (svg(f'<circle cx="50" cy="50" r="28" {LINE}/>').rasterize(size=(64, 64)).ink,)
    for rule in ("nonzero", "evenodd"):
        ink = svg(f'<path d="{ring}" fill-rule="{rule}"/>').rasterize(size=(64, 64)).ink
        assert np.abs(ink - circle).mean() < 0.02


@pytest.mark.parametrize("inner", [1, 0], ids=["as the outer one", "the other way"])
def test_a_ring_is_one_line_whichever_way_its_sides_run(inner: int) -> None:
    ring = f"M10 50A40 40 0 1 1 90 50A40 40 0 1 1 10 50ZM13 50A37 37 0 1 {inner} 87 50A37 37 0 1 {inner} 13 50Z"
    (circle,) = (svg(f'<circle cx="50" cy="50" r="38.5" {LINE}/>').rasterize(size=(64, 64)).ink,)
    sketch = svg(f'<path d="{ring}" fill-rule="evenodd" clip-rule="evenodd"/>')
    assert not sketch.strokes
    assert np.abs(sketch.rasterize(size=(64, 64)).ink - circle).mean() < 0.02


def test_where_there_are_too_many_brush_marks_for_their_lines_that_is_said() -> None:
    """A small mark after a large one that found no room still has its line."""
    wide = "".join(f'<path d="M1 {y} 99 {y + 90} 99 {y + 93} 1 {y + 3}Z"/>' for y in np.linspace(1, 6, 70))
    small = '<path d="M1 96 30 96 30 98 1 98Z"/>'
    with pytest.warns(SketchguideWarning, match=r"1\d brush mark\(s\) of the SVG drawing give their outlines"):
        sketch = svg(wide + small)
    assert 10 <= len(sketch.strokes) < 20
    assert all(stroke.points[:, 1].min() < 0.5 for stroke in sketch.strokes)


def test_a_brush_with_a_weight_keeps_it_as_an_outline_and_solid_shapes_stay_outlines() -> None:
    (mark,) = svg(f'<path d="{ribbon(4)}" data-weight="2"/>').strokes
    assert (mark.weight, mark.closed) == (2, True)
    for shape in ('<circle cx="50" cy="50" r="3"/>', '<rect x="10" y="10" width="9" height="30"/>'):
        assert svg(shape).raster is None
        assert len(svg(shape).strokes) == 1


@pytest.mark.parametrize(
    "grey", ["rgb(94.117647%, 94.117647%, 94.117647%)", "rgb(240 240 240)", "rgb(240.2 239.9 240 / 1)", "#f0f0f0"]
)
def test_an_eraser_is_known_however_its_colour_is_written(grey: str) -> None:
    page = '<rect width="100" height="100" fill="#f0f0f0"/>'
    rubbing = f'<path d="M5 50 95 50" fill="none" stroke="{grey}" stroke-width="9"/>'
    with pytest.warns(SketchguideWarning, match="have the colour of its paper"):
        sketch = svg(f'{page}{rubbing}<path d="M5 5 95 5" {LINE}/>')
    (line,) = sketch.strokes
    assert line.width is None


@pytest.mark.parametrize("paper", ["#222", "#f4f4f4"])
@pytest.mark.parametrize("sides", ["100%", "100vw"])
def test_paper_of_a_page_whose_size_nobody_knows_is_no_part_of_the_drawing(paper: str, sides: str) -> None:
    line = '<path stroke="#fff" fill="none" d="M10 10 520 420 700 10"/>'.replace(
        "#fff", "#fff" if paper == "#222" else "#000"
    )
    bare = Sketch.from_svg(f"<svg>{line}</svg>")
    on_paper = Sketch.from_svg(
        f'<svg width="{sides}" height="{sides}"><rect width="100%" height="100%" fill="{paper}"/>{line}</svg>'
    )
    assert len(on_paper.strokes) == 1
    assert np.array_equal(on_paper.strokes[0].points, bare.strokes[0].points)
    assert on_paper.aspect == bare.aspect


def test_a_style_sheet_may_come_last_and_is_for_the_outermost_too() -> None:
    shape = '<path class="a" d="M1 1 9 9 1 9"/>'
    for sheets in ("<style>.a{display:none}</style>", "<style>.a{stroke:red}</style><style>.a{display:none}</style>"):
        assert not svg(shape + sheets).strokes
    twice = f"<style>.a{{display:none}}</style>{shape}<style>.a{{display:inline}}</style>"
    assert len(svg(twice).strokes) == 1
    assert not svg(shape + "<style>svg{visibility:hidden}</style>").strokes


def test_what_is_no_file_and_no_size_is_refused_with_what_to_do() -> None:
    with pytest.raises(SketchError, match="takes the name of a file, not a Image") as caught:
        Sketch.open(Image.new("L", (64, 64)))
    assert "from_image" in caught.value.hint
    with pytest.raises(SketchError, match=r"size is 64; it must be \(width, height\)"):
        Sketch().rasterize(size=64)


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


def test_many_holes_cost_no_hours() -> None:
    triangles = "".join(f"M{x} {y}h0.5v0.5z" for x in range(100) for y in range(100))
    assert svg(f'<path fill-rule="evenodd" d="{triangles}"/>' * 5).strokes


def test_brushes_without_end_cost_no_hours() -> None:
    mark = '<path d="M0 0 100 90 100 92Z"/>'
    with pytest.warns(SketchguideWarning, match="4946 brush mark"):
        sketch = svg(mark * 5_000)
    assert sketch.raster is not None
    assert sketch.strokes


def test_lines_of_the_papers_colour_are_no_ink() -> None:
    line = '<path d="M10 10 90 90" stroke="{}" fill="none"/>'
    with pytest.warns(SketchguideWarning, match="colour of its paper"):
        assert len(svg(line.format("#000") + line.format("#FFF")).strokes) == 1
    dark = '<rect width="100" height="100" fill="#101010"/>'
    with pytest.warns(SketchguideWarning, match="colour of its paper"):
        assert len(svg(dark + line.format("white") + line.format("#101010")).strokes) == 1
    assert len(svg(line.format("white")).strokes) == 1  # for dark paper that was not saved
    assert (
        len(svg(dark.replace("/>", ' fill-opacity="0.1"/>') + line.format("#101010") + line.format("red")).strokes) == 2
    )


def test_white_shapes_show_only_on_something() -> None:
    white, dark = '<circle cx="50" cy="50" r="9" fill="#fff"/>', '<circle cx="50" cy="50" r="30"/>'
    assert not svg(white).strokes
    assert len(svg(dark + white).strokes) == 2
    assert len(svg(white + dark).strokes) == 1


def test_paper_with_a_line_of_its_own_colour_is_paper() -> None:
    triangle = f'<path d="M10 10 90 10 50 90Z" {LINE} stroke-width="2"/>'
    for paper in ("#fff", "#ffe"):
        page = f'<rect width="100" height="100" fill="{paper}" stroke="{paper}"/>'
        (stroke,) = svg(page + triangle).strokes
        assert stroke.width is None


def test_clips_and_masks_are_told_unless_they_hide_nothing() -> None:
    drawn = f'<path d="M10 10 90 90" {LINE}/>'
    whole = '<clipPath id="a"><rect width="100" height="100" fill="white"/></clipPath>'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg(f'<g clip-path="url(#a)">{drawn}</g><defs>{whole}</defs>')
    part = whole.replace('width="100"', 'width="50"')
    for text in (f'<g clip-path="url(#a)">{drawn}</g><defs>{part}</defs>', f'<g style="mask:url(#m)">{drawn}</g>'):
        with pytest.warns(SketchguideWarning, match="not applied"):
            svg(text)


def test_a_doctype_without_declarations_is_passed_over() -> None:
    head = '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">'
    assert Sketch.from_svg(head + SVG.format(f'<path d="M1 1 9 9" {LINE}/>')).strokes


@pytest.mark.parametrize(
    "hidden",
    [
        '<image style="display:none" href="data:image/png;base64,AAAA"/>',
        '<image display="none" href="photo.jpg"/>',
        '<g style="display:none"><image href="photo.jpg"/></g>',
        '<defs><image xlink:href="http://example.org/a.png"/></defs>',
    ],
)
def test_what_is_hidden_is_not_refused(hidden: str) -> None:
    assert len(svg(f'{hidden}<path d="M1 1 9 9" {LINE}/>').strokes) == 1


@pytest.mark.parametrize("turn", ["matrix(-1,0,0,1,0,0)", "rotate(180)", "scale(1 -1)"])
def test_a_page_is_turned_about_its_middle(turn: str) -> None:
    page = f'<svg viewBox="-50 0 100 50" transform="{turn}"><path d="M-40 10 20 10" {LINE}/></svg>'
    (stroke,) = Sketch.from_svg(page).strokes
    assert ((stroke.points > 0) & (stroke.points < 1)).all()
    mirrored = turn.startswith(("matrix", "rotate"))
    assert stroke.points[0, 0] == pytest.approx(0.9 if mirrored else 0.1)


def test_an_import_with_a_semicolon_hides_no_rule() -> None:
    sheet = "@import url('https://fonts/css2?family=Inter:wght@400;700');.a{display:none}.b{fill:none;stroke:#000}"
    shapes = '<rect class="a" width="9" height="9"/><path class="b" d="M1 1 9 9"/>'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(svg(f"<style>{sheet}</style>{shapes}").strokes) == 1


# -- SVG: what is refused

LAUGHS = "".join(
    f'<defs><g id="g{i}">{f"""<use href="#g{i - 1}"/>""" * 2 if i else "<g/>"}</g></defs>' for i in range(18)
)
BILLION = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "lol"}">' for i in range(10))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg><text>&x;</text></svg>', "DOCTYPE"),
        (f"<!DOCTYPE svg [{BILLION}]><svg>&l9;</svg>", "DOCTYPE"),
        ("<svg>&x;</svg>", "well-formed"),
        ("<svg>", "well-formed"),
        ("", "well-formed"),
        ("<svg/><svg/>", "well-formed"),
        ("<svg \ud800/>", "well-formed"),
        ("<html/>", "not <svg>"),
        ('<svg xmlns="http://example.org"/>', "not <svg>"),
        (SVG.format('<g id="a"><use href="#a"/></g>'), "nested more than 64"),
        (SVG.format(LAUGHS + '<use href="#g17"/>'), "more than 100000 elements"),
        (SVG.format('<use xlink:href="other.svg#a"/>'), "link to 'other.svg"),
        (SVG.format('<image href="file:///etc/passwd"/>'), "<image>"),
        (SVG.format('<image href="data:image/png;base64,AAAA"/>'), "<image>"),
        (SVG.format("<foreignObject/>"), "<foreignObject>"),
        (SVG.format("<script>alert(1)</script>"), "scripts"),
        (SVG.format("<defs><script/></defs>"), "scripts"),
        ('<svg onload="alert(1)"/>', "onload"),
        (SVG.format('<g ONCLICK="x"/>'), "ONCLICK"),
        (SVG.format("<g>" * 100_000 + "</g>" * 100_000), "nested more than 64"),
        (SVG.format("<g/>" * 100_001), "more than 100000 elements"),
        (SVG.format(f'<path d="M0 0{"C9 0 0 9 9 9" * 20_000}"/>'), "more than 200000 points"),
        (SVG.format(f'<polyline points="{"1 " * 2_000_000}"/>'), "more than 200000 points"),
        (SVG.format(f'<path d="M0 0{" 1" * 2_000_000}"/>'), "more than 200000 points"),
        (" " * 10_000_001, "larger than the 10 MB"),
        ('<svg viewBox="0 0 0 10"/>', "canvas side is 0"),
        ('<svg viewBox="0 0 -5 10"/>', "canvas side is -5"),
        ('<svg viewBox="0 0 NaN 10"/>', "not a list of numbers"),
        ('<svg viewBox="0 0 1e99 10"/>', "not a list of numbers"),
        ('<svg viewBox="0 0 1e7 10"/>', "canvas side"),
        ('<svg viewBox="0 0 100 1"/>', "at most 1:32"),
        ('<svg viewBox="0 0 10"/>', "four numbers"),
        ('<svg width="0" height="0"/>', "canvas side is 0"),
        ('<svg width="NaN" height="1"/>', "not a length"),
        ('<svg width="1e99" height="1"/>', "not a length"),
        ('<svg width="5furlongs" height="1"/>', "not a length"),
        (SVG.format('<svg width="0"/>'), "canvas side is 0"),
        (SVG.format('<circle r="-1"/>'), "negative"),
        (SVG.format('<rect width="-1" height="1"/>'), "negative"),
        (SVG.format('<circle r="nan"/>'), "not a length"),
        (SVG.format(f'<circle r="{"9" * 100_000}"/>'), "not a length"),
        (SVG.format('<polyline points="1 2 3"/>'), "odd number"),
        (SVG.format('<polyline points="1 2 x"/>'), "not a list"),
        (SVG.format('<path d="M 1 1 L nan 1"/>'), "not a list of numbers"),
        (SVG.format('<path d="M 1 1 e L 9 9"/>'), "not a list of numbers"),
        (SVG.format('<path d="M 1 1 A"/>'), "seven values"),
        (SVG.format('<path d="L 1 1"/>'), "cannot be read"),
        (SVG.format('<path d="M 1"/>'), "cannot be read"),
        (SVG.format('<path d="M 1 1 A 5 5 0 7 0 1 1"/>'), "seven values"),
        (SVG.format(f'<path d="M 1 1 A {"1" * 100_000}"/>'), "seven values"),
        (SVG.format(f'<path d="M 1 1 A {"1 " * 1_000_000}"/>'), "seven values"),
        (SVG.format('<path d="M 1e999 1 L 5 5"/>'), "not a list of numbers"),
        (SVG.format('<path d="M 5e8 1 L 5 5"/>'), "absurdly far"),
        (SVG.format('<g transform="scale(1e9)">' * 40 + '<path d="M1 1 5 5"/>' + "</g>" * 40), "not finite"),
        (SVG.format('<g transform="spin(3)"/>'), "spin"),
        (SVG.format('<g transform="rotate(1 2)"/>'), "rotate"),
        (SVG.format('<g transform="scale(1"/>'), "cannot be read"),
        (SVG.format(f'<g transform="{"a" * 1_000_000}"/>'), "longer than"),
        (SVG.format('<g data-weight="-1"/>'), "data-weight"),
        (SVG.format('<g data-weight="1e5"/>'), "data-weight"),
        (SVG.format('<g stroke-width="5furlongs"/>'), "not a length"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_bad_svg_is_refused(source: str, reason: str) -> None:
    with pytest.raises(SketchError) as caught:
        Sketch.from_svg(source)
    assert reason in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("encoding", ["none", "idna", "utf-7", "rot13"])
def test_unknown_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(SketchError, match="well-formed"):
        Sketch.from_svg(f'<?xml version="1.0" encoding="{encoding}"?><svg/>'.encode())


def test_refusals_name_the_line() -> None:
    with pytest.raises(SketchError, match="line 3:"):
        Sketch.from_svg("<svg>\n<g>\n<script/></g></svg>")


def test_long_lists_of_selectors_and_blanks_take_no_time() -> None:
    body = "x:1;" * 400_000
    selectors = ",".join(f".a{i}" for i in range(90_000))
    shape = f'<path d="M1 1 5 5" {LINE} transform="{" " * 4900}scale(1)"/>'
    assert len(svg(f"<style>{selectors}{{{body}}}</style>{shape * 20}").strokes) == 20
    with pytest.raises(SketchError, match="more than 100000 elements or rules"):
        svg(f"<style>{',' * 100_000}{{}}</style>")


def test_many_rules_for_many_shapes_are_refused() -> None:
    rules = "".join(f".a.b{i}{{fill:red}}" for i in range(5000))
    with pytest.raises(SketchError, match="too many rules"):
        svg(f"<style>{rules}</style>" + '<path class="a" d="M1 1 5 5"/>' * 5000)


def test_long_rules_take_no_time() -> None:
    many = "".join(f"p{i}:1;" for i in range(200_000))
    assert len(svg(f"<style>path{{{many}}}</style>" + f'<path d="M1 1 5 5" {LINE}/>' * 2000).strokes) == 2000


TAGS = ["svg", "g", "path", "rect", "circle", "line", "polyline", "use", "style", "text", "script", "defs"]
NAMES = [
    "d",
    "points",
    "x",
    "width",
    "height",
    "r",
    "rx",
    "transform",
    "style",
    "viewBox",
    "stroke-width",
    "href",
    "fill",
]
VALUES = st.one_of(
    st.sampled_from(
        ["0", "-1", "NaN", "1e999", "50%", "none", "#a", "M1 1L5 5z", "M0 0a1 1 0 0110 10", "rotate(5)", "q"]
    ),
    st.text(alphabet="MLCAaZz0123456789.-+eE ,()%", max_size=30),
    st.text(max_size=12),
)


def markup(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def write(tag: str, values: dict[str, str], inside: list[str]) -> str:
        escaped = {
            name: value.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
            for name, value in values.items()
        }
        attributes = "".join(f' {name}="{value}"' for name, value in escaped.items())
        return f"<{tag}{attributes}>{''.join(inside)}</{tag}>"

    values = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)
    return st.builds(write, st.sampled_from(TAGS), values, st.lists(children, max_size=3))


FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def only_our_error(make: Callable[[], Sketch]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with contextlib.suppress(SketchError):
            assert make().rasterize(size=(16, 16)).ink.shape == (16, 16)


@FUZZ
@given(st.recursive(st.just(""), markup, max_leaves=12))
def test_markup_gives_a_sketch_or_our_error(body: str) -> None:
    only_our_error(lambda: svg(body))


@FUZZ
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda data: b"<svg>" + data + b"</svg>")))
def test_bytes_give_a_sketch_or_our_error(data: bytes) -> None:
    only_our_error(lambda: Sketch.from_svg(data))


@FUZZ
@given(st.text(alphabet="MmLlHhVvCcSsQqTtAaZz 0123456789.,-e\n", max_size=60))
def test_path_data_gives_a_sketch_or_our_error(data: str) -> None:
    only_our_error(lambda: svg(f'<path d="M{data}"/>'))


# -- examples and real drawings


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.svg")), ids=lambda path: path.stem)
def test_example_sketches_fill_their_canvas(path: Path) -> None:
    sketch = Sketch.open(path)
    assert len(sketch.strokes) >= 4
    assert all(stroke.width is None for stroke in sketch.strokes)
    left, top, right, bottom = box(sketch)
    assert 0.7 < max(right - left, bottom - top) < 0.9
    assert abs((left + right) / 2 - 0.5) < 0.05
    assert abs((top + bottom) / 2 - 0.5) < 0.07


def test_there_are_ten_examples() -> None:
    assert len(list(EXAMPLES.glob("*.svg"))) == 10


@pytest.mark.shared
def test_quickdraw_drawings(shared: Path) -> None:
    for sketch in islice(read_ndjson(shared / "data" / "quickdraw" / "quickdraw.ndjson.gz"), 200):
        mapped = sketch.rasterize(size=(64, 64))
        assert not mapped.blank
        assert sketch.name
        assert 1 < mapped.ink.sum() < 0.5 * 64 * 64
        assert mapped.ink[:3].max() == mapped.ink[:, :3].max() == 0


@pytest.mark.shared
def test_tu_berlin_drawings(shared: Path) -> None:
    paths = sorted((shared / "data" / "tuberlin").glob("*/*.png"))[::40]
    maps = [Sketch.open(path).rasterize(size=(64, 64)) for path in paths]
    assert len(maps) >= 5
    assert all(0.01 < mapped.ink.mean() < 0.35 for mapped in maps)
    assert np.median([thickness(mapped) for mapped in maps]) == pytest.approx(1.7, abs=0.3)


def test_a_larger_canvas_leaves_paper_around_and_a_smaller_one_cuts():
    line = Sketch.from_strokes([[[0.5, 0.25], [0.5, 0.75]]])
    wide = line.on_canvas(2.0)
    assert wide.aspect == 2.0
    np.testing.assert_allclose(wide.strokes[0].points, [[0.5, 0.25], [0.5, 0.75]])
    cut = line.on_canvas(2.0, cut=True)
    np.testing.assert_allclose(cut.strokes[0].points, [[0.5, 0.0], [0.5, 1.0]])
    aside = Sketch.from_strokes([[[0.0, 0.5], [1.0, 0.5]]])
    np.testing.assert_allclose(aside.on_canvas(2.0).strokes[0].points, [[0.25, 0.5], [0.75, 0.5]])
    assert aside.on_canvas(1.0).strokes[0].points.tolist() == aside.strokes[0].points.tolist()


def test_a_cropped_drawing_keeps_its_lines_where_they_were_and_as_wide():
    ink = np.zeros((100, 200), np.float32)
    ink[40:61, 100] = 1
    drawn = Stroke(points=np.array([[0.5025, 0.4], [0.5025, 0.61]], np.float32), width=0.05, weight=2)
    strokes, raster = Sketch(strokes=(drawn,), aspect=2.0), Sketch(raster=ink, aspect=2.0)
    box = (0.4, 0.25, 0.65, 0.75)
    cropped = strokes.cropped(box)
    (stroke,) = cropped.strokes
    assert cropped.aspect == pytest.approx(1.0)
    np.testing.assert_allclose(stroke.points, [[0.41, 0.3], [0.41, 0.72]], rtol=1e-5)
    assert (stroke.width, stroke.weight) == (0.05, 2)
    for part in ((0.4, 0.25, 0.65, 0.75), (0.403, 0.252, 0.653, 0.752)):  # at whole cells of the raster, and not
        lines, filled = (one.cropped(part) for one in (Sketch.from_strokes([drawn.points], aspect=2.0), raster))
        maps = [one.rasterize(size=(100, 100)).ink for one in (lines, filled)]
        assert maps[1].sum() == pytest.approx(maps[0].sum(), rel=0.15)
        assert np.nonzero(maps[1] > 0.5)[1].mean() == pytest.approx(np.nonzero(maps[0] > 0.5)[1].mean(), abs=1)
    assert strokes.cropped((0, 0, 1, 1)) is strokes
    assert strokes.cropped((0.8, 0, 1, 1)).rasterize(size=(64, 64)).blank
    tiny = raster.cropped((0.49, 0.5, 0.51, 0.54)).raster
    assert tiny is not None
    assert tiny.shape == (16, 16)


@pytest.mark.parametrize("box", [(0, 0, 0, 1), (-0.1, 0, 1, 1), (0, 0.5, 1, 1.01), (0.6, 0, 0.4, 1)])
def test_a_box_that_is_no_part_of_the_canvas_is_refused(box: tuple[float, float, float, float]):
    with pytest.raises(SketchError, match="is no part of the canvas"):
        Sketch.from_strokes([[[0.1, 0.1], [0.9, 0.9]]]).cropped(box)


def test_any_drawing_can_be_laid_on_any_canvas() -> None:
    ink = np.zeros((1024, 1024), np.float32)
    ink[:, 512] = 1
    for aspect in (9.0, 32.0, 1 / 32):
        raster = Sketch(raster=ink).on_canvas(aspect)
        assert Sketch.from_json(raster.to_json()).aspect == aspect
        assert not raster.rasterize(size=(256, 256)).blank
    wide = Sketch(strokes=(Stroke(points=np.array([[0.1, 0.5], [0.9, 0.5]]), width=0.2),), aspect=8.0)
    assert wide.on_canvas(2.0, cut=True).strokes[0].width == 0.2
    with pytest.raises(SketchError, match="36000000 pixels"):
        Sketch(raster=np.zeros((6000, 6000), np.float32))


def around(sketch: Sketch, *, size: tuple[int, int] = (256, 256)) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the ink."""
    rows, columns = np.nonzero(sketch.rasterize(size=size).ink > 0.5)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["strokes", "raster", "both"])
def test_a_trimmed_drawing_fills_the_picture_whatever_it_is_drawn_with(kind: str, aspect: float):
    """A small box twice as wide as high, off the middle: centred, and the margin of 8 % on its longer side."""
    width, height = (round(600 * min(1, aspect)), round(600 * min(1, 1 / aspect)))
    box = np.array([[0.2, 0.1], [0.4, 0.1], [0.4, 0.1 + 0.1 * aspect], [0.2, 0.1 + 0.1 * aspect], [0.2, 0.1]])
    picture = Image.new("F", (width, height))
    ImageDraw.Draw(picture).line([tuple(point) for point in box * (width, height)], fill=1, width=5)
    strokes = (Stroke(points=box),) if kind != "raster" else ()
    raster = np.asarray(picture) if kind != "strokes" else None
    sketch = Sketch(strokes=strokes, raster=raster, aspect=aspect)
    trimmed = sketch.trimmed()
    assert around(trimmed) == pytest.approx((20, 74, 235, 181), abs=9)
    assert trimmed.aspect == pytest.approx((2 + 0.38) / (1 + 0.38), abs=0.1)
    assert around(trimmed.trimmed()) == pytest.approx(around(trimmed), abs=3)
    mapped, other = (one.rasterize(size=(64, 64)) for one in (trimmed, Sketch.from_json(trimmed.to_json())))
    assert np.array_equal(mapped.ink, other.ink)


def sheet(*marks: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """White paper of 1000 × 1000 with a box of 120 × 100 drawn at (200, 300), and these (left, top, right, bottom)."""
    ink = np.zeros((1000, 1000), np.float32)
    ink[300:400, 200:320] = 1
    ink[304:396, 204:316] = 0
    for left, top, right, bottom in marks:
        ink[top:bottom, left:right] = 1
    return ink


def test_how_much_of_a_picture_a_drawing_fills():
    box = np.array([[0.2, 0.1], [0.4, 0.1], [0.4, 0.5], [0.2, 0.5], [0.2, 0.1]])
    assert Sketch.from_strokes([box]).filled == pytest.approx(0.08, abs=0.02)
    assert Sketch.from_strokes([box], aspect=0.5).filled == pytest.approx(0.04, abs=0.015)
    assert [Sketch.from_strokes([box], aspect=aspect).elongation for aspect in (1, 4)] == pytest.approx([0.5, 2])
    assert Sketch(raster=sheet((950, 930, 951, 931))).filled == pytest.approx(Sketch(raster=sheet()).filled, abs=0.01)
    assert Sketch(raster=np.zeros((64, 64), np.float32)).filled == 0


def test_small_areas_keep_their_outline_when_trimmed():
    y, x = np.mgrid[:1000, :1000]
    disc = Sketch(raster=((x - 300) ** 2 + (y - 600) ** 2 < 30**2).astype(np.float32)).trimmed()
    ink = disc.rasterize(size=(256, 256)).ink
    assert ink[128, 128] == 0
    assert around(disc) == pytest.approx((20, 20, 235, 235), abs=8)
    assert ink.mean() == pytest.approx(math.pi * 0.84 * LINE_WIDTH, rel=0.25)


@pytest.mark.parametrize("dirt", [(950, 930, 951, 931), (900, 100, 904, 104), (0, 0, 6, 1000), (0, 985, 700, 1000)])
def test_dirt_is_cut_off_with_the_paper(dirt: tuple[int, int, int, int]):
    clean, dirty = (Sketch(raster=ink).trimmed() for ink in (sheet(), sheet(dirt)))
    assert np.array_equal(clean.raster, dirty.raster)
    assert clean.aspect == dirty.aspect


def test_dots_that_belong_to_a_drawing_are_kept_when_it_is_trimmed():
    dots = [(250, 270, 258, 278), (260, 420, 268, 428)]
    left, top, right, bottom = around(Sketch(raster=sheet(*dots)).trimmed())
    assert bottom - top > right - left
    assert (top, bottom) == pytest.approx((20, 235), abs=4)
    only = np.zeros((1000, 1000), np.float32)
    only[200:204, 200:204] = only[500:504, 700:704] = 1
    assert around(Sketch(raster=only).trimmed())[::2] == pytest.approx((20, 235), abs=4)


def test_what_was_off_the_page_stays_off_it():
    drawn, beyond = [[0.8, 0.4], [0.95, 0.6]], [[1.02, 0.3], [1.02, 0.7]]
    trimmed = Sketch.from_strokes([drawn, beyond]).trimmed()
    assert len(trimmed.strokes) == 1
    far = Sketch.from_strokes([[[0.5, 0.5], [0.51, 0.51]], [[2e4, 2e4], [3e4, 3e4]]])
    assert len(far.trimmed().strokes) == 1
    ground = Sketch.from_strokes([[[0.7, 0.5], [1.3, 0.5], [1.3, 0.6], [0.7, 0.6]]]).trimmed()
    assert [len(stroke.points) for stroke in ground.strokes] == [2, 2]
    assert around(ground)[::2] == pytest.approx((20, 235), abs=4)
    assert ground.trimmed().aspect == pytest.approx(ground.aspect, abs=0.01)


def test_what_trimming_cannot_change_stays():
    blank = Sketch(raster=np.zeros((64, 64), np.float32))
    assert blank.trimmed() is blank
    full = Sketch.from_strokes([[[0.08, 0.08], [0.92, 0.92]]])
    np.testing.assert_allclose(full.trimmed().strokes[0].points, full.strokes[0].points, atol=0.003)
    weighted = Sketch(strokes=(Stroke(np.float32([[0.5, 0.5], [0.6, 0.6]]), width=0.05, weight=2, closed=True),))
    (stroke,) = weighted.trimmed().strokes
    assert (stroke.width, stroke.weight, stroke.closed) == (0.05, 2, True)


@pytest.mark.parametrize("points", [[[0.5, 0.5]], [[0.1, 0.5], [0.9, 0.5]], [[0.999, 0.0], [0.999, 1.0]]])
def test_dots_and_straight_lines_can_be_trimmed(points: list[list[float]]):
    for aspect in (1 / 32, 1.0, 32.0):
        trimmed = Sketch.from_strokes([points], aspect=aspect).trimmed()
        assert not trimmed.rasterize(size=(64, 64)).blank
        assert Sketch.from_json(trimmed.to_json()).aspect == trimmed.aspect
    dot = np.zeros((512, 512), np.float32)
    dot[1:3, 1:3] = 1
    assert not Sketch(raster=dot).trimmed().rasterize(size=(64, 64)).blank


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_rasters_and_strokes_stay_together_on_another_canvas(aspect: float, cut: bool):
    ink = np.zeros((64, 64), np.float32)
    ink[16:49, 32] = 1
    raster = Sketch(raster=ink).on_canvas(aspect, cut=cut)
    lines = Sketch.from_strokes([[[32.5 / 64, 16 / 64], [32.5 / 64, 49 / 64]]]).on_canvas(aspect, cut=cut)
    size = (round(64 * max(1.0, aspect)), round(64 * max(1.0, 1 / aspect)))
    one, other = (sketch.rasterize(size=size).ink for sketch in (raster, lines))
    assert one.max() == other.max() == 1
    assert np.abs(one.sum(axis=0).argmax() - other.sum(axis=0).argmax()) <= 1
    assert abs(one.sum() - other.sum()) < 0.25 * other.sum()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"type": "excalidraw", "elements": [], "appState": {}}', "Excalidraw"),
        ('{"tldrawFileFormatVersion": 1, "records": []}', "tldraw"),
        ('{"strokes": []}', "to_json"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(SketchError, match=reason) as caught:
        Sketch.open(tmp_path / "mine.json")
    assert "mine.json" in caught.value.message
