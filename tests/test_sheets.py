"""Photos of a sheet of paper that lies on a table."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sketchguide.defaults import Polarity
from sketchguide.errors import SketchguideWarning
from sketchguide.evaluation.metrics import edge_f1
from sketchguide.sheets import cut_out
from sketchguide.sketch import Sketch

CAT = Path(__file__).resolve().parents[1] / "examples" / "sketches" / "cat.svg"
PAPER = (232, 230, 224)
Table = tuple[int, int, int]


@cache
def sheet() -> Image.Image:
    """900 x 700: a cat in ink on off-white paper."""
    page = Image.new("RGB", (900, 700), PAPER)
    ink = Sketch.open(CAT).rasterize(size=(600, 600)).ink
    page.paste((45, 45, 55), (150, 50), Image.fromarray((ink * 255).astype(np.uint8)))
    return page


@cache
def whole() -> Sketch:
    """What is drawn on the sheet."""
    return Sketch.from_image(sheet())


def noisy(light: NDArray[Any]) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 4, (*light.shape[:2], 1))
    return Image.fromarray((light + noise).clip(0, 255).astype(np.uint8))


def photo(table: Table, *, cover: float = 0.6, turn: float = 0, lean: float = 0, shade: float = 0) -> Image.Image:
    """1200 x 900, of which the sheet covers that share: turned by degrees, seen from below, the light falling off."""
    width, height, share = 900, 700, (cover * 1200 * 900 / (900 * 700)) ** 0.5
    wide, high = width * share / 2, height * share / 2
    corners = np.array([[lean * wide - wide, -high], [wide - lean * wide, -high], [wide, high], [-wide, high]])
    angle = np.radians(turn)
    turned = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + (600, 450)
    rows, ends = [], []
    for (x, y), (u, v) in zip(turned, [(0, 0), (width, 0), (width, height), (0, height)], strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        ends += [u, v]
    seen = np.linalg.solve(np.array(rows), np.array(ends)).tolist()
    way = Image.Transform.PERSPECTIVE
    there = Image.new("L", (width, height), 255).transform((1200, 900), way, seen, Image.Resampling.BICUBIC)
    page = sheet().transform((1200, 900), way, seen, Image.Resampling.BICUBIC)
    lit = np.asarray(Image.composite(page, Image.new("RGB", (1200, 900), table), there)).astype(float)
    lit *= (1 - shade * np.linspace(0, 1, 1200))[None, :, None]
    return noisy(lit)


def read(picture: Image.Image) -> Sketch:
    with pytest.warns(SketchguideWarning, match="a photo of a sheet of paper: what lies around the sheet is cut off"):
        return Sketch.from_image(picture)


def agreement(found: Sketch, wanted: Sketch) -> float:
    """F1 of the two maps' lines."""
    maps = [torch.tensor(one.rasterize(size=(64, 64)).ink)[None, None] for one in (found, wanted)]
    return float(edge_f1(*maps, tolerance=1.5).f1)


@pytest.mark.parametrize("table", [(60, 45, 35), (140, 110, 80), (40, 60, 110), (150, 150, 150)])
@pytest.mark.parametrize("cover", [0.85, 0.6, 0.4])
def test_the_drawing_is_that_of_the_sheet_alone(table: Table, cover: float):
    assert agreement(read(photo(table, cover=cover)), whole()) > 0.95


@pytest.mark.parametrize(
    ("turn", "lean", "shade"), [(12, 0, 0.3), (-8, 0.1, 0.4), (30, 0, 0), (3, 0.04, 0.2)],
    ids=["turned", "leaning", "far turned", "dim"],
)  # fmt: skip
def test_of_a_sheet_that_lies_askew_no_edge_is_left(turn: float, lean: float, shade: float):
    cat = read(photo((120, 80, 50), cover=0.55, turn=turn, lean=lean, shade=shade))
    ink = cat.rasterize(size=(256, 256)).ink
    rows, columns = np.nonzero(ink > 0.5)
    assert 0.12 < rows.min() / 256 < rows.max() / 256 < 0.88
    assert 0.12 < columns.min() / 256 < columns.max() / 256 < 0.88
    assert ink.mean() > 0.05


def test_a_sheet_may_reach_over_three_edges_of_the_picture():
    page = noisy(np.broadcast_to((60, 45, 35), (850, 900, 3)))
    page.paste(sheet(), (0, 150))
    assert agreement(read(page), whole()) > 0.95


@pytest.mark.parametrize("thumb", [(900, 600, 1300, 1000), (0, 650, 350, 950)])
def test_a_sheet_with_a_thumb_over_its_corner_is_told(thumb: tuple[int, int, int, int]):
    picture = photo((140, 100, 60), cover=0.5, turn=8)
    ImageDraw.Draw(picture).ellipse(thumb, fill=(220, 170, 140))
    with pytest.warns(SketchguideWarning, match="no whole sheet of paper"):
        assert cut_out(picture) is None


def figure(kind: str) -> Image.Image:
    """Drawings that have something light on something dark, and are no photos of a sheet."""
    page = Image.new("RGB", (300, 300), "black")
    draw = ImageDraw.Draw(page)
    match kind:
        case "lines on black":
            draw.ellipse((50, 50, 250, 250), outline="white", width=6)
            draw.rectangle((90, 90, 210, 210), outline="white", width=6)
        case "a ghost with eyes":
            draw.polygon([(150, 30), (240, 120), (240, 270), (200, 230), (150, 270), (100, 230), (60, 270), (60, 120)],
                         fill="white")  # fmt: skip
            draw.ellipse((110, 110, 135, 140), fill="black")
            draw.ellipse((165, 110, 190, 140), fill="black")
        case "a moon":
            draw.ellipse((40, 40, 260, 260), fill="white")
            draw.ellipse((90, 90, 120, 120), fill="black")
        case "a blank card":
            draw.rectangle((40, 60, 260, 240), fill="white")
        case "a die":
            draw.rectangle((50, 50, 250, 250), fill="white")
            for x, y in ((100, 100), (200, 100), (150, 150), (100, 200), (200, 200)):
                draw.ellipse((x - 15, y - 15, x + 15, y + 15), fill="black")
        case "a television":
            page.paste((70, 60, 50), (0, 0, 300, 300))
            draw.rectangle((20, 20, 280, 240), fill="white")
            draw.ellipse((80, 80, 220, 200), outline="black", width=5)
        case "a framed drawing":
            draw.rectangle((5, 5, 294, 294), fill="white")
            draw.ellipse((80, 80, 220, 220), outline="black", width=5)
        case _:
            page.paste("white", (0, 0, 300, 300))
            draw.rectangle((30, 60, 270, 240), outline="black", width=8)
            draw.ellipse((80, 80, 220, 220), outline="black", width=5)
    return page


@cache
def paper() -> tuple[Image.Image, Sketch]:
    """Paper with three strokes that fills the picture, and what is drawn on it."""
    page = Image.new("RGB", (900, 700), PAPER)
    draw = ImageDraw.Draw(page)
    for x in (150, 400, 650):
        draw.line([(x, 150), (x + 80, 520), (x + 120, 300)], fill=(70, 70, 75), width=8)
    return page, Sketch.from_image(page)


@pytest.mark.parametrize("dim", [0.4, 0.5, 0.6])
@pytest.mark.parametrize("turned", [False, True])
def test_light_that_falls_off_along_the_paper_parts_nothing(dim: float, turned: bool):
    """Paper fills the picture, and a window is at its side."""
    page, drawn = paper()
    fall = np.linspace(1, dim, 900)[None, :, None] if not turned else np.linspace(dim, 1, 700)[:, None, None]
    picture = noisy(np.asarray(page).astype(float) * fall)
    assert cut_out(picture) is None
    assert agreement(Sketch.from_image(picture), drawn) > 0.9


@pytest.mark.parametrize(
    "kind",
    [
        "lines on black",
        "a ghost with eyes",
        "a moon",
        "a blank card",
        "a die",
        "a television",
        "a framed drawing",
        "a picture on a wall",
    ],
)
def test_other_light_things_are_no_sheets(kind: str):
    assert cut_out(figure(kind)) is None


@pytest.mark.parametrize("polarity", ["light-on-dark", "dark-on-light"])
def test_a_polarity_that_is_given_leaves_the_picture_whole(polarity: Polarity):
    picture = photo((60, 45, 35), cover=0.6)
    with pytest.warns(SketchguideWarning, match="read as a shape of the drawing"):
        assert Sketch.from_image(picture, polarity=polarity).aspect == 1200 / 900


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (16, 500), (4000, 3000)])
def test_any_size_is_looked_at(size: tuple[int, int]):
    picture = photo((60, 45, 35), cover=0.5).resize(size)
    found = cut_out(picture)
    assert (found is None) == (min(size) < 128)
