import gzip
import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from drawings import EXAMPLES, box, difference, drawn, same
from sketchguide.errors import SketchError, SketchguideWarning
from sketchguide.sketch import Sketch, SpatialMap, read_ndjson
from sketchguide.strokes import LINE_WIDTH, MAX_POINTS, Stroke


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


def test_a_name_that_is_no_text_is_kept_as_far_as_it_can_be(tmp_path: Path) -> None:
    file = tmp_path / "caf\udce9.svg"
    try:
        file.write_text('<svg viewBox="0 0 9 9"><path d="M1 1L8 8" stroke="black"/></svg>')
    except (OSError, UnicodeError):
        pytest.skip("this file system holds names that are text alone")
    assert Sketch.open(file).name == "caf?"


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


@pytest.mark.shared
def test_quickdraw_drawings(shared: Path) -> None:
    for sketch in islice(read_ndjson(shared / "data" / "quickdraw" / "quickdraw.ndjson.gz"), 200):
        mapped = sketch.rasterize(size=(64, 64))
        assert not mapped.blank
        assert sketch.name
        assert 1 < mapped.ink.sum() < 0.5 * 64 * 64
        assert mapped.ink[:3].max() == mapped.ink[:, :3].max() == 0


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


def test_what_is_no_file_and_no_size_is_refused_with_what_to_do() -> None:
    with pytest.raises(SketchError, match="takes the name of a file, not a Image") as caught:
        Sketch.open(Image.new("L", (64, 64)))
    assert "from_image" in caught.value.hint
    with pytest.raises(SketchError, match=r"size is 64; it must be \(width, height\)"):
        Sketch().rasterize(size=64)


def test_unpacking_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "bomb.svgz").write_bytes(gzip.compress(b"<svg>" + bytes(20_000_000), 1))
    with pytest.raises(SketchError, match="10 MB"):
        Sketch.open(tmp_path / "bomb.svgz")


def test_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cut.svg"
    file.write_text("<svg")
    with pytest.raises(SketchError, match=r"cut\.svg: The SVG drawing, line 1"):
        Sketch.open(file)


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


# -- the canvas


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


def test_any_drawing_can_be_laid_on_any_canvas() -> None:
    ink = np.zeros((1024, 1024), np.float32)
    ink[:, 512] = 1
    for aspect in (9.0, 32.0, 1 / 32):
        raster = Sketch(raster=ink).on_canvas(aspect)
        assert Sketch.from_json(raster.to_json()).aspect == aspect
        assert not raster.rasterize(size=(256, 256)).blank
    wide = Sketch(strokes=(Stroke(points=np.array([[0.1, 0.5], [0.9, 0.5]]), width=0.2),), aspect=8.0)
    assert wide.on_canvas(2.0, cut=True).strokes[0].width == 0.2
    with pytest.raises(SketchError, match="36006000 pixels"):
        Sketch(raster=np.zeros((6000, 6001), np.float32))


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


def test_a_file_name_in_place_of_a_picture_is_told_of() -> None:
    with pytest.raises(
        SketchError, match=r"The picture is a str; it must be a PIL image, which Image.open\(file\) gives"
    ):
        Sketch.from_image("cat.png")  # type: ignore[arg-type]
