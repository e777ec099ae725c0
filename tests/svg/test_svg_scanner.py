import numpy as np
import pytest

from drawings import LINE, box, svg
from sketchguide.errors import SketchguideWarning
from sketchguide.sketch import Sketch


def test_units_and_percentages() -> None:
    sketch = svg(
        f'<line x1="10%" y1="20%" x2="96px" y2="1in" {LINE}/><line x1="25.4mm" y1="2.54cm" x2="72pt" y2="6pc" {LINE}/>'
    )
    assert sketch.strokes[0].points == pytest.approx(np.array([[0.1, 0.2], [0.96, 0.96]]))
    assert sketch.strokes[1].points == pytest.approx(np.array([[0.96, 0.96], [0.96, 0.96]]))


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


@pytest.mark.parametrize(
    ("css", "plain"),
    [
        ("translate(10px, 5px) rotate(20deg)", "translate(10 5) rotate(20)"),
        ("translateX(1.5e1px) translateY(5px)", "translate(15 5)"),
        ("scaleX(0.5) scaleY(2)", "scale(0.5 2)"),
        ("translate3d(10px, 5px, 0px) scale3d(.5, 2, 1)", "translate(10 5) scale(0.5 2)"),
        ("translateZ(0) rotate(.125turn) scaleZ(3)", "rotate(45)"),
        ("rotateZ(0.5rad) rotate(-10grad)", "rotate(28.64788975654116) rotate(-9)"),
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


@pytest.mark.parametrize("origin", ["50% 50%", "center", "left bottom", ""])
def test_transforms_turn_about_a_place_in_the_shapes_own_box(origin: str) -> None:
    """As Boxy SVG writes them."""
    x, y = {"50% 50%": (50, 45), "center": (50, 45), "left bottom": (20, 60), "": (20, 30)}[origin]
    rect = f'<rect x="20" y="30" width="60" height="30" {LINE} '
    turned = svg(f'{rect} transform="rotate(30)" style="transform-box: fill-box; transform-origin: {origin}"/>')
    if not origin:
        turned = svg(f'{rect} transform="rotate(30)" style="transform-box: fill-box"/>')
    assert box(turned) == pytest.approx(box(svg(f'{rect} transform="rotate(30 {x} {y})"/>')))


def test_groups_that_turn_about_a_place_in_their_own_box_are_told() -> None:
    with pytest.warns(SketchguideWarning, match=r"1 group\(s\) of the SVG drawing are transformed about a place"):
        svg(f'<g style="transform-box: fill-box" transform="rotate(30)"><path d="M10 10H90" {LINE}/></g>')


@pytest.mark.parametrize("turn", ["matrix(-1,0,0,1,0,0)", "rotate(180)", "scale(1 -1)"])
def test_a_page_is_turned_about_its_middle(turn: str) -> None:
    page = f'<svg viewBox="-50 0 100 50" transform="{turn}"><path d="M-40 10 20 10" {LINE}/></svg>'
    (stroke,) = Sketch.from_svg(page).strokes
    assert ((stroke.points > 0) & (stroke.points < 1)).all()
    mirrored = turn.startswith(("matrix", "rotate"))
    assert stroke.points[0, 0] == pytest.approx(0.9 if mirrored else 0.1)
