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


def test_many_holes_cost_no_hours() -> None:
    triangles = "".join(f"M{x} {y}h0.5v0.5z" for x in range(100) for y in range(100))
    assert svg(f'<path fill-rule="evenodd" d="{triangles}"/>' * 2).strokes


def test_brushes_without_end_cost_no_hours() -> None:
    mark = '<path d="M0 0 100 90 100 92Z"/>'
    with pytest.warns(SketchguideWarning, match="4946 brush mark"):
        sketch = svg(mark * 5_000)
    assert sketch.raster is not None
    assert sketch.strokes
