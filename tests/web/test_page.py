"""The page in a browser: Chromium of the distribution, driven by Playwright."""

import base64
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from served import Served, serving
from sketchguide import generation
from sketchguide.generation import Progress, run
from sketchguide.images import save_png
from sketchguide.pictures import RECIPE_KEY, Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.sketch import Sketch
from sketchguide.web import jobs
from sketchguide.web.jobs import Desk
from support import Tiny, save_adapter

NETWORK = "small"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
FAST = {"steps": 3}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: install the package chromium")
Opened = Callable[..., Page]

expect.set_options(timeout=20_000)  # ms: other tests run beside these


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def served(desk: Desk) -> Iterator[Served]:
    with serving(desk) as served:
        yield served


def held_at(step: int, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Before this is cleared, whatever is drawn stays at that step, and can be cancelled."""
    held = threading.Event()
    held.set()

    def waiting(*args: Any, **more: Any) -> Iterator[Picture | Progress]:
        for event in run(*args, **more):
            yield event
            while held.is_set() and isinstance(event, Progress) and event.done == step:
                time.sleep(0.02)
                yield event

    monkeypatch.setattr(jobs, "run", waiting)
    return held


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No picture is done before this is cleared."""
    return held_at(2, monkeypatch)


@pytest.fixture
def held_at_the_second(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Pictures are drawn one by one, and of several the second is not done before this is cleared."""
    monkeypatch.setattr(generation, "batch_size", lambda *_, **__: 1)
    return held_at(FAST["steps"] + 2, monkeypatch)


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page, ready to draw a cat in three steps. Errors of its scripts fail the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 1000}, has_touch=True)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    opened_anew(page, served.url)
    yield page
    context.close()
    assert not errors


def opened_anew(page: Page, url: str) -> None:
    """As if prompt and steps had been set before: setting them would ask for a picture."""
    kept = json.dumps({"prompt": "a cat", "settings": FAST})
    page.add_init_script(f"localStorage.getItem('sketchguide') ?? localStorage.setItem('sketchguide', '{kept}')")
    page.goto(url)
    expect(page.locator("#model")).to_have_text("tiny")


def another_tab(page: Page, served: Served) -> Page:
    """The page once more in the same browser, ready."""
    other = page.context.new_page()
    other.goto(served.url)
    expect(other.locator("#model")).to_have_text("tiny")
    return other


def setting(page: Page, name: str, value: str) -> None:
    page.locator("details").evaluate("one => (one.open = true)")
    page.fill(f"#set-{name}", value)
    page.press(f"#set-{name}", "Tab")


def draw_line(page: Page, *points: tuple[float, float], release: bool = True) -> None:
    page.locator("#paper").scroll_into_view_if_needed()
    box = page.locator("#paper").bounding_box()
    assert box
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    if release:
        page.mouse.up()


def saved(page: Page) -> dict[str, Any]:
    return json.loads(page.evaluate("localStorage.getItem('sketchguide')"))


def strokes(page: Page) -> list[dict[str, Any]]:
    return saved(page)["drawing"]["strokes"]


def painted(page: Page, x: float, y: float, *, canvas: str = "paper", clean: bool = False) -> None:
    """Wait until there is ink at that place, or none any more."""
    for _ in range(200):
        if ink(page, x, y, canvas=canvas) != clean:
            return
        page.wait_for_timeout(50)
    raise AssertionError("something is painted there" if clean else "nothing is painted there")


def comes_true(page: Page, expression: str) -> None:
    """Wait for it; `wait_for_function` would evaluate texts in the page, which its security policy forbids."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{expression} stays false")


def ink(page: Page, x: float, y: float, *, canvas: str = "paper") -> bool:
    """Whether there is ink on the canvas at that place."""
    alpha = """([name, x, y]) => { const one = document.getElementById(name);
        return one.getContext("2d").getImageData(x * one.width, y * one.height, 1, 1).data[3]; }"""
    return page.evaluate(alpha, [canvas, x, y]) > 0


def line_picture(path: Path) -> Path:
    """A file with one black line across the middle of white paper."""
    picture = Image.new("RGB", (200, 200), "white")
    picture.paste("black", (20, 96, 180, 102))
    picture.save(path)
    return path


def line_svg(path: Path, drawing: str = '<path d="M10 50L90 50"/>') -> Path:
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" stroke="black">{drawing}</svg>')
    return path


def pictures(page: Page) -> int:
    return page.locator("#history img").count()


def test_a_picture_follows_a_stroke(page: Page, desk: Desk):
    draw_line(page, (0.2, 0.2), (0.8, 0.2), (0.8, 0.8))
    expect(page.locator("#history img")).to_have_count(1)
    (stroke,) = strokes(page)
    assert stroke["points"][0] == pytest.approx([0.2, 0.2], abs=0.01)
    assert stroke["points"][-1] == pytest.approx([0.8, 0.8], abs=0.01)
    assert (stroke["width"], stroke["weight"], stroke["closed"]) == (None, 1, False)
    assert ink(page, 0.5, 0.2)
    assert not ink(page, 0.5, 0.5)
    made = next(iter(desk._jobs.values()))  # pyright: ignore[reportPrivateUsage]
    assert made.request.prompt == "a cat"
    assert made.request.seed == int(page.input_value("#seed"))
    assert made.request.sketch is not None
    assert Sketch.from_json(made.request.sketch).strokes[0].points.shape[1] == 2
    with page.expect_download() as downloading:
        page.click("#save")
    assert downloading.value.suggested_filename == f"a-cat-{made.request.seed}.png"
    assert downloading.value.path().read_bytes() == made.pictures[0][1]


def test_without_live_it_waits_for_the_button(page: Page):
    page.uncheck("#live")
    draw_line(page, (0.2, 0.2), (0.8, 0.8))
    time.sleep(0.6)
    assert pictures(page) == 0
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(1)


def test_a_new_stroke_takes_the_place_of_what_is_being_drawn(page: Page, desk: Desk, held: threading.Event):
    asked = desk._jobs  # pyright: ignore[reportPrivateUsage]
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    expect(page.locator("#status")).to_contain_text("of 3")
    before = len(asked)
    draw_line(page, (0.2, 0.4), (0.8, 0.4))
    for _ in range(400):
        jobs = list(asked.values())
        if len(jobs) > before and all(job.stop for job in jobs[:-1]):
            break
        page.wait_for_timeout(50)
    held.clear()
    expect(page.locator("#history img")).to_have_count(1)
    states = [job.state for job in asked.values()]
    assert states[-1] == "done"
    assert set(states[:-1]) == {"cancelled"}


@pytest.mark.usefixtures("held")
def test_stop(page: Page, desk: Desk):
    page.click("#draw")
    expect(page.locator("#status")).to_contain_text("of 3")
    page.click("#stop")
    expect(page.locator("#stop")).to_be_disabled()
    (job,) = desk._jobs.values()  # pyright: ignore[reportPrivateUsage]
    for _ in range(1200):
        if job.state == "cancelled":
            break
        time.sleep(0.05)
    assert job.state == "cancelled"
    assert pictures(page) == 0


def test_undo_redo_clear(page: Page):
    page.uncheck("#live")
    for y in (0.2, 0.4, 0.6):
        draw_line(page, (0.2, y), (0.8, y))
    page.keyboard.press("Control+z")
    page.click("#undo")
    assert len(strokes(page)) == 1
    page.keyboard.press("Control+Shift+Z")
    assert len(strokes(page)) == 2
    page.click("#clear")
    assert not strokes(page)
    assert page.locator("#clear").is_disabled()
    page.click("#undo")
    assert len(strokes(page)) == 2
    draw_line(page, (0.2, 0.9), (0.8, 0.9))
    assert page.locator("#redo").is_disabled()


def reach(page: Page) -> list[float]:
    """Left, right, top and bottom of the lines on the paper, as parts of it."""
    across, down = zip(*(point for stroke in strokes(page) for point in stroke["points"]), strict=True)
    return [min(across), max(across), min(down), max(down)]


def test_a_small_drawing_is_made_to_fill_the_paper(page: Page):
    assert page.locator("#enlarge").is_disabled()
    page.uncheck("#live")
    draw_line(page, (0.1, 0.1), (0.3, 0.1), (0.3, 0.2))
    page.click("#enlarge")
    comes_true(page, "JSON.parse(localStorage.getItem('sketchguide')).drawing.strokes[0].points[0][0] < 0.09")
    left, right, top, bottom = reach(page)
    assert (left, right) == (pytest.approx(0.07, abs=0.02), pytest.approx(0.93, abs=0.02))
    assert (top + bottom) / 2 == pytest.approx(0.5, abs=0.01)
    assert bottom - top == pytest.approx((right - left) / 2, abs=0.02)
    painted(page, 0.5, (1 - (right - left) / 2) / 2)
    page.click("#undo")
    assert reach(page) == pytest.approx([0.1, 0.3, 0.1, 0.2], abs=0.01)


def test_on_a_phone_the_picture_is_right_below_the_paper(page: Page):
    page.set_viewport_size({"width": 390, "height": 844})
    paper, picture = (page.locator(name).bounding_box() for name in ("#paper", "#result"))
    assert paper
    assert picture
    assert 0 < picture["y"] - (paper["y"] + paper["height"]) < 20
    assert picture["y"] + 0.75 * picture["height"] < 844


def test_a_line_that_is_drawn_meanwhile_is_kept(page: Page):
    page.uncheck("#live")
    draw_line(page, (0.4, 0.4), (0.6, 0.4))
    asked: list[Route] = []
    page.route("**/api/sketches?trim=true", lambda route: asked.append(route))
    with page.expect_request("**/api/sketches?trim=true"):
        page.click("#enlarge")
    draw_line(page, (0.4, 0.6), (0.6, 0.6))
    with page.expect_response("**/api/sketches?trim=true"):
        asked.pop().continue_()
    page.wait_for_timeout(300)
    assert reach(page) == pytest.approx([0.4, 0.6, 0.4, 0.6], abs=0.01)


def test_the_eraser_cuts_lines(page: Page):
    page.uncheck("#live")
    draw_line(page, (0.1, 0.5), (0.9, 0.5))
    page.check("input[value=eraser]")
    draw_line(page, (0.5, 0.3), (0.5, 0.7))
    left, right = strokes(page)
    assert left["points"][-1][0] == pytest.approx(0.48, abs=0.02)
    assert right["points"][0][0] == pytest.approx(0.52, abs=0.02)
    assert not ink(page, 0.5, 0.5)
    assert ink(page, 0.3, 0.5)


def test_mirror_size_and_firmness(page: Page):
    page.uncheck("#live")
    page.check("#mirror")
    page.locator("#size").fill("2")
    page.select_option("#firmness", "3")
    draw_line(page, (0.1, 0.2), (0.3, 0.6))
    page.check("input[value=eraser]")
    assert page.input_value("#size") == "1"
    page.keyboard.press("p")
    assert page.input_value("#size") == "2"
    one, other = strokes(page)
    assert [[1 - x, y] for x, y in one["points"]] == [pytest.approx(p, abs=1e-4) for p in other["points"]]
    assert one["weight"] == other["weight"] == 3
    assert one["width"] == pytest.approx(2 * 1.5 / 64)


def test_a_reload_in_the_middle_of_a_stroke_loses_nothing(page: Page):
    page.uncheck("#live")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    draw_line(page, (0.2, 0.6), (0.5, 0.6), (0.8, 0.6), release=False)
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny")
    expect(page.locator("#clear")).to_be_enabled()
    assert len(strokes(page)) == 2
    painted(page, 0.7, 0.6)
    assert page.input_value("#prompt") == "a cat"
    assert page.input_value("#set-steps") == "3"
    assert not page.is_checked("#live")


def test_a_reload_finds_the_picture_that_was_being_drawn(page: Page, held: threading.Event):
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    expect(page.locator("#status")).to_contain_text("of 3")
    page.reload()
    expect(page.locator("#status")).to_contain_text("of 3")
    held.clear()
    expect(page.locator("#history img")).to_have_count(1)
    assert "sketch" in page.evaluate("""async () => { const open = indexedDB.open("sketchguide", 1);
        await new Promise((done) => (open.onsuccess = done));
        const all = open.result.transaction("pictures").objectStore("pictures").getAll();
        await new Promise((done) => (all.onsuccess = done)); return all.result[0].request; }""")


@pytest.mark.parametrize("ending", ["pointercancel", "blur"])
def test_whoever_takes_the_pointer_away_the_stroke_stays(page: Page, ending: str):
    page.uncheck("#live")
    draw_line(page, (0.2, 0.2), (0.5, 0.2), (0.8, 0.2), release=False)
    if ending == "blur":
        page.evaluate("window.dispatchEvent(new Event('blur'))")
    else:
        page.locator("#paper").dispatch_event("pointercancel", {"pointerId": 1})
    (stroke,) = strokes(page)
    assert stroke["points"][-1][0] == pytest.approx(0.8, abs=0.01)


def test_a_palm_beside_the_pen_draws_nothing(page: Page):
    page.uncheck("#live")
    sequence = """(canvas) => { const box = canvas.getBoundingClientRect();
        canvas.setPointerCapture = () => {};
        const send = (type, pointerType, pointerId, x, y) => canvas.dispatchEvent(new PointerEvent(type, {
            pointerType, pointerId, clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
        send("pointerdown", "pen", 5, 0.2, 0.2);
        send("pointerdown", "touch", 6, 0.8, 0.8);
        send("pointermove", "pen", 5, 0.4, 0.4);
        send("pointermove", "touch", 6, 0.8, 0.9);
        send("pointerup", "pen", 5, 0.4, 0.4);
        send("pointerdown", "touch", 7, 0.8, 0.8);
        send("pointerup", "touch", 7, 0.8, 0.8); }"""
    page.locator("#paper").evaluate(sequence)
    (stroke,) = strokes(page)
    assert stroke["points"][0] == pytest.approx([0.2, 0.2], abs=0.01)
    assert stroke["weight"] == 1


def test_a_pen_that_is_pressed_hard_binds_more_firmly(page: Page):
    page.uncheck("#live")
    page.check("#pressure")
    stroke_of = """(canvas, pressure) => { const box = canvas.getBoundingClientRect();
        canvas.setPointerCapture = () => {};
        const send = (type, x) => canvas.dispatchEvent(new PointerEvent(type, {
            pointerType: "pen", pointerId: 5, pressure,
            clientX: box.left + x * box.width, clientY: box.top + 0.5 * box.height }));
        send("pointerdown", 0.2); send("pointermove", 0.5); send("pointerup", 0.5); }"""
    for pressure in (0.25, 0.5, 1.0):
        page.locator("#paper").evaluate(stroke_of, pressure)
    draw_line(page, (0.2, 0.2), (0.8, 0.2))  # of a mouse nothing is known
    assert [one["weight"] for one in strokes(page)] == [0.5, 1, 2, 1]


def test_a_drawing_is_opened_rubbed_out_and_sent(page: Page, desk: Desk, tmp_path: Path):
    page.uncheck("#live")
    page.set_input_files("#open", line_picture(tmp_path / "line.png"))
    expect(page.locator("#clear")).to_be_enabled()
    assert ink(page, 0.3, 0.5)
    page.check("input[value=eraser]")
    page.locator("#size").fill("3")
    draw_line(page, (0.5, 0.3), (0.5, 0.7))
    assert not ink(page, 0.5, 0.5)
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(1)
    job = next(iter(desk._jobs.values()))  # pyright: ignore[reportPrivateUsage]
    assert job.request.sketch is not None
    lines = Sketch.from_json(job.request.sketch).rasterize(size=(64, 64)).ink
    assert lines[31:33, 16].max() > 0.5
    assert lines[28:36, 32].max() < 0.1
    page.click("#undo")
    assert ink(page, 0.5, 0.5)


def test_strokes_go_out_and_come_back_as_svg(page: Page, tmp_path: Path):
    page.uncheck("#live")
    page.select_option("#firmness", "3")
    page.locator("#size").fill("3")  # of every line there is, which an SVG from elsewhere would have as usual
    draw_line(page, (0.2, 0.2), (0.8, 0.7))
    before = strokes(page)
    with page.expect_download() as downloading:
        page.click("#export")
    downloading.value.save_as(tmp_path / "drawing.svg")
    (stroke,) = Sketch.open(tmp_path / "drawing.svg").strokes
    assert stroke.weight == 3
    assert stroke.width == pytest.approx(before[0]["width"], rel=1e-2)
    assert np.abs(stroke.points - before[0]["points"]).max() < 1e-3
    page.click("#clear")
    page.set_input_files("#open", tmp_path / "drawing.svg")
    expect(page.locator("#clear")).to_be_enabled()
    assert strokes(page)[0]["weight"] == 3


def test_a_picture_is_taken_up_again_from_its_file_and_from_the_page(page: Page, tmp_path: Path):
    page.fill("#seed", "11")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    expect(page.locator("#history img")).to_have_count(1)
    with page.expect_download() as downloading:
        page.click("#save")
    downloading.value.save_as(tmp_path / "cat.png")
    page.uncheck("#live")
    page.click("#clear")
    page.fill("#prompt", "a dog")
    setting(page, "steps", "")
    page.set_input_files("#open", tmp_path / "cat.png")
    expect(page.locator("#prompt")).to_have_value("a cat")
    expect(page.locator("#clear")).to_be_enabled()
    assert (page.input_value("#seed"), page.input_value("#set-steps")) == ("11", "3")
    assert len(strokes(page)) == 1
    page.click("#clear")
    page.fill("#seed", "12")
    page.click("#takeup")
    expect(page.locator("#clear")).to_be_enabled()
    assert page.input_value("#seed") == "11"
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(2)
    with page.expect_download() as downloading:
        page.click("#save")
    assert downloading.value.path().read_bytes() == (tmp_path / "cat.png").read_bytes()


def test_a_drawing_with_a_picture_in_it_is_saved_whole(page: Page, tmp_path: Path):
    page.uncheck("#live")
    page.locator("#open").focus()  # by keyboard too
    page.set_input_files("#open", line_picture(tmp_path / "line.png"))
    expect(page.locator("#clear")).to_be_enabled()
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    with page.expect_download() as downloading:
        page.click("#export")
    downloading.value.save_as(tmp_path / "drawing.json")
    whole = Sketch.open(tmp_path / "drawing.json")
    assert whole.raster is not None
    assert len(whole.strokes) == 1


def test_a_browser_that_stores_nothing_draws_all_the_same(page: Page):
    blocked = "get() { throw new DOMException('blocked', 'SecurityError'); }"
    for name in ("sessionStorage", "localStorage", "indexedDB"):
        page.add_init_script(f"Object.defineProperty(window, '{name}', {{ {blocked} }})")
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny")
    page.fill("#prompt", "a cat")
    setting(page, "steps", "3")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    expect(page.locator("#history img")).to_have_count(1)


def test_a_saved_drawing_that_is_none_is_not_taken(page: Page):
    page.add_init_script(
        "sessionStorage.clear();"
        "localStorage.setItem('sketchguide', JSON.stringify({ drawing: { strokes: 5 }, prompt: 'a dog' }))"
    )
    page.reload()
    expect(page.locator("#prompt")).to_have_value("a dog")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    assert len(strokes(page)) == 1


def test_files_that_cannot_be_read_are_told(page: Page, tmp_path: Path):
    (tmp_path / "text.png").write_bytes(b"no picture")
    page.set_input_files("#open", tmp_path / "text.png")
    expect(page.locator("#told .error")).to_contain_text("not a readable picture")


def test_closeness_sets_several_settings(page: Page):
    page.uncheck("#live")
    page.select_option("#closeness", index=3)
    assert saved(page)["settings"] == {"steps": 3, "every": 1, "widen": 1, "strength": 1.5}
    assert page.input_value("#set-every") == "1"
    page.select_option("#closeness", index=4)
    assert saved(page)["settings"] == {"steps": 3, "tries": 5, "sure": 0.65, "widen": 1}
    page.select_option("#closeness", index=3)
    assert saved(page)["settings"] == {"steps": 3, "every": 1, "widen": 1, "strength": 1.5}
    setting(page, "strength", "1.4")
    assert page.locator("#closeness option:checked").inner_text() == "as set below"
    page.click("#defaults")
    assert saved(page)["settings"] == {}
    assert page.locator("#closeness option:checked").inner_text() == "as usual"


def test_where_a_controlnet_is_shown_the_drawing_closeness_is_how_much_of_it_acts(
    browser: Browser, tiny: Tiny, tmp_path: Path
):
    lines = save_adapter("controlnet", tiny(), tmp_path / "lines")
    with (
        Desk(lambda: (tiny(), None), settings={"controlnet": str(lines), "controlnet_scale": 0.8}) as desk,
        serving(desk) as served,
        browser.new_context() as context,
    ):
        page = context.new_page()
        opened_anew(page, served.url)
        page.uncheck("#live")
        names = page.locator("#closeness option").all_inner_texts()
        assert names == ["as usual", "less closely", "loosely: more natural", "as set below"]
        page.select_option("#closeness", index=1)
        assert saved(page)["settings"] == {**FAST, "controlnet_scale": 0.6}
        setting(page, "tries", "5")  # as a page with a predictor leaves it behind
        assert page.locator("#closeness option:checked").inner_text() == "as set below"
        page.select_option("#closeness", index=0)
        assert saved(page)["settings"] == FAST
        assert not page.locator("#set-strength").count()


def test_several_pictures_at_once(page: Page):
    setting(page, "count", "4")
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(4)
    tiles = page.locator("#pictures button")
    expect(tiles).to_have_count(4)
    first = page.locator("#save").get_attribute("download")
    tiles.nth(2).click()
    assert page.locator("#save").get_attribute("download") != first


def test_another_shape_keeps_the_drawing_in_its_middle(page: Page):
    page.uncheck("#live")
    draw_line(page, (0.25, 0.5), (0.75, 0.5))
    before = strokes(page)
    page.select_option("#sizes", index=1)
    left = 0.5 - 0.25 / 1.5
    painted(page, left + 0.02, 0.5)
    assert not ink(page, left - 0.04, 0.5)
    page.select_option("#sizes", index=2)
    page.select_option("#sizes", index=0)
    page.wait_for_timeout(200)
    assert strokes(page) == before  # there and back changes nothing
    page.select_option("#sizes", index=1)
    page.wait_for_timeout(200)
    draw_line(page, (0.1, 0.9), (0.9, 0.9))
    assert strokes(page)[0]["points"][0][0] == pytest.approx(left, abs=0.01)
    assert saved(page)["drawing"]["aspect"] == pytest.approx(1.5)
    page.click("#undo")
    assert strokes(page) == before


def test_what_the_server_refuses_is_said_and_nothing_is_lost(page: Page):
    page.uncheck("#live")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    page.fill("#prompt", "a cat \u0001")
    page.click("#draw")
    expect(page.locator("#told .error")).to_contain_text("control characters")
    assert len(strokes(page)) == 1
    expect(page.locator("#draw")).to_be_enabled()


def test_a_server_that_is_stopped_in_order_is_waited_for(
    browser: Browser, tiny: Tiny, predictor: LatentPredictor, held: threading.Event
):
    page = browser.new_page()
    with Desk(lambda: (tiny(), predictor)) as desk, serving(desk) as served:
        port = int(served.url.rstrip("/").rpartition(":")[2])
        opened_anew(page, served.url)
        page.click("#draw")
        expect(page.locator("#status")).to_contain_text("of 3")
    expect(page.locator("#banner")).to_contain_text("does not answer")
    held.clear()
    with Desk(lambda: (tiny(), predictor)) as desk, serving(desk, port=port):
        expect(page.locator("#history img")).to_have_count(1)
        assert [job.state for job in desk._jobs.values()] == ["done"]  # pyright: ignore[reportPrivateUsage]
        expect(page.locator("#banner")).to_be_hidden()
        page.close()


def test_a_server_that_forgot_the_job_is_asked_again(page: Page, desk: Desk):
    """As after a crash: first nothing answers, then a server that knows nothing of the job."""
    lost = re.compile(r"/api/jobs/.+")
    page.route(lost, lambda route: route.abort())
    page.click("#draw")
    expect(page.locator("#banner")).to_contain_text("does not answer")
    (first,) = desk._jobs  # pyright: ignore[reportPrivateUsage]
    page.unroute(lost)
    gone = {"error": {"code": "unknown_job", "message": "There is no such drawing.", "hint": "", "field": ""}}
    page.route(re.compile(f"/api/jobs/{first}"), lambda route: route.fulfill(status=404, json=gone))
    expect(page.locator("#history img")).to_have_count(1)
    assert len(desk._jobs) == 2  # pyright: ignore[reportPrivateUsage]
    expect(page.locator("#banner")).to_be_hidden()


def test_a_server_that_is_full_or_away_is_asked_again_once(page: Page, desk: Desk):
    full = {"error": {"code": "queue_full", "message": "16 drawings wait already.", "hint": "", "field": ""}}
    page.route("**/api/jobs", lambda route: route.fulfill(status=429, json=full))
    polls: list[str] = []
    page.route("**/ready", lambda route: (polls.append("ready"), route.fulfill(status=503, json=full)))
    for y in (0.2, 0.4, 0.6):
        draw_line(page, (0.2, y), (0.8, y))
        page.wait_for_timeout(350)
    expect(page.locator("#banner")).to_contain_text("16 drawings wait already")
    page.wait_for_timeout(2500)
    assert 1 <= len(polls) <= 3  # one chain, every two seconds
    assert page.locator("#stop").is_enabled()
    page.unroute("**/api/jobs")
    page.unroute("**/ready")
    expect(page.locator("#history img")).to_have_count(1)
    assert len(desk._jobs) == 1  # pyright: ignore[reportPrivateUsage]
    expect(page.locator("#banner")).to_be_hidden()


def test_a_server_that_asks_for_another_token_is_not_asked_for_ever(page: Page):
    locked = {"error": {"code": "unauthorized", "message": "This server asks for its token.", "hint": "", "field": ""}}
    page.route("**/api/jobs", lambda route: route.abort())
    page.route("**/ready", lambda route: route.fulfill(status=401, json=locked))
    page.click("#draw")
    expect(page.locator("#banner")).to_have_text("This server asks for its token.")
    expect(page.locator("#stop")).to_be_disabled()


def test_other_pages_get_nothing_by_a_token_of_theirs(browser: Browser, desk: Desk):
    token = "0123456789abcdef"
    with serving(desk, token=token) as served:
        page = browser.new_page()
        answer = page.goto(served.url)
        assert answer is not None
        assert answer.status == 401
        page.goto(f"{served.url}?token={token}")
        expect(page.locator("#model")).to_have_text("tiny")
        assert "token" not in page.url
        page.close()


def test_a_tab_that_was_not_drawn_in_leaves_the_drawing_of_another_alone(page: Page, served: Served):
    page.uncheck("#live")
    stale = another_tab(page, served)
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    stale.evaluate("window.dispatchEvent(new Event('pagehide'))")
    stale.close()
    assert len(strokes(page)) == 1
    page.close()
    fresh = another_tab(stale, served)
    expect(fresh.locator("#clear")).to_be_enabled()
    fresh.close()


def test_each_tab_comes_back_with_its_own_drawing(page: Page, served: Served):
    page.uncheck("#live")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    other = another_tab(page, served)
    expect(other.locator("#clear")).to_be_enabled()  # it goes on with the latest
    other.click("#clear")
    page.reload()
    expect(page.locator("#clear")).to_be_enabled()
    other.reload()
    expect(other.locator("#model")).to_have_text("tiny")
    expect(other.locator("#clear")).to_be_disabled()
    other.close()


def test_a_palm_that_lands_before_the_pen_draws_nothing(page: Page):
    page.uncheck("#live")
    page.locator("#paper").scroll_into_view_if_needed()
    box = page.locator("#paper").bounding_box()
    assert box

    def pointer(kind: str, by: str, x: float, y: float) -> None:
        place = {"clientX": box["x"] + x * box["width"], "clientY": box["y"] + y * box["height"]}
        more = {"pointerType": by, "pointerId": {"touch": 11, "pen": 12}[by], "pressure": 0.5, "bubbles": True}
        page.evaluate(
            "([kind, about]) => document.getElementById('paper').dispatchEvent(new PointerEvent(kind, about))",
            [kind, place | more],
        )

    page.evaluate("HTMLElement.prototype.setPointerCapture = () => {}")  # there are no such pointers
    pointer("pointerdown", "touch", 0.9, 0.9)
    pointer("pointermove", "touch", 0.9, 0.8)
    for kind, x in (("pointerdown", 0.2), ("pointermove", 0.8), ("pointerup", 0.8)):
        pointer(kind, "pen", x, 0.2)
    pointer("pointercancel", "touch", 0.9, 0.8)
    (line,) = strokes(page)
    assert [point[1] for point in line["points"]] == [pytest.approx(0.2, abs=0.01)] * 2


def test_a_picture_is_asked_for_again_where_its_download_fails(page: Page, desk: Desk):
    pngs = re.compile(r"/pictures/0\.png")
    page.route(pngs, lambda route: route.abort())
    page.click("#draw")
    expect(page.locator("#banner")).to_contain_text("does not answer")
    page.unroute(pngs)
    expect(page.locator("#history img")).to_have_count(1)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#spoken")).to_contain_text("Picture done, seed")
    assert len(desk._jobs) == 1  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("status", [502, 504])
def test_a_proxy_that_says_that_the_server_is_away_is_asked_again(page: Page, status: int):
    page.route("**/api/jobs", lambda route: route.fulfill(status=status, body="<html>"))
    page.route("**/ready", lambda route: route.fulfill(status=status, body="<html>"))
    page.click("#draw")
    expect(page.locator("#banner")).to_contain_text("Trying again")
    page.unroute("**/api/jobs")
    page.unroute("**/ready")
    expect(page.locator("#history img")).to_have_count(1)


def test_stop_ends_asking_again_while_an_answer_is_on_its_way(page: Page, desk: Desk):
    asked: list[Any] = []
    page.route("**/api/jobs", lambda route: route.abort())
    page.route("**/ready", lambda route: asked.append(route))
    page.click("#draw")
    for _ in range(400):
        if asked:
            break
        page.wait_for_timeout(50)
    page.click("#stop")
    page.unroute("**/api/jobs")
    asked[0].continue_()
    page.wait_for_timeout(700)
    assert not desk._jobs  # pyright: ignore[reportPrivateUsage]
    expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator("#banner")).to_be_hidden()


def test_a_server_that_asks_for_another_token_meanwhile_is_not_asked_for_ever(page: Page):
    locked = {"error": {"code": "unauthorized", "message": "This server asks for its token.", "hint": "", "field": ""}}
    page.route(re.compile(r"/api/jobs/.+"), lambda route: route.fulfill(status=401, json=locked))
    page.click("#draw")
    expect(page.locator("#told .error")).to_have_text("This server asks for its token.")
    expect(page.locator("#stop")).to_be_disabled()


def test_what_was_said_of_a_file_stays_while_its_drawing_is_drawn(page: Page, tmp_path: Path):
    two = tmp_path / "two.ndjson"
    line = json.dumps({"word": "cat", "drawing": [[[0, 255], [0, 255]]]})
    two.write_text(f"{line}\n{line}\n")
    page.set_input_files("#open", two)
    expect(page.locator("#history img")).to_have_count(1)
    expect(page.locator("#told")).to_contain_text("the first")
    page.click("#clear")
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(2)
    expect(page.locator("#told p")).to_have_count(0)


def test_a_chosen_picture_keeps_the_focus(page: Page):
    setting(page, "count", "2")
    page.click("#draw")
    expect(page.locator("#pictures button")).to_have_count(2)
    expect(page.locator("#history img")).to_have_count(2)
    page.locator("#pictures button").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#pictures button").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#pictures button").nth(1)).to_be_focused()


@pytest.mark.parametrize(("width", "height"), [(1024, 700), (844, 390)])
def test_the_paper_is_no_taller_than_the_window(page: Page, width: int, height: int):
    page.select_option("#sizes", index=2)
    page.set_viewport_size({"width": width, "height": height})
    box = page.locator("#paper").bounding_box()
    assert box
    assert box["height"] < height
    assert box["width"] / box["height"] == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(1366, 657, "light"), (1440, 780, "dark"), (390, 664, "light"), (390, 664, "dark")]
)
def test_what_is_said_is_seen_and_hides_nothing_for_good(
    page: Page, tmp_path: Path, width: int, height: int, scheme: Literal["light", "dark"]
):
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    assert page.locator(".saying").evaluate("one => one.offsetHeight") == 0
    (tmp_path / "text.png").write_bytes(b"no picture")
    page.set_input_files("#open", tmp_path / "text.png")
    said = page.locator("#told .error")
    expect(said).to_be_in_viewport(ratio=1)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    tools, saying = page.locator("#main").bounding_box(), page.locator(".saying").bounding_box()
    assert tools
    assert saying
    assert tools["y"] + tools["height"] <= saying["y"] + 1
    expect(said).to_be_in_viewport(ratio=1)
    page.click("#heard")
    assert page.locator(".saying").evaluate("one => one.offsetHeight") == 0


def test_which_are_the_lines_of_an_opened_picture_can_be_said(page: Page, tmp_path: Path):
    page.uncheck("#live")
    expect(page.locator("#polarity")).to_be_hidden()
    picture = tmp_path / "bar.png"
    bar = Image.new("RGB", (200, 200), "white")
    bar.paste("black", (0, 80, 200, 120))
    bar.save(picture)
    page.set_input_files("#open", picture)
    expect(page.locator("#polarity")).to_be_visible()
    painted(page, 0.3, 0.5)
    assert not ink(page, 0.3, 0.2)
    page.select_option("#polarity", "light-on-dark")
    painted(page, 0.3, 0.2)
    assert not ink(page, 0.3, 0.5)
    page.route("**/api/sketches*", lambda route: route.abort())
    page.select_option("#polarity", "dark-on-light")
    expect(page.locator("#told .error")).to_contain_text("open the file again")
    expect(page.locator("#polarity")).to_have_value("light-on-dark")
    page.unroute("**/api/sketches*")
    page.set_input_files("#open", picture)
    expect(page.locator("#polarity")).to_have_value("auto")
    page.click("#clear")
    expect(page.locator("#polarity")).to_be_hidden()
    page.set_input_files("#open", picture)
    expect(page.locator("#polarity")).to_be_visible()
    page.set_input_files("#open", line_svg(tmp_path / "line.svg"))
    expect(page.locator("#polarity")).to_be_hidden()
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(1)
    page.set_input_files("#open", picture)
    expect(page.locator("#polarity")).to_be_visible()
    page.click("#takeup")
    expect(page.locator("#polarity")).to_be_hidden()


def test_nothing_is_entered_before_the_page_is_ready(page: Page):
    held: list[Route] = []
    page.route("**/api/about", lambda route: held.append(route))
    page.reload()
    expect(page.locator("#banner")).to_contain_text("not ready yet")
    page.locator("#prompt").click(force=True)
    page.keyboard.type("a dog")
    draw_line(page, (0.2, 0.2), (0.8, 0.8))
    assert page.input_value("#prompt") == ""
    held[0].continue_()
    expect(page.locator("#model")).to_have_text("tiny")
    expect(page.locator("#banner")).to_be_hidden()
    assert page.input_value("#prompt") == "a cat"
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    assert len(strokes(page)) == 1


def test_who_draws_without_a_prompt_is_told_once_to_say_what_it_is(page: Page):
    page.fill("#prompt", "")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    expect(page.locator("#told")).to_have_text("Say what it is, and the picture follows.")
    page.click("#heard")
    draw_line(page, (0.2, 0.4), (0.8, 0.4))
    expect(page.locator("#told p")).to_have_count(0)
    page.fill("#prompt", "a cat")
    page.press("#prompt", "Tab")
    expect(page.locator("#history img")).to_have_count(1)


def test_a_setting_out_of_its_range_is_refused_and_said(page: Page, held: threading.Event):
    page.click("#draw")
    expect(page.locator("#status")).to_contain_text("of 3")
    said = page.locator("#told .error")
    setting(page, "steps", "500")
    expect(said).to_have_text("steps must be 1 to 200.")
    assert page.input_value("#set-steps") == "3"
    held.clear()
    expect(page.locator("#history img")).to_have_count(1)
    expect(said).to_be_visible()  # the end of a picture that was asked for before wipes nothing
    page.uncheck("#live")
    setting(page, "steps", "20.5")
    expect(said).to_have_text("steps must be a whole number.")
    page.locator("#set-negative_time").click()
    page.keyboard.type("1e")
    page.keyboard.press("Tab")
    expect(said).to_have_text("negative time must be a number.")
    assert page.locator("#set-negative_time").evaluate("one => one.validity.valid")
    assert saved(page)["settings"] == FAST
    for wrong in ("5000000000", ""):
        before = page.input_value("#seed")
        page.fill("#seed", wrong)
        page.press("#seed", "Tab")
        expect(said).to_have_text("seed must be 0 to 4294967295.")
        assert page.input_value("#seed") == before
    page.fill("#set-steps", "500")
    page.click("#draw")  # which takes the focus from it
    expect(said).to_have_text("steps must be 1 to 200.")
    page.wait_for_timeout(300)
    expect(page.locator("#history img")).to_have_count(1)
    expect(said).to_be_visible()
    setting(page, "strength", "1.25")
    expect(said).to_have_count(0)
    assert saved(page)["settings"] == FAST | {"strength": 1.25}


def test_a_prompt_is_no_markup(page: Page):
    page.uncheck("#live")
    prompt = "<b id=x>a</b>"
    page.fill("#prompt", prompt)
    setting(page, "tries", "2")
    page.click("#draw")
    expect(page.locator("#told")).to_contain_text(f"'{prompt}' names none")
    expect(page.locator("#x")).to_have_count(0)


def test_where_no_events_come_through_it_is_asked_now_and_then(page: Page, held: threading.Event):
    asked: list[str] = []
    page.route("**/events", lambda route: (asked.append(route.request.url), route.abort()))
    page.click("#draw")
    expect(page.locator("#status")).to_contain_text("of 3")
    page.wait_for_timeout(2000)
    assert len(asked) <= 4
    held.clear()
    expect(page.locator("#history img")).to_have_count(1)


def test_a_browser_that_keeps_nothing_says_so_until_it_does(page: Page):
    unkept = page.locator("#unkept")
    expect(unkept).to_be_hidden()
    page.evaluate(
        """() => { window.setItem = Storage.prototype.setItem;
            Storage.prototype.setItem = () => { throw new DOMException("full"); }; }"""
    )
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    expect(unkept).to_contain_text("save it before you leave")
    expect(page.locator("#history img")).to_have_count(1)
    expect(unkept).to_be_visible()
    page.evaluate("() => { Storage.prototype.setItem = window.setItem; }")
    page.click("#undo")
    expect(unkept).to_be_hidden()


def test_a_file_that_cannot_be_taken_leaves_the_drawing_and_is_told(page: Page, tmp_path: Path):
    page.uncheck("#live")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    before = saved(page)["drawing"]
    newer = {RECIPE_KEY: json.dumps({"request": {"prompt": "a dog", "seed": 1, "softness": 1}})}
    save_png(Image.new("RGB", (64, 64), "white"), tmp_path / "newer.png", text=newer)
    blank = line_svg(tmp_path / "blank.svg", "<g/>")
    said = page.locator("#told .error")
    page.set_input_files("#open", blank)
    expect(said).to_have_text("Nothing in the file can be drawn.")
    page.set_input_files("#open", tmp_path / "newer.png")
    expect(said).to_contain_text("The settings in newer.png cannot be taken up: softness is 1")
    page.route("**/api/sketches*", lambda route: route.abort())
    page.set_input_files("#open", blank)
    expect(said).to_have_text("The server does not answer; open the file again when it is back.")
    page.unroute("**/api/sketches*")
    assert saved(page)["drawing"] == before
    line_picture(tmp_path / "line.jpg").rename(tmp_path / "line.png")
    page.set_input_files("#open", tmp_path / "line.png")  # no PNG, yet a picture
    painted(page, 0.3, 0.49)


@pytest.mark.parametrize("later", ["another file", "clear"])
def test_a_file_that_is_read_late_does_not_undo_a_later_choice(page: Page, tmp_path: Path, later: str):
    held: list[Route] = []
    page.uncheck("#live")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    page.route("**/api/sketches*", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/api/sketches*"):
        page.set_input_files("#open", line_picture(tmp_path / "line.jpg"))
    if later == "clear":
        page.click("#clear")
    else:
        page.set_input_files("#open", line_svg(tmp_path / "line.svg"))
        painted(page, 0.5, 0.5)
    chosen = saved(page)["drawing"]
    with page.expect_response("**/api/sketches*"):
        held[0].continue_()
    page.wait_for_timeout(500)
    assert saved(page)["drawing"] == chosen
    expect(page.locator("#told p")).to_have_count(0)


def test_kept_settings_that_the_service_does_not_know_are_left_out(page: Page):
    kept = json.dumps({"prompt": "a cat", "settings": FAST | {"softness": 1}})
    page.add_init_script(f"sessionStorage.clear(); localStorage.setItem('sketchguide', '{kept}')")
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny")
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(1)


def test_letters_in_a_list_choose_no_tool(page: Page):
    page.locator("#firmness").focus()
    page.keyboard.press("e")
    assert page.is_checked("input[value=pen]")
    page.locator("#paper").focus()
    page.keyboard.press("e")
    assert page.is_checked("input[value=eraser]")


def test_a_preview_cannot_be_taken_for_the_picture_before(page: Page, held: threading.Event):
    held.clear()
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    expect(page.locator("#history img")).to_have_count(1)
    expect(page.locator("#save")).to_be_visible()
    held.set()
    draw_line(page, (0.2, 0.4), (0.8, 0.4))
    expect(page.locator("#save")).to_be_hidden()
    expect(page.locator("#takeup")).to_be_hidden()
    page.click("#stop")
    expect(page.locator("#save")).to_be_visible()
    expect(page.locator("#pictures img")).to_have_attribute("alt", re.compile("seed"))


@pytest.mark.usefixtures("held")
def test_a_preview_goes_where_there_was_no_picture_before(page: Page):
    page.click("#draw")
    expect(page.locator("#pictures img")).to_have_count(1)
    page.click("#stop")
    expect(page.locator("#pictures img")).to_have_count(0)


RATIO = "document.getElementById('result').offsetWidth / document.getElementById('result').offsetHeight"


def test_the_lines_over_a_picture_are_its_own(page: Page):
    page.fill("#seed", "11")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    expect(page.locator("#history img")).to_have_count(1)
    page.uncheck("#live")
    page.click("#clear")
    page.select_option("#sizes", index=1)
    draw_line(page, (0.2, 0.8), (0.8, 0.8))
    painted(page, 0.5, 0.2, canvas="lines")
    assert not ink(page, 0.5, 0.8, canvas="lines")
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(2)
    painted(page, 0.5, 0.8, canvas="lines")
    comes_true(page, f"Math.abs({RATIO} - 1) > 0.05")
    page.locator("#history button").nth(1).click()
    painted(page, 0.5, 0.2, canvas="lines")
    assert not ink(page, 0.5, 0.8, canvas="lines")
    comes_true(page, f"Math.abs({RATIO} - 1) < 0.05")


def test_what_changes_nothing_asks_for_nothing(page: Page, desk: Desk):
    page.locator("#paper").click(position={"x": 50, "y": 50})
    expect(page.locator("#history img")).to_have_count(1)
    page.check("input[value=eraser]")
    draw_line(page, (0.2, 0.8), (0.8, 0.8))
    page.keyboard.press("Control+Shift+Z")
    page.wait_for_timeout(500)
    assert len(desk._jobs) == 1  # pyright: ignore[reportPrivateUsage]
    page.click("#undo")
    expect(page.locator("#undo")).to_be_disabled()  # the eraser met nothing, so there was one thing to undo


def test_two_fingers_draw_nothing(page: Page):
    page.evaluate(
        """() => {
        const canvas = document.getElementById("paper");
        const box = canvas.getBoundingClientRect();
        HTMLElement.prototype.setPointerCapture = () => {};
        const send = (type, pointerId, y) => canvas.dispatchEvent(new PointerEvent(type, {
            pointerType: "touch", pointerId, bubbles: true,
            clientX: box.x + box.width / 2, clientY: box.y + y * box.height }));
        send("pointerdown", 6, 0.2);
        send("pointermove", 6, 0.3);
        send("pointerdown", 7, 0.8);
        send("pointermove", 7, 0.7);
        send("pointerup", 6, 0.3);
        send("pointerup", 7, 0.7); }"""
    )
    assert not ink(page, 0.5, 0.25)
    expect(page.locator("#undo")).to_be_disabled()


def test_a_file_that_the_browser_cannot_read_is_told(page: Page, tmp_path: Path):
    page.evaluate(
        "() => { Blob.prototype.arrayBuffer = () => Promise.reject(new DOMException('gone', 'NotFoundError')); }"
    )
    page.set_input_files("#open", line_picture(tmp_path / "line.png"))
    expect(page.locator("#told .error")).to_contain_text("line.png cannot be read: it may be a folder")


def test_pictures_that_the_browser_does_not_keep_are_told_of(page: Page):
    page.evaluate(
        "() => { IDBObjectStore.prototype.add = () => { throw new DOMException('full', 'QuotaExceededError'); }; }"
    )
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(1)
    expect(page.locator("#fleeting")).to_contain_text("does not keep these pictures: save those that you want")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    expect(page.locator("#history img")).to_have_count(2)
    expect(page.locator("#fleeting")).to_be_visible()


def test_pictures_are_forgotten_when_that_is_meant(page: Page):
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(1)
    page.click("#forget")  # Playwright says no
    assert pictures(page) == 1
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#forget")
    expect(page.locator("#history img")).to_have_count(0)
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny")
    assert pictures(page) == 0


def test_the_pictures_of_another_tab_are_not_forgotten(page: Page, served: Served):
    other = another_tab(page, served)
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(1)
    other.fill("#prompt", "a dog")
    other.click("#draw")
    expect(other.locator("#history img")).to_have_count(1)
    other.once("dialog", lambda dialog: dialog.accept())
    other.click("#forget")
    expect(other.locator("#history img")).to_have_count(0)
    other.reload()
    expect(other.locator("#history img")).to_have_count(1)
    assert "a cat" in (other.locator("#history button").get_attribute("title") or "")
    other.close()


def test_an_earlier_picture_is_looked_at_while_another_is_made(page: Page, held: threading.Event):
    held.clear()
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(1)
    earlier = page.locator("#pictures img").get_attribute("src")
    held.set()
    page.click("#dice")
    expect(page.locator("#stop")).to_be_enabled()
    page.locator("#history button").click()
    expect(page.locator("#stop")).to_be_enabled()
    held.clear()
    expect(page.locator("#history img")).to_have_count(2)
    expect(page.locator("#told")).to_contain_text("The picture is done")
    assert page.locator("#pictures img").get_attribute("src") == earlier
    page.click("#dice")
    expect(page.locator("#history img")).to_have_count(3)
    assert page.locator("#pictures img").get_attribute("src") != earlier


def test_a_tab_that_is_loaded_again_leaves_the_latest_drawing_to_new_ones(page: Page, served: Served):
    page.uncheck("#live")
    stale = another_tab(page, served)
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    stale.reload()
    expect(stale.locator("#model")).to_have_text("tiny")
    expect(stale.locator("#clear")).to_be_disabled()
    page.close()
    fresh = another_tab(stale, served)
    expect(fresh.locator("#clear")).to_be_enabled()
    fresh.close()
    stale.close()


def test_an_alarm_moves_nothing(page: Page):
    before = page.locator("#paper").bounding_box()
    page.evaluate("Object.assign(document.getElementById('banner'), { textContent: 'Away', hidden: false })")
    expect(page.locator("#banner")).to_be_in_viewport()
    assert page.locator("#paper").bounding_box() == before


def test_a_warning_is_said_once_and_stays_closed(page: Page):
    page.evaluate("document.getElementById('sizes').selectedIndex = 1")
    page.locator("#sizes").dispatch_event("change")
    page.click("#draw")
    told = page.locator("#told")
    expect(told).to_contain_text("The size is")
    expect(page.locator("#history img")).to_have_count(1)
    page.click("#heard")
    expect(told).to_be_empty()
    page.evaluate(
        """() => { window.said = 0;
            new MutationObserver(() => (said += document.querySelectorAll("#told p").length))
                .observe(document.getElementById("told"), { childList: true }); }"""
    )
    page.click("#dice")
    expect(page.locator("#history img")).to_have_count(2)
    assert page.evaluate("said") == 0
    page.evaluate("document.getElementById('sizes').selectedIndex = 0")
    page.locator("#sizes").dispatch_event("change")
    expect(page.locator("#history img")).to_have_count(3)
    page.fill("#prompt", "")
    page.click("#dice")
    expect(told).to_contain_text("Say what it is")
    page.click("#heard")  # which closes this alone
    page.fill("#prompt", "a cat")
    page.evaluate("document.getElementById('sizes').selectedIndex = 2")
    page.locator("#sizes").dispatch_event("change")
    expect(told).to_contain_text("The size is")


def test_thick_lines_are_rubbed_out_as_wide_as_the_eraser(page: Page):
    page.uncheck("#live")
    page.fill("#size", "4")
    draw_line(page, (0.2, 0.5), (0.8, 0.5))
    assert ink(page, 0.5, 0.5)
    page.check("input[value=eraser]")
    draw_line(page, (0.5, 0.2), (0.5, 0.8))
    assert not ink(page, 0.5, 0.5)
    left, right = strokes(page)
    gap = min(x for x, _ in right["points"]) - max(x for x, _ in left["points"])
    assert gap == pytest.approx(2 * (0.02 + 2 * 1.5 / 64), abs=0.03)


def test_undo_by_the_keyboard_wherever_nothing_is_typed(page: Page):
    page.uncheck("#live")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    page.locator("#firmness").focus()
    page.keyboard.press("Control+z")
    expect(page.locator("#undo")).to_be_disabled()
    press = (
        "(about) => document.dispatchEvent(new KeyboardEvent('keydown', { ctrlKey: true, bubbles: true, ...about }))"
    )
    page.evaluate(press.replace("document.", "document.body."), {"key": "я", "code": "KeyZ", "shiftKey": True})
    expect(page.locator("#undo")).to_be_enabled()
    page.evaluate(press.replace("document.", "document.body."), {"key": "я", "code": "KeyZ"})
    expect(page.locator("#undo")).to_be_disabled()
    page.locator("#prompt").focus()
    page.keyboard.press("Control+Shift+z")
    expect(page.locator("#undo")).to_be_disabled()


def test_a_palm_that_the_system_takes_back_leaves_no_line(page: Page):
    page.uncheck("#live")
    page.evaluate(
        """() => {
        const canvas = document.getElementById("paper");
        const box = canvas.getBoundingClientRect();
        HTMLElement.prototype.setPointerCapture = () => {};
        window.send = (type, pointerType, pointerId, x) => canvas.dispatchEvent(new PointerEvent(type, {
            pointerType, pointerId, bubbles: true, pressure: 0.5,
            clientX: box.x + x * box.width, clientY: box.y + box.height / 2 }));
        send("pointermove", "pen", 1, 0.1); }"""
    )
    page.wait_for_timeout(700)  # in which a touch would be a palm in any case
    page.evaluate(
        """() => { send("pointerdown", "touch", 2, 0.7); send("pointermove", "touch", 2, 0.8);
            send("pointercancel", "touch", 2, 0.8); }"""
    )
    expect(page.locator("#undo")).to_be_disabled()
    assert not ink(page, 0.75, 0.5)


def test_a_file_that_is_too_large_is_not_sent(page: Page, tmp_path: Path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(33 * 2**20)
    page.set_input_files("#open", large)
    expect(page.locator("#told")).to_contain_text("large.png is larger than the 32 MB that are allowed")


def test_a_new_picture_leaves_the_keyboard_at_an_earlier_one(page: Page):
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(1)
    page.locator("#history button").focus()
    page.evaluate("document.getElementById('dice').click()")
    expect(page.locator("#history img")).to_have_count(2)
    expect(page.locator("#history button").nth(1)).to_be_focused()


def test_a_connection_that_dies_in_silence_is_noticed(page: Page, held: threading.Event):
    page.clock.install()
    page.route("**/events", lambda _: None)
    page.click("#draw")
    page.wait_for_timeout(500)
    held.clear()
    assert pictures(page) == 0
    for _ in range(50):
        page.clock.fast_forward(45_000)
        if pictures(page):
            break
        page.wait_for_timeout(100)
    assert pictures(page) == 1


def drawn_one_by_one(page: Page, count: int) -> None:
    """Ask for several pictures, and wait until the first is finished and the second has begun."""
    page.uncheck("#live")
    setting(page, "count", str(count))
    page.click("#draw")
    expect(page.locator("#status")).to_contain_text(f"step 5 of {3 * count}")
    expect(page.locator("#history img")).to_have_count(1)


@pytest.mark.parametrize("ending", ["done", "stop", "another", "reload"])
def test_a_finished_picture_stays_whatever_becomes_of_the_others(
    page: Page, held_at_the_second: threading.Event, ending: str
):
    drawn_one_by_one(page, 3)
    tiles = page.locator("#pictures img")
    expect(tiles).to_have_count(2)  # it, and what there is of the second
    expect(tiles.first).to_have_attribute("alt", re.compile("seed"))
    expect(tiles.last).to_have_attribute("alt", "")
    if ending == "stop":
        page.click("#stop")
        expect(tiles).to_have_count(1)
        expect(tiles).to_have_attribute("alt", re.compile("seed"))
        expect(page.locator("#save")).to_be_visible()
        page.reload()
        expect(page.locator("#history img")).to_have_count(1)
        return
    if ending == "another":
        page.click("#dice")
        expect(page.locator("#history img")).to_have_count(2)
    elif ending == "reload":
        page.reload()
        expect(page.locator("#status")).to_contain_text("step 5 of 9")
        expect(page.locator("#history img")).to_have_count(1)
    held_at_the_second.clear()
    expect(page.locator("#pictures button")).to_have_count(3)
    expect(page.locator("#stop")).to_be_disabled()
    assert pictures(page) == (4 if ending == "another" else 3)
    page.reload()
    expect(page.locator("#history img")).to_have_count(4 if ending == "another" else 3)


def test_a_finished_picture_stays_where_another_fails(page: Page, monkeypatch: pytest.MonkeyPatch):
    def failing(*args: Any, **more: Any) -> Iterator[Picture | Progress]:
        for event in run(*args, **more):
            yield event
            if isinstance(event, Picture):
                raise RuntimeError("the device is on fire")

    monkeypatch.setattr(jobs, "run", failing)
    setting(page, "count", "2")
    expect(page.locator("#told .error")).to_contain_text("the device is on fire")
    expect(page.locator("#history img")).to_have_count(1)
    expect(page.locator("#pictures img")).to_have_attribute("alt", re.compile("seed"))
    expect(page.locator("#save")).to_be_visible()


@pytest.mark.usefixtures("held_at_the_second")
def test_a_picture_that_was_finished_as_stop_is_pressed_stays(page: Page, desk: Desk):
    page.route("**/events", lambda _: None)  # the page has not been told of it
    page.uncheck("#live")
    setting(page, "count", "2")
    page.click("#draw")
    for _ in range(400):
        if any(job.pictures for job in desk._jobs.values()):  # pyright: ignore[reportPrivateUsage]
            break
        page.wait_for_timeout(50)
    page.click("#stop")
    expect(page.locator("#history img")).to_have_count(1)


def test_pictures_that_are_forgotten_while_others_are_drawn_are_shown_once_more(
    page: Page, held_at_the_second: threading.Event
):
    drawn_one_by_one(page, 2)
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#forget")
    expect(page.locator("#history img")).to_have_count(0)
    held_at_the_second.clear()
    expect(page.locator("#pictures button")).to_have_count(2)
    expect(page.locator("#history img")).to_have_count(1)
    comes_true(page, "[...document.querySelectorAll('#pictures img')].every((one) => one.naturalWidth > 0)")


@pytest.mark.parametrize("asked", ["after", "refused", "meanwhile"])
def test_a_server_that_comes_back_with_other_settings_is_drawn_with(
    browser: Browser, tiny: Tiny, predictor: LatentPredictor, tmp_path: Path, asked: str
):
    lines = str(save_adapter("controlnet", tiny(), tmp_path / "lines"))
    wide = tiny()
    wide.default_size = (96, 64)
    page = browser.new_page()
    with Desk(lambda: (tiny(), predictor)) as desk, serving(desk) as served:
        port = int(served.url.rstrip("/").rpartition(":")[2])
        opened_anew(page, served.url)
        page.uncheck("#live")
        if asked == "refused":
            setting(page, "strength", "1.4")  # by the other one
        draw_line(page, (0.2, 0.2), (0.8, 0.2))
    if asked == "meanwhile":
        page.click("#draw")
        expect(page.locator("#banner")).to_contain_text("does not answer")
    with Desk(lambda: (wide, None), settings={"controlnet": lines}) as desk, serving(desk, port=port):
        if asked != "meanwhile":
            page.click("#draw")
        expect(page.locator("#history img")).to_have_count(1)
        expect(page.locator("#told")).to_contain_text("draws with tiny; settings that it does not have are left out")
        assert not page.locator("#set-strength").count()
        assert page.locator("#sizes option:checked").inner_text() == "96 × 64"
        assert saved(page)["settings"] == FAST
        *_, job = desk._jobs.values()  # pyright: ignore[reportPrivateUsage]
        assert job.request.size == (96, 64)
        assert job.request.sketch is not None
        assert job.request.sketch["aspect"] == pytest.approx(1.5)
        page.close()


@pytest.mark.parametrize("when", ["away", "in the pause", "on its way"])
def test_a_drawing_that_is_due_is_drawn_after_a_reload(page: Page, desk: Desk, when: str):
    asked: list[Route] = []

    def answer(route: Route) -> None:
        asked.append(route)
        if len(asked) > 1 or when == "in the pause":
            route.continue_()
        elif when == "away":
            route.abort()

    if when == "in the pause":
        page.evaluate("window.setTimeout = () => 0")
    page.route("**/api/jobs", answer)
    page.set_checked("#live", when != "on its way")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    if when == "away":
        expect(page.locator("#banner")).to_contain_text("does not answer")
    elif when == "on its way":
        page.click("#draw")
        for _ in range(400):
            if asked:
                break
            page.wait_for_timeout(50)
    page.reload()
    expect(page.locator("#history img")).to_have_count(1)
    (job,) = desk._jobs.values()  # pyright: ignore[reportPrivateUsage]
    assert job.request.sketch is not None
    page.reload()
    expect(page.locator("#history img")).to_have_count(1)
    page.wait_for_timeout(500)
    assert len(desk._jobs) == 1  # pyright: ignore[reportPrivateUsage]


def test_what_was_stopped_is_not_due_after_a_reload(page: Page, desk: Desk):
    page.route("**/api/jobs", lambda route: route.abort())
    page.click("#draw")
    expect(page.locator("#banner")).to_contain_text("does not answer")
    page.click("#stop")
    page.unroute("**/api/jobs")
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny")
    page.wait_for_timeout(500)
    assert not desk._jobs  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("how", ["not while I draw", "no prompt"])
def test_what_is_not_to_follow_any_more_is_not_due_after_a_reload(page: Page, desk: Desk, how: str):
    page.clock.install()  # the pause does not end
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    if how == "no prompt":
        page.fill("#prompt", "")
        page.press("#prompt", "Tab")
        page.fill("#prompt", "a cat")
    else:
        page.uncheck("#live")
    assert page.evaluate("sessionStorage.getItem('sketchguide-due')") is None
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny")
    page.clock.run_for(2000)
    assert not desk._jobs  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("how", ["clear", "undo", "eraser"])
@pytest.mark.parametrize("when", ["in the pause", "while it is drawn"])
def test_empty_paper_ends_what_follows_the_drawing(page: Page, desk: Desk, held: threading.Event, how: str, when: str):
    draw_line(page, (0.4, 0.2), (0.6, 0.2))
    if when == "while it is drawn":
        expect(page.locator("#status")).to_contain_text("of 3")
    if how == "eraser":
        page.check("input[value=eraser]")
        page.locator("#size").fill("4")
        draw_line(page, (0.3, 0.2), (0.7, 0.2))
    else:
        page.click(f"#{how}")
    expect(page.locator("#clear")).to_be_disabled()
    expect(page.locator("#stop")).to_be_disabled()
    held.clear()
    page.wait_for_timeout(600)
    made = list(desk._jobs.values())  # pyright: ignore[reportPrivateUsage]
    assert all(job.request.sketch is not None and job.stop for job in made)
    assert pictures(page) == 0


def test_without_live_a_picture_that_was_asked_for_comes_though_the_paper_is_cleared(page: Page, held: threading.Event):
    page.uncheck("#live")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    page.click("#draw")
    expect(page.locator("#status")).to_contain_text("of 3")
    page.click("#clear")
    held.clear()
    expect(page.locator("#history img")).to_have_count(1)


SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" stroke="black"><path d="M10 50L90 50"/></svg>'
BROUGHT = """([kind, on, files, texts]) => {
    const data = new DataTransfer();
    for (const [name, type, content] of files) {
        const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
        data.items.add(new File([bytes], name, { type }));
    }
    for (const [type, text] of Object.entries(texts)) data.setData(type, text);
    const about = { dataTransfer: data, clipboardData: data, bubbles: true, cancelable: true };
    const made = kind === "paste" ? new ClipboardEvent(kind, about) : new DragEvent(kind, about);
    document.querySelector(on).dispatchEvent(made);
    return made.defaultPrevented; }"""


def brought(page: Page, kind: str, on: str, *files: Path, **texts: str) -> bool:
    """Drop or paste there; whether the page took it from the browser. Of `texts` the names are kinds without text/."""
    kinds = {".png": "image/png", ".svg": "image/svg+xml"}
    content = [[one.name, kinds[one.suffix], base64.b64encode(one.read_bytes()).decode()] for one in files]
    return page.evaluate(BROUGHT, [kind, on, content, {f"text/{name}": text for name, text in texts.items()}])


@pytest.mark.parametrize("on", ["#paper", "#prompt", "body"])
def test_a_file_is_dropped_anywhere(page: Page, tmp_path: Path, on: str):
    page.uncheck("#live")
    assert brought(page, "dragover", on, line_svg(tmp_path / "line.svg"))
    assert brought(page, "drop", on, line_svg(tmp_path / "line.svg"))
    painted(page, 0.5, 0.5)
    assert len(strokes(page)) == 1


def test_what_is_no_file_is_not_taken_from_a_field(page: Page):
    assert not brought(page, "dragover", "#prompt", plain="a dog")
    assert not brought(page, "drop", "#prompt", plain="a dog")
    link = {"plain": "http://a.example", "uri-list": "http://a.example"}
    assert not brought(page, "drop", "#prompt", **link)
    assert brought(page, "dragover", "#paper", **link)
    assert brought(page, "drop", "#paper", **link)  # else the browser leaves the page
    expect(page.locator("#told .error")).to_contain_text("What was dropped is no file: save it first")


def test_a_file_that_is_dropped_too_early_is_said_to_be(page: Page, tmp_path: Path):
    held: list[Route] = []
    page.route("**/api/about", lambda route: held.append(route))
    page.reload()
    assert brought(page, "dragover", "body", line_svg(tmp_path / "line.svg"))
    assert brought(page, "drop", "body", line_svg(tmp_path / "line.svg"))
    expect(page.locator("#told .error")).to_contain_text("line.svg was not opened: the page is not ready yet")
    held[0].continue_()
    expect(page.locator("#model")).to_have_text("tiny")


def test_a_picture_and_an_svg_are_pasted(page: Page, tmp_path: Path):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.uncheck("#live")
    picture = line_picture(tmp_path / "image.png")
    for on, files, texts in (
        ("#prompt", [picture], {"plain": "a dog"}),  # as a cell of a table comes
        ("#prompt", [], {"plain": SVG}),
        ("body", [], {"plain": "a dog"}),
    ):
        brought(page, "paste", on, *files, **texts)
    expect(page.locator("#told .error")).to_have_text(
        "What was pasted is no drawing: copy a picture, or the text of an SVG."
    )
    page.wait_for_timeout(300)
    assert not asked
    brought(page, "paste", "body", plain=f'<?xml version="1.0"?>\n{SVG}')
    painted(page, 0.5, 0.5)
    assert len(strokes(page)) == 1
    for on in ("body", "#prompt"):
        page.click("#clear")
        brought(page, "paste", on, picture)
        painted(page, 0.5, 0.49)
        expect(page.locator("#polarity")).to_be_visible()


def test_a_photograph_is_traced_and_read_as_lines_by_choice(page: Page, tmp_path: Path):
    page.uncheck("#live")
    photograph = tmp_path / "beam.png"
    beam = Image.new("RGB", (200, 200), "white")
    beam.paste("black", (20, 92, 180, 108))
    beam.save(photograph)
    page.set_input_files("#trace", photograph)
    painted(page, 0.5, 0.46)
    assert not ink(page, 0.5, 0.5)
    expect(page.locator("#polarity")).to_have_value("trace")
    page.select_option("#polarity", "dark-on-light")
    painted(page, 0.5, 0.5)
    page.select_option("#polarity", "trace")
    painted(page, 0.5, 0.5, clean=True)
    assert ink(page, 0.5, 0.46)


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("focus", ["#paper", "#prompt"])
def test_escape_stops(page: Page, desk: Desk, focus: str):
    page.click("#draw")
    expect(page.locator("#status")).to_contain_text("of 3")
    page.locator(focus).focus()
    page.keyboard.press("Escape")
    expect(page.locator("#stop")).to_be_disabled()
    (job,) = desk._jobs.values()  # pyright: ignore[reportPrivateUsage]
    for _ in range(400):
        if job.stop:
            break
        page.wait_for_timeout(50)
    assert job.stop


def send_pointers(page: Page, *events: tuple[str, str, int, float, float], **more: Any) -> None:
    """What fingers and pens do on the paper: (down, move, up or cancel; touch or pen; number; x; y)."""
    page.evaluate(
        """([events, more]) => {
        const canvas = document.getElementById("paper");
        const box = canvas.getBoundingClientRect();
        HTMLElement.prototype.setPointerCapture = () => {};
        for (const [kind, pointerType, pointerId, x, y] of events)
            canvas.dispatchEvent(new PointerEvent(`pointer${kind}`, { pointerType, pointerId, bubbles: true,
                clientX: box.x + x * box.width, clientY: box.y + y * box.height, ...more })); }""",
        [events, more],
    )


def test_the_eraser_of_a_pen_rubs_out(page: Page):
    page.uncheck("#live")
    draw_line(page, (0.1, 0.5), (0.9, 0.5))
    send_pointers(page, ("down", "pen", 3, 0.5, 0.3), button=5)
    send_pointers(page, ("move", "pen", 3, 0.5, 0.7), ("up", "pen", 3, 0.5, 0.7))
    assert len(strokes(page)) == 2
    assert not ink(page, 0.5, 0.5)
    assert page.is_checked("input[value=pen]")


def test_three_fingers_draw_nothing_until_all_are_lifted(page: Page):
    page.uncheck("#live")
    send_pointers(page, *(("down", "touch", number, 0.1 * number, 0.5) for number in (6, 7, 8)))
    send_pointers(page, *(("cancel", "touch", number, 0.1 * number, 0.5) for number in (6, 7, 8)))
    expect(page.locator("#undo")).to_be_disabled()
    send_pointers(page, ("down", "touch", 9, 0.2, 0.5), ("move", "touch", 9, 0.8, 0.5), ("up", "touch", 9, 0.8, 0.5))
    assert len(strokes(page)) == 1


def test_a_finger_whose_end_was_not_told_does_not_keep_the_next_from_drawing(page: Page):
    page.uncheck("#live")
    send_pointers(page, ("down", "touch", 6, 0.2, 0.2), ("down", "touch", 7, 0.8, 0.2))
    send_pointers(page, ("down", "touch", 8, 0.2, 0.5), isPrimary=True)
    send_pointers(page, ("move", "touch", 8, 0.8, 0.5), ("up", "touch", 8, 0.8, 0.5), isPrimary=True)
    assert len(strokes(page)) == 1


def test_two_fingers_of_which_one_is_beside_the_paper_draw_nothing(page: Page):
    page.uncheck("#live")
    beside = """(kind) => document.getElementById("result").dispatchEvent(
        new PointerEvent(`pointer${kind}`, { pointerType: "touch", pointerId: 5, bubbles: true }))"""
    send_pointers(page, ("down", "touch", 6, 0.2, 0.5))
    page.evaluate(beside, "down")
    send_pointers(page, ("move", "touch", 6, 0.8, 0.5), ("cancel", "touch", 6, 0.8, 0.5))
    send_pointers(page, ("down", "touch", 7, 0.2, 0.5), ("move", "touch", 7, 0.8, 0.5), ("up", "touch", 7, 0.8, 0.5))
    expect(page.locator("#undo")).to_be_disabled()
    page.evaluate(beside, "up")
    send_pointers(page, ("down", "touch", 6, 0.2, 0.5), ("move", "touch", 6, 0.8, 0.5), ("up", "touch", 6, 0.8, 0.5))
    assert len(strokes(page)) == 1


def test_a_finger_that_rests_before_another_comes_draws_nothing(page: Page):
    page.uncheck("#live")
    send_pointers(page, ("down", "touch", 6, 0.3, 0.5), ("move", "touch", 6, 0.306, 0.5))
    page.wait_for_timeout(400)
    send_pointers(page, ("down", "touch", 7, 0.7, 0.5))
    for kind in ("move", "cancel"):
        send_pointers(page, (kind, "touch", 6, 0.2, 0.5), (kind, "touch", 7, 0.8, 0.5))
    expect(page.locator("#undo")).to_be_disabled()


def test_a_finger_that_has_drawn_goes_on_where_another_comes(page: Page):
    page.uncheck("#live")
    send_pointers(page, ("down", "touch", 6, 0.2, 0.5), ("move", "touch", 6, 0.4, 0.5))
    page.wait_for_timeout(400)
    send_pointers(page, ("down", "touch", 7, 0.7, 0.2), ("move", "touch", 6, 0.8, 0.5), ("up", "touch", 6, 0.8, 0.5))
    (stroke,) = strokes(page)
    assert stroke["points"][-1] == pytest.approx([0.8, 0.5], abs=0.01)


def test_long_after_a_pen_a_finger_that_is_taken_away_leaves_its_line(page: Page):
    page.clock.install()
    page.uncheck("#live")
    send_pointers(page, ("move", "pen", 1, 0.1, 0.1))
    page.clock.fast_forward(61_000)
    send_pointers(
        page, ("down", "touch", 6, 0.2, 0.5), ("move", "touch", 6, 0.8, 0.5), ("cancel", "touch", 6, 0.8, 0.5)
    )
    assert len(strokes(page)) == 1


def test_how_clear_the_lines_on_top_are_is_chosen(page: Page):
    lines = page.locator("#lines")
    expect(lines).to_have_css("opacity", "0")
    page.fill("#overlay", "0.5")
    expect(lines).to_have_css("opacity", "0.5")


def test_the_lines_lie_on_every_one_of_several_pictures(page: Page):
    page.uncheck("#live")
    setting(page, "count", "2")
    draw_line(page, (0.2, 0.5), (0.8, 0.5))
    page.click("#draw")
    expect(page.locator("#pictures button")).to_have_count(2)
    for x in (0.25, 0.75):
        painted(page, x, 0.5, canvas="lines")
    assert not ink(page, 0.5, 0.5, canvas="lines")
    assert not ink(page, 0.25, 0.25, canvas="lines")
    page.locator("#history button").first.click()
    painted(page, 0.5, 0.5, canvas="lines")


def test_pictures_are_kept_again_after_the_browser_closed_its_store(page: Page):
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(1)
    session = page.context.new_cdp_session(page)
    origin = page.evaluate("location.origin")
    session.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "indexeddb"})
    page.click("#draw")
    expect(page.locator("#history img")).to_have_count(2)
    expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator("#fleeting")).to_be_hidden()
    page.reload()
    expect(page.locator("#history img")).to_have_count(1)


def test_the_last_sixty_pictures_are_kept(page: Page):
    page.evaluate(
        """async () => { const open = indexedDB.open("sketchguide", 1);
        await new Promise((done) => (open.onsuccess = done));
        const store = open.result.transaction("pictures", "readwrite").objectStore("pictures");
        for (let seed = 0; seed < 60; seed++)
            store.add({ seed, request: { prompt: "a dog", seed, size: [64, 64] }, blob: new Blob([""]) });
        await new Promise((done) => (store.transaction.oncomplete = done)); }"""
    )
    page.reload()
    expect(page.locator("#history img")).to_have_count(60)
    page.click("#draw")
    newest = page.locator("#history button").first
    expect(newest).to_have_attribute("title", re.compile("a cat"))
    expect(page.locator("#stop")).to_be_disabled()
    for _ in range(2):
        assert pictures(page) == 60
        assert page.locator("#history button").last.get_attribute("title") == "a dog, seed 1"
        page.reload()
        expect(newest).to_have_attribute("title", re.compile("a cat"))


def test_the_paper_says_what_is_on_it(page: Page, tmp_path: Path):
    page.uncheck("#live")
    paper = page.locator("#paper")
    expect(paper).to_have_accessible_name("Paper to draw on")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    expect(paper).to_have_accessible_name("Drawing, 1 line")
    page.set_input_files("#open", line_picture(tmp_path / "line.png"))
    expect(paper).to_have_accessible_name("Drawing, a picture")
    draw_line(page, (0.2, 0.2), (0.8, 0.2))
    draw_line(page, (0.2, 0.8), (0.8, 0.8))
    expect(paper).to_have_accessible_name("Drawing, a picture and 2 lines")
    page.reload()
    expect(paper).to_have_accessible_name("Drawing, a picture and 2 lines")


def test_the_earlier_picture_on_display_is_marked(page: Page, held: threading.Event):
    held.clear()
    for count in (1, 2):
        page.click("#dice")
        expect(page.locator("#history img")).to_have_count(count)
    earlier = page.locator("#history button")
    current = page.locator("#history button[aria-current=true]")
    expect(current).to_have_count(1)
    expect(earlier.first).to_have_attribute("aria-current", "true")
    earlier.last.click()
    expect(current).to_have_count(1)
    expect(earlier.last).to_have_attribute("aria-current", "true")
    held.set()
    page.click("#dice")
    expect(page.locator("#status")).to_contain_text("of 3")
    expect(current).to_have_count(0)  # a preview is none of them
    page.click("#stop")
    expect(earlier.last).to_have_attribute("aria-current", "true")


def test_a_screen_reader_is_told_of_the_queue_and_now_and_then_of_the_steps(
    page: Page, served: Served, held: threading.Event
):
    other = another_tab(page, served)
    other.click("#draw")
    expect(other.locator("#status")).to_contain_text("of 3")
    page.click("#draw")
    spoken = page.get_by_role("status").filter(has_text="next")
    expect(spoken).to_have_id("spoken")
    assert "step" not in other.locator("#spoken").inner_text()  # so soon
    expect(other.locator("#spoken")).to_contain_text("step 2 of 3")
    held.clear()
    expect(page.locator("#spoken")).to_contain_text("Picture done, seed")
    other.close()
