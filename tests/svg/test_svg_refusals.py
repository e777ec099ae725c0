"""What is refused of SVG, and that nothing else goes wrong whatever is given."""

import contextlib
import warnings
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drawings import SVG, svg
from sketchguide.errors import SketchError
from sketchguide.sketch import Sketch

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
        (SVG.format(f'<path d="M 1 1 A {"1 " * 100_000}"/>'), "seven values"),
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


def test_clones_of_clones_count_as_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sketchguide.svg.scanner._MAX_ELEMENTS", 5_000)  # of which each takes some microseconds
    with pytest.raises(SketchError, match="more than 5000 elements"):
        Sketch.from_svg(SVG.format(LAUGHS + '<use href="#g17"/>'))
