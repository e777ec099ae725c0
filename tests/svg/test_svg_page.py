import numpy as np
import pytest

from drawings import LINE, svg
from sketchguide.errors import SketchguideWarning
from sketchguide.sketch import Sketch
from sketchguide.strokes import LINE_WIDTH


def test_filled_shapes_give_their_closed_outline_and_paper_gives_nothing() -> None:
    paper = '<rect width="100%" height="100%" fill="#fff"/><path d="M-5-5H105V105H-5" fill="#eee"/>'
    sketch = svg(f'{paper}<path d="M20 20 80 20 50 70" fill="red"/><rect width="100" height="100" {LINE}/>')
    assert [stroke.closed for stroke in sketch.strokes] == [True, True]
    assert len(sketch.strokes[0].points) == 3


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


def test_paper_with_a_line_of_its_own_colour_is_paper() -> None:
    triangle = f'<path d="M10 10 90 10 50 90Z" {LINE} stroke-width="2"/>'
    for paper in ("#fff", "#ffe"):
        page = f'<rect width="100" height="100" fill="{paper}" stroke="{paper}"/>'
        (stroke,) = svg(page + triangle).strokes
        assert stroke.width is None


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


@pytest.mark.parametrize("style", ["background-color:#111", "background: #111; color: red"])
def test_the_page_may_say_what_colour_it_has(style: str) -> None:
    lines = '<path d="M10 10H90" stroke="#fff" fill="none"/><path d="M10 50H90" stroke="red" fill="none"/>'
    eye = '<circle cx="50" cy="80" r="9" fill="#fff"/>'
    sketch = Sketch.from_svg(f'<svg viewBox="0 0 100 100" style="{style}">{lines}{eye}</svg>')
    assert len(sketch.strokes) == 3
    for nothing in (
        "none",
        "transparent",
        "url(#a)",
        "rgba(0,0,0,.05)",
        "#0000000d",
        "rgb(0 0 0 / 5%)",
        "hsl(0 0% 0% / .1)",
    ):
        nothing = f"background: {nothing}"
        with pytest.warns(SketchguideWarning, match="colour of its paper"):
            assert len(Sketch.from_svg(f'<svg viewBox="0 0 100 100" style="{nothing}">{lines}{eye}</svg>').strokes) == 1


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


def test_white_shapes_show_only_on_something() -> None:
    white, dark = '<circle cx="50" cy="50" r="9" fill="#fff"/>', '<circle cx="50" cy="50" r="30"/>'
    assert not svg(white).strokes
    assert len(svg(dark + white).strokes) == 2
    assert len(svg(white + dark).strokes) == 1


def test_a_line_without_a_pen_is_seen_alone_only() -> None:
    line = '<path d="M5 5H95"/>'
    assert len(svg(line).strokes) == 1
    assert len(svg(f'{line}<circle cx="50" cy="50" r="20"/>').strokes) == 1
    assert len(svg('<path d="M20 20L80 80L80 20L20 80z"/><circle cx="50" cy="90" r="5"/>').strokes) == 2


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
    (widest,) = Sketch.from_svg(f"{said}{line.replace('6', '7.5', 1)}</svg>").strokes
    assert widest.width == pytest.approx(3.75 * LINE_WIDTH)
    assert svg(line).strokes[0].width is None
