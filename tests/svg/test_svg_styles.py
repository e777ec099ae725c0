import pytest

from drawings import LINE, svg


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


def test_what_is_shown_again_inside_something_hidden_is_drawn() -> None:
    line = f'<path d="M1 1 9 9" {LINE} visibility="visible"/>'
    assert len(svg(f'<g visibility="hidden">{line}<path d="M1 1 9 9" {LINE}/></g>').strokes) == 1


def test_shapes_without_line_and_fill_are_not_drawn() -> None:
    assert (
        svg('<g fill="none"><path d="M1 1 9 9"/><path d="M1 1 9 9" stroke="red" stroke-width="0"/></g>').strokes == ()
    )


@pytest.mark.parametrize(
    "colour", ["#000", "#0000000f", "rgb(0,0,0)", "rgb(0 0 0)", "rgba(0,0,0,0.05)", "hsl(0,0%,0%)"]
)
def test_black_is_seen(colour: str) -> None:
    assert len(svg(f'<path d="M1 1 9 9" stroke="{colour}" fill="none"/>').strokes) == 1


@pytest.mark.parametrize("text", ["null", "undefined", "inherit", "", "1,5"])
def test_opacities_that_are_none_are_passed_over_as_in_browsers(text: str) -> None:
    line = f'<path d="M5 5H95" {LINE} opacity="{text}" stroke-opacity="{text}" fill-opacity="{text}"/>'
    assert len(svg(line).strokes) == 1
