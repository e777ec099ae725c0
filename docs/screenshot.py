"""The picture of the drawing page in the docs: a mushroom is drawn on it, and photographed.

    python docs/screenshot.py --out docs/images/page.png

Needs the extra `test` and a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from sketchguide import Backbone, LatentPredictor, Sketch, load_backbone, load_predictor
from sketchguide.cli.serve import address, listen
from sketchguide.web.app import create_app
from sketchguide.web.jobs import Desk
from sketchguide.web.server import DrainingServer, configured

DRAWING = Path(__file__).parents[1] / "examples" / "sketches" / "mushroom.svg"


def load() -> tuple[Backbone, LatentPredictor]:
    backbone = load_backbone()
    return backbone, load_predictor(None, backbone)


def draw(page: Page, sketch: Sketch) -> None:
    """Every stroke with the mouse, as somebody would."""
    box = page.locator("#paper").bounding_box()
    assert box is not None
    for stroke in sketch.strokes:
        points = [(box["x"] + float(x) * box["width"], box["y"] + float(y) * box["height"]) for x, y in stroke.points]
        if stroke.closed:
            points.append(points[0])
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/page.png"))
    parser.add_argument(
        "--drawing", type=Path, default=DRAWING, help="strokes as SVG (default: the example's mushroom)"
    )
    parser.add_argument("--prompt", default="a mushroom")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5], help="the last one's picture is shown large")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("There is no Chromium. Install the package chromium.")
    with Desk(load) as desk, listen("127.0.0.1", 0) as listening:
        server = DrainingServer(configured(create_app(desk)), desk)
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        serving.start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1120, "height": 960})
            page.goto(address(*listening.getsockname(), None))
            page.fill("#prompt", options.prompt)
            page.uncheck("#live")
            draw(page, Sketch.open(options.drawing))
            for number, seed in enumerate(options.seeds, 1):
                page.fill("#seed", str(seed))
                page.click("#draw")
                page.wait_for_selector(f"#history button:nth-child({number})", timeout=120_000)
            page.locator("#live").evaluate("box => (box.checked = true)")
            page.locator("h1").click()
            page.screenshot(path=options.out)
            browser.close()
        server.should_exit = True
        serving.join()
    print(options.out)


if __name__ == "__main__":
    main()
