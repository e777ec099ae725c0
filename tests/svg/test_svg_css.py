import warnings

import pytest

from drawings import LINE, svg
from sketchguide.errors import SketchError, SketchguideWarning


def test_a_style_may_have_comments() -> None:
    assert len(svg('<path d="M1 1 9 9" style="/* a */stroke:black;/*fill:red;*/fill:none"/>').strokes) == 1


@pytest.mark.parametrize("hostile", ['<path stroke="rgba(0,0,0,{}x)" d="M0 0L9 9"/>', "<style>{}</style>"])
def test_styles_are_read_in_the_time_that_their_length_takes(hostile: str) -> None:
    svg(hostile.format(("@" if "style" in hostile else "0") * 2_000_000))  # quadratic, this took hours


def test_rules_for_other_media_do_not_count() -> None:
    rules = "@import url(a.css); @media print{.x{fill:red} .a{display:none}} .b{display:none}"
    shapes = f'<path class="a" d="M1 1 9 9" {LINE}/><path class="b" d="M1 1 9 9" {LINE}/>'
    assert len(svg(f"<style>{rules}</style>{shapes}").strokes) == 1


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


def test_a_style_sheet_may_come_last_and_is_for_the_outermost_too() -> None:
    shape = '<path class="a" d="M1 1 9 9 1 9"/>'
    for sheets in ("<style>.a{display:none}</style>", "<style>.a{stroke:red}</style><style>.a{display:none}</style>"):
        assert not svg(shape + sheets).strokes
    twice = f"<style>.a{{display:none}}</style>{shape}<style>.a{{display:inline}}</style>"
    assert len(svg(twice).strokes) == 1
    assert not svg(shape + "<style>svg{visibility:hidden}</style>").strokes


def test_an_import_with_a_semicolon_hides_no_rule() -> None:
    sheet = "@import url('https://fonts/css2?family=Inter:wght@400;700');.a{display:none}.b{fill:none;stroke:#000}"
    shapes = '<rect class="a" width="9" height="9"/><path class="b" d="M1 1 9 9"/>'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(svg(f"<style>{sheet}</style>{shapes}").strokes) == 1


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
