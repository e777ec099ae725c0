import time
import warnings

import numpy as np
import pytest

from drawings import LINE, SVG, box, svg
from sketchguide.errors import SketchError, SketchguideWarning
from sketchguide.sketch import Sketch
from sketchguide.strokes import LINE_WIDTH


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


@pytest.mark.parametrize("wrapper", HIDDEN)
def test_what_is_not_seen_is_not_drawn(wrapper: str) -> None:
    assert svg(wrapper.format('<path d="M1 1 9 9"/>')).strokes == ()


def test_a_switch_shows_the_first_that_it_can() -> None:
    first, second = (f'<path d="M{x} 1 9 9" {LINE}/>' for x in (1, 2))
    foreign = '<foreignObject requiredExtensions="http://example.org"/>'
    (stroke,) = svg(f"<switch>{second}{first}</switch>").strokes
    assert np.array_equal(stroke.points, svg(second).strokes[0].points)
    nested = f"<switch>{foreign}<g>{first}<switch>{second}{first}</switch></g>{first}</switch>{first}"
    assert len(svg(nested).strokes) == 3


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


@pytest.mark.parametrize("mark", ['marker-end="url(#a)"', 'style="marker-end:url(#a)"'])
def test_arrowheads_are_told(mark: str) -> None:
    unmarked = '<path d="M5 9H95" fill="none" stroke="black" marker-end="none" style="marker:none;marker-mid: none"/>'
    assert len(svg(unmarked).strokes) == 1
    with pytest.warns(SketchguideWarning, match=r"1 line\(s\) of the SVG drawing have arrowheads"):
        assert len(svg(f'<path d="M5 5H95" {LINE} {mark}/>').strokes) == 1


def test_text_is_left_out_with_a_warning() -> None:
    with pytest.warns(SketchguideWarning, match="1 text element"):
        assert len(svg(f'<text x="5" y="5">hello</text><path d="M5 5 95 5" {LINE}/>').strokes) == 1


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


@pytest.mark.parametrize(
    "around", ['<path d="M0 0L100 0 100 100 0 100Z"/>', '<polygon points="-9,0 100,0 100,150 -9,150"/>']
)
def test_a_clip_of_any_outline_around_the_page_hides_nothing(around: str) -> None:
    """As Google's drawings have it."""
    drawn = f'<g clip-path="url(#p.0)"><path d="M5 5H95" {LINE}/></g>'
    assert len(svg(f'<clipPath id="p.0">{around}</clipPath>{drawn}').strokes) == 1
    hole = '<path clip-rule="evenodd" d="M0 0H100V100H0z M20 20h60v60h-60z"/>'
    for less in (around.replace("100", "80"), around.replace("/>", ' transform="scale(.5)"/>'), hole, '<path d="no"/>'):
        with pytest.warns(SketchguideWarning, match="1 clip"):
            svg(f'<clipPath id="p.0">{less}</clipPath>{drawn}')


def test_clips_and_boxes_that_are_cloned_without_end_are_looked_at_once() -> None:
    points = " ".join(f"{n % 97} {n % 89}" for n in range(20_000))
    clip = f'<clipPath id="c"><path d="M{points}"/></clipPath>'
    hidden = f'<path id="h" display="none" style="transform-box:fill-box" transform="rotate(9)" d="M{points}"/>'
    begun = time.process_time()
    assert len(svg(clip + '<use href="#c"/>' * 2_000 + f'<path d="M5 5H95" {LINE}/>').strokes) == 1
    assert len(svg(hidden + '<use href="#h"/>' * 2_000 + f'<path d="M5 5H95" {LINE}/>').strokes) == 1
    assert time.process_time() - begun < 10, "each of 4000 times it would take 20 ms"


@pytest.mark.parametrize(
    "shown",
    [
        '<image xlink:href="data:,"/>',
        '<use xlink:href="#scan" transform="scale(.1)"/>',
        '</pattern><pattern id="q"><image xlink:href="data:,"/>',
    ],
)
@pytest.mark.parametrize("fill", ['fill="url(#p)"', "style=\"fill: url('#p')\""])
def test_a_picture_that_fills_a_shape_is_refused(shown: str, fill: str) -> None:
    """As Figma exports a scan that was pasted."""
    parts = f'<defs><pattern id="p" xlink:href="#q">{shown}</pattern><image id="scan" xlink:href="data:,"/></defs>'
    with pytest.raises(SketchError, match="filled with a picture") as caught:
        svg(f'<rect width="100" height="100" {fill}/>{parts}')
    assert "PNG" in caught.value.hint
    assert len(svg(f'<rect x="5" y="5" width="50" height="50" fill="url(#g)"/>{parts}').strokes) == 1
    assert len(svg(f'<g {fill}><rect x="5" y="5" width="50" height="50" fill="red"/></g>{parts}').strokes) == 1


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


def test_links_of_shapes_and_of_the_footer_of_diagrams_are_let_be() -> None:
    linked = f'<a href="https://example.org"><path d="M5 5 95 5" {LINE}/></a>'
    footer = '<switch><g requiredFeatures="x"/><a xlink:href="https://example.org"><text>no</text></a></switch>'
    assert len(svg(linked + footer).strokes) == 1


def test_prefixed_and_unqualified_names_are_read() -> None:
    body = f'<s:path d="M5 5 95 5" {LINE}/>'
    assert len(Sketch.from_svg(f'<s:svg xmlns:s="http://www.w3.org/2000/svg">{body}</s:svg>').strokes) == 1
    assert len(Sketch.from_svg(f'<svg><path d="M5 5 95 5" {LINE}/></svg>').strokes) == 1


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
