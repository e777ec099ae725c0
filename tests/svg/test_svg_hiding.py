import tracemalloc

import pytest

from drawings import LINE, svg
from sketchguide.errors import SketchguideWarning


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


@pytest.mark.parametrize(
    "clear",
    [
        '<rect {} style="opacity:0.3;fill:#888;fill-opacity:1"/>',
        '<g opacity="0.3"><rect {} fill="#888" fill-opacity="1"/></g>',
        '<g style="opacity:.3"><g opacity="1"><rect {} fill="#888" stroke="#888" stroke-opacity="1"/></g></g>',
    ],
)
def test_what_shines_through_as_a_whole_hides_nothing_however_solid_its_paint(clear: str) -> None:
    line = f'<path d="M10 50H90" {LINE}/>'
    drawing = svg(line + clear.format('x="30" y="30" width="40" height="40"'))
    assert len(drawing.strokes) == 2
    assert drawing.strokes[0].points[:, 0].tolist() == pytest.approx([0.1, 0.9])


def test_many_lines_are_looked_at_one_by_one() -> None:
    """Of 1,000 lines behind one shape, each with a mask of its own would be 65 MB."""
    tracemalloc.start()
    try:
        lines = "".join(f'<path d="M{n % 100} {10 * (n // 100)}h0.5" {LINE}/>' for n in range(1_000))
        with pytest.warns(SketchguideWarning, match="lie behind others"):
            svg(lines + '<rect x="20" y="20" width="60" height="60" fill="white" stroke="black"/>')
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_too_many_shapes_are_drawn_whole() -> None:
    many = '<rect x="10" y="10" width="80" height="80" fill="white" stroke="black"/>' * 201
    with pytest.warns(SketchguideWarning, match="too many filled shapes to find what they hide"):
        assert len(svg(many).strokes) == 201
