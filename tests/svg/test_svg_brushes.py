import time

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from drawings import LINE, svg
from sketchguide.errors import SketchguideWarning
from sketchguide.sketch import Sketch


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


def test_many_holes_take_the_time_of_their_number() -> None:
    def seconds(side: int) -> float:
        triangles = "".join(f"M{x} {y}h0.5v0.5z" for x in range(side) for y in range(side))
        begun = time.process_time()
        assert svg(f'<path fill-rule="evenodd" d="{triangles}"/>').raster is not None
        return time.process_time() - begun

    seconds(10)
    assert seconds(80) < 8 * seconds(40) + 0.2  # quadratic it would be 16 times


def test_lines_that_were_joined_into_one_even_odd_path_are_read_as_lines() -> None:
    """As Affinity and Figma write flattened drawings: forty short marks of a brush in one path."""
    marks = "".join(f"M{10 + 8 * (n % 10)} {10 + 20 * (n // 10)}h1.5v12h-1.5z" for n in range(40))
    sketch = svg(f'<path d="{marks}" fill-rule="evenodd"/>')
    assert not sketch.strokes
    ink = sketch.rasterize(size=(100, 100)).ink
    assert ink[14:20, 10:12].max(axis=1).min() > 0.5
    single = svg(f'<path d="{marks}"/>').rasterize(size=(100, 100)).ink
    assert np.array_equal(ink, single)


@pytest.mark.parametrize(
    "line",
    ['stroke="#000" stroke-width="0.2"', 'stroke="rgb(0,0,0)" stroke-width="3"', 'stroke="red" stroke-width="0.05"'],
)
def test_a_line_around_a_mark_that_shows_nothing_of_its_own_leaves_it_a_mark(line: str) -> None:
    mark, bare = (svg(f'<path d="{ribbon(4)}" fill="rgb(0,0,0)" {more}/>') for more in (line, ""))
    assert not mark.strokes
    assert np.array_equal(mark.rasterize(size=(64, 64)).ink, bare.rasterize(size=(64, 64)).ink)


def test_a_mark_with_a_line_that_shows_is_its_outline() -> None:
    for line in (
        'fill="#fda" stroke="red" stroke-width="2"',
        'fill="#fda" stroke="black" stroke-width="0.5"',
        'fill="white" stroke="black" stroke-width="0.5"',
        'fill="white" stroke="black" stroke-width="0.05"',
        'fill="black" stroke="black" stroke-width="0.5" data-weight="2"',
    ):
        (outline,) = svg(f'<path d="{ribbon(4)}" {line}/>').strokes
        assert outline.closed
    (wave,) = svg('<path d="M10 50Q50 40 90 50" stroke="black" fill="black"/>').strokes  # a curve whose fill was left
    assert not wave.closed


def test_marks_behind_a_shape_and_marks_of_the_papers_colour_are_no_ink() -> None:
    mark = '<path d="M5 48 95 48 95 52 5 52Z"/>'
    whole = svg(mark).rasterize(size=(100, 100)).ink
    covered = svg(mark + '<rect x="30" y="20" width="40" height="60" fill="#fff" stroke="#000"/>')
    ink = covered.rasterize(size=(100, 100)).ink
    assert whole[50, 50] > 0.5
    assert ink[50, 40:60].max() < 0.1
    assert ink[50, 15] > 0.5
    corrected = svg(mark + '<path d="M30 47 70 47 70 53 30 53Z" fill="white"/>')
    ink = corrected.rasterize(size=(100, 100)).ink
    assert ink[40:60, 40:60].max() < 0.1
    assert ink[50, 15] > 0.5
    on_a_ball = svg('<circle cx="50" cy="50" r="40"/>' + mark.replace("/>", ' fill="#fff"/>'))
    assert on_a_ball.rasterize(size=(100, 100)).ink[50, 50] > 0.5
    shining = svg(mark + '<rect x="30" y="20" width="40" height="60" fill="#fff" opacity="0.5" stroke="#000"/>')
    assert shining.rasterize(size=(100, 100)).ink[50, 50] > 0.5


def test_brushes_without_end_cost_no_hours() -> None:
    mark = '<path d="M0 0 100 90 100 92Z"/>'
    with pytest.warns(SketchguideWarning, match="4946 brush mark"):
        sketch = svg(mark * 5_000)
    assert sketch.raster is not None
    assert sketch.strokes
