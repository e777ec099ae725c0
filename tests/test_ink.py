"""What is read as ink in pictures of lines, and what is not."""

import contextlib
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from drawings import difference, drawn, thickness
from sketchguide.defaults import Polarity
from sketchguide.errors import SketchError, SketchguideWarning
from sketchguide.sketch import Sketch


@pytest.mark.parametrize(("ink", "paper"), [("black", "white"), ("white", "black"), (90, 150), ("yellow", "white")])
def test_polarity_is_detected(cat: Sketch, ink: Any, paper: Any) -> None:
    colours = [(colour,) * 3 if isinstance(colour, int) else colour for colour in (ink, paper)]
    mapped = Sketch.from_image(drawn(cat, 256, ink=colours[0], paper=colours[1])).rasterize(size=(64, 64))
    assert difference(mapped, cat.rasterize(size=(64, 64))) < 0.09


@pytest.mark.parametrize("pair", [("yellow", "blue"), ("yellow", "red"), ("cyan", "blue"), ("lime", "red")])
def test_of_pure_colours_the_lighter_and_the_darker_can_be_ink(cat: Sketch, pair: tuple[str, str]) -> None:
    for ink, paper in (pair, pair[::-1]):
        mapped = Sketch.from_image(drawn(cat, 256, ink=ink, paper=paper)).rasterize(size=(64, 64))
        assert difference(mapped, cat.rasterize(size=(64, 64))) < 0.09


@pytest.mark.parametrize(("ink", "paper", "stray"), [(25, 115, 255), (230, 140, 0), (90, 150, 255), (150, 90, 0)])
def test_a_stray_pixel_does_not_turn_a_drawing_over(cat: Sketch, ink: int, paper: int, stray: int) -> None:
    image = drawn(cat, 256, ink=(ink,) * 3, paper=(paper,) * 3)
    image.putpixel((3, 200), (stray,) * 3)
    assert difference(Sketch.from_image(image).rasterize(size=(64, 64)), cat.rasterize(size=(64, 64))) < 0.09


@pytest.mark.parametrize(
    ("ink", "paper"), [((30, 30, 30), (250, 220, 40)), ((20, 20, 20), (255, 140, 0)), ((255, 255, 255), (0, 0, 255))]
)
def test_ink_on_coloured_paper_is_read(cat: Sketch, ink: Any, paper: Any) -> None:
    mapped = Sketch.from_image(drawn(cat, 256, ink=ink, paper=paper)).rasterize(size=(64, 64))
    assert difference(mapped, cat.rasterize(size=(64, 64))) < 0.09


def test_pictures_are_taken_as_files_are(cat: Sketch) -> None:
    """Upright, and 16 bits a pixel as what they mean."""
    grey = np.asarray(drawn(cat, 256).convert("L")).astype(np.uint16)
    deep = Image.fromarray(20000 + grey * 117)
    assert difference(Sketch.from_image(deep).rasterize(size=(64, 64)), cat.rasterize(size=(64, 64))) < 0.09
    sideways = Image.new("RGB", (100, 50), "white")
    sideways.getexif()[274] = 6
    assert Sketch.from_image(sideways).aspect == 0.5


@pytest.mark.parametrize("dark_share", [0.45, 0.6])
def test_a_large_silhouette_is_not_taken_for_paper(dark_share: float) -> None:
    half = 100 * math.sqrt(dark_share)
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).rectangle([100 - half, 100 - half, 100 + half, 100 + half], fill="black")
    ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink
    assert ink[32, 32] == 0
    assert ink[32, 32 - round(half * 0.32) - 1 :][:3].max() > 0.8


@pytest.mark.parametrize("width", [5, 16])
def test_a_dark_frame_does_not_turn_a_drawing_over(cat: Sketch, width: int) -> None:
    image = drawn(cat, 256)
    ImageDraw.Draw(image).rectangle([0, 0, 255, 255], outline="black", width=width)
    with pytest.warns(SketchguideWarning, match="crop") if width > 5 else contextlib.nullcontext():
        ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink[6:58, 6:58]
    assert np.abs(ink - cat.rasterize(size=(64, 64)).ink[6:58, 6:58]).mean() < 0.03


def test_a_table_that_cannot_be_told_from_the_drawing_is_warned_of() -> None:
    """The corner of something dark beside the sheet, and no whole sheet."""
    photo = Image.new("RGB", (400, 300), (230, 228, 222))
    draw = ImageDraw.Draw(photo)
    draw.polygon([(0, 0), (300, 0), (180, 90), (90, 120), (60, 300), (0, 300)], fill=(60, 45, 35))
    draw.ellipse((200, 120, 330, 250), outline=(40, 40, 50), width=3)
    with pytest.warns(SketchguideWarning, match="crop the picture to the sheet"):
        Sketch.from_image(photo)


def test_polarity_can_be_forced() -> None:
    image = Image.new("RGB", (100, 100), "white")
    ImageDraw.Draw(image).rectangle([4, 4, 95, 95], fill="black")
    ImageDraw.Draw(image).line([20, 50, 80, 50], fill="white", width=3)
    maps = {"dark-on-light": Sketch.from_image(image, polarity="dark-on-light").rasterize(size=(64, 64))}
    with pytest.warns(SketchguideWarning, match="read as a shape of the drawing"):  # the white around the black
        maps["light-on-dark"] = Sketch.from_image(image, polarity="light-on-dark").rasterize(size=(64, 64))
    assert maps["light-on-dark"].ink[32, 32] == 1
    assert maps["dark-on-light"].ink[20, 32] == 0
    assert not np.array_equal(maps["light-on-dark"].ink, maps["dark-on-light"].ink)
    with pytest.raises(SketchError, match="Polarity"):
        Sketch.from_image(image, polarity="inverted")  # type: ignore[arg-type]


def test_a_photographed_pencil_drawing(cat: Sketch) -> None:
    clean = np.asarray(drawn(cat, 400, width=2).convert("L")) / 255
    y, x = np.mgrid[-1:1:400j, -1:1:400j]
    light = 0.7 - 0.2 * x - 0.12 * y
    shot = light * (0.6 + 0.4 * clean) + np.random.default_rng(0).normal(0, 0.015, clean.shape)
    image = Image.fromarray((shot.clip(0, 1) * 255).astype(np.uint8))
    assert difference(Sketch.from_image(image).rasterize(size=(64, 64)), cat.rasterize(size=(64, 64))) < 0.1


def grainy(cat: Sketch, *, contrast: float, noise: float, dots: int = 0) -> Image.Image:
    """600 x 600: the cat in pencil, and dots twice as wide as its lines, on paper that is lit from one side."""
    page = drawn(cat, 600, width=4)
    for row, column in islice(np.ndindex(10, 10), dots):
        x, y = 20 + 60 * column, 10 + 22 * row
        ImageDraw.Draw(page).ellipse([x, y, x + 8, y + 8], fill="black")
    y, x = np.mgrid[-1:1:600j, -1:1:600j]
    light = 0.6 - 0.15 * x - 0.1 * y
    shot = light * (1 - contrast + contrast * np.asarray(page.convert("L")) / 255)
    shot += np.random.default_rng(0).normal(0, noise, shot.shape)
    return Image.fromarray((shot.clip(0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize(("contrast", "noise"), [(0.25, 0.03), (0.2, 0.02), (0.5, 0.08)])
def test_grain_is_not_read_as_specks(cat: Sketch, contrast: float, noise: float) -> None:
    found = Sketch.from_image(grainy(cat, contrast=contrast, noise=noise)).rasterize(size=(64, 64))
    assert difference(found, cat.rasterize(size=(64, 64))) < 0.1


def test_dots_on_grainy_paper_are_kept_and_many_are_told(cat: Sketch) -> None:
    for dots, warned in ((8, False), (40, True)):
        told = pytest.warns(SketchguideWarning, match="hardly be told from its grain")
        with told if warned else contextlib.nullcontext():
            found = Sketch.from_image(grainy(cat, contrast=0.4, noise=0.03, dots=dots))
        clean = Sketch.from_image(grainy(cat, contrast=0.4, noise=0, dots=dots))
        assert difference(found.rasterize(size=(64, 64)), clean.rasterize(size=(64, 64))) < 0.1


def test_lines_fainter_than_the_grain_are_told(cat: Sketch) -> None:
    with pytest.warns(SketchguideWarning, match="hardly be told from its grain"):
        assert Sketch.from_image(grainy(cat, contrast=0.04, noise=0.05)).rasterize(size=(64, 64)).blank


def photo(cat: Sketch, light: NDArray[np.float64], *, width: int = 4) -> Image.Image:
    """The cat on paper that `light` (400, 400) falls on."""
    clean = np.asarray(drawn(cat, 400, width=width).convert("L")) / 255
    return Image.fromarray((light * (0.2 + 0.8 * clean) * 255).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("depth", [0.85, 0.7, 0.6])
@pytest.mark.parametrize("edge", [0.005, 0.05, 0.2])
def test_a_shadow_from_the_edge_hides_nothing(cat: Sketch, depth: float, edge: float) -> None:
    y, x = np.mgrid[0:1:400j, 0:1:400j]
    expected = cat.rasterize(size=(64, 64))
    for away in (x + y - 1, np.hypot(x - 1, y - 1) - 0.6):  # over half of the page, and a hand in the corner
        light = depth + (1 - depth) / (1 + np.exp(-away / edge))
        assert difference(Sketch.from_image(photo(cat, light)).rasterize(size=(64, 64)), expected) < 0.1


@pytest.mark.parametrize("share", [0.55, 0.6, 0.7])
@pytest.mark.parametrize("depth", [0.55, 0.65])
def test_pencil_on_paper_that_is_mostly_in_shadow_is_dark_on_light(cat: Sketch, share: float, depth: float) -> None:
    """Where the shadow is hardly lighter than pencil in the light."""
    clean = np.asarray(drawn(cat, 400, width=4).convert("L")) / 255
    x = np.linspace(0, 1, 400)[None, :]
    light = np.where(x < share, depth, 0.95)
    shot = light * (0.5 + 0.5 * clean) + np.random.default_rng(0).normal(0, 0.01, clean.shape)
    image = Image.fromarray((shot.clip(0, 1) * 255).astype(np.uint8))
    found = Sketch.from_image(image).rasterize(size=(64, 64))
    forced = Sketch.from_image(image, polarity="dark-on-light").rasterize(size=(64, 64))
    assert np.array_equal(found.ink, forced.ink)
    # where so much is dark that the light is the exception, something of the shadow's edge is left
    assert difference(found, cat.rasterize(size=(64, 64))) < (0.15 if share < 0.7 else 0.3)


@pytest.mark.parametrize("board", [25, 70, 120, 150])
def test_a_large_chalk_shape_on_a_board_is_light_on_dark(board: int) -> None:
    lines = Image.new("L", (400, 400), board)
    ImageDraw.Draw(lines).ellipse((60, 80, 340, 320), fill=210)
    ImageDraw.Draw(lines).line((20, 370, 380, 370), fill=210, width=6)
    found = Sketch.from_image(lines)
    forced = Sketch.from_image(lines, polarity="light-on-dark")
    assert np.array_equal(found.rasterize(size=(64, 64)).ink, forced.rasterize(size=(64, 64)).ink)


def test_a_dark_shape_that_bleeds_off_the_page_is_no_shadow() -> None:
    image = Image.new("L", (400, 400), 255)
    ImageDraw.Draw(image).ellipse([100, 200, 300, 500], fill=60)
    ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink
    assert ink[31:34, 32].max() > 0.5  # its outline
    assert ink[45, 32] == 0


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(("width", "turned"), [(2, 0), (6, 0), (4, 0.3), (4, -1.5), (4, 4)])
def test_the_lines_of_ruled_paper_are_no_drawing(cat: Sketch, *, squared: bool, width: int, turned: float) -> None:
    image = Image.new("RGB", (400, 400), "white")
    draw = ImageDraw.Draw(image)
    for at in range(10, 400, 20):
        draw.line([0, at, 400, at], fill=(190, 215, 240))
        if squared:
            draw.line([at, 0, at, 400], fill=(190, 215, 240))
    image = image.rotate(turned, Image.Resampling.BICUBIC, fillcolor="white")
    image.paste(
        drawn(cat, 400, width=width), mask=Image.eval(drawn(cat, 400, width=width).convert("L"), lambda v: 255 - v)
    )
    expected = cat.rasterize(size=(64, 64))
    assert difference(Sketch.from_image(image).rasterize(size=(64, 64)), expected) < 0.1


@pytest.mark.parametrize("turned", [0, 1])
def test_a_line_that_is_drawn_along_the_ruling_stays_and_the_ruling_goes(turned: float) -> None:
    image = Image.new("L", (400, 400), 255)
    for at in range(10, 400, 20):
        ImageDraw.Draw(image).line([0, at, 400, at], fill=210)
    image = image.rotate(turned, Image.Resampling.BICUBIC, fillcolor=255)
    ImageDraw.Draw(image).line([20, 190, 380, 190], fill=20, width=4)
    ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink
    assert ink[29:32, 5:59].max(axis=0).min() > 0.5
    assert not ink[:28].any()
    assert not ink[34:].any()


def test_lines_that_are_drawn_across_the_page_stay() -> None:
    image = Image.new("L", (400, 400), 255)
    for at in range(50, 400, 60):
        ImageDraw.Draw(image).line([0, at, 400, at], fill=40, width=4)
    assert (Sketch.from_image(image).rasterize(size=(64, 64)).ink[:, 32] > 0.5).sum() >= 6


def house(size: int, *, coloured: bool) -> Image.Image:
    """Lines, or lines around areas of colour."""
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    for colour, corners in (
        ((250, 220, 90), [(0.2, 0.45), (0.8, 0.45), (0.8, 0.9), (0.2, 0.9)]),
        ((220, 60, 50), [(0.2, 0.45), (0.5, 0.15), (0.8, 0.45)]),
        ((120, 180, 240), [(0.28, 0.55), (0.42, 0.55), (0.42, 0.7), (0.28, 0.7)]),
    ):
        points = [(x * size, y * size) for x, y in corners]
        if coloured:
            draw.polygon(points, fill=colour)
        draw.line([*points, *points[:2]], fill="black", width=size // 80, joint="curve")
    return image


@pytest.mark.parametrize("size", [200, 512, 1500])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_drawing_that_was_coloured_in_is_its_lines(size: int, *, inverted: bool) -> None:
    turn: Callable[[Image.Image], Image.Image] = ImageOps.invert if inverted else Image.Image.copy
    expected = Sketch.from_image(turn(house(size, coloured=False))).rasterize(size=(64, 64))
    assert difference(Sketch.from_image(turn(house(size, coloured=True))).rasterize(size=(64, 64)), expected) < 0.1


def test_a_colour_without_a_line_is_read_as_its_edge_beside_those_that_have_lines() -> None:
    image = house(512, coloured=True)
    ImageDraw.Draw(image).ellipse([10, 10, 110, 110], fill=(250, 180, 0))
    ink = Sketch.from_image(image).rasterize(size=(64, 64)).ink
    assert ink[7, 0:4].max() > 0.5
    assert ink[7, 12:16].max() > 0.5
    assert ink[5:10, 5:10].max() == 0
    assert ink[40, 26:28].max() > 0.5  # the window


def test_a_round_area_of_colour_has_a_whole_outline() -> None:
    picture = Image.new("RGB", (600, 600), "white")
    pen = ImageDraw.Draw(picture)
    pen.ellipse((75, 75, 525, 525), fill="#ffd83d")
    pen.arc((180, 200, 420, 420), 20, 160, fill="#333", width=12)
    pen.line((220, 200, 220, 260), fill="#333", width=12)
    pen.line((380, 200, 380, 260), fill="#333", width=12)
    ink = Sketch.from_image(picture).rasterize(size=(128, 128)).ink
    turns = np.linspace(0, 2 * np.pi, 180)
    around = [ink[round(64 + 48 * np.sin(t)) - 2 :][:5, round(64 + 48 * np.cos(t)) - 2 :][:, :5].max() for t in turns]
    assert min(around) > 0.5


@pytest.mark.parametrize(
    "colour", [(255, 255, 255), (250, 250, 250), (245, 245, 240), (255, 240, 150), (200, 200, 200)]
)
@pytest.mark.parametrize("polarity", ["auto", "light-on-dark"])
def test_light_lines_on_nothing_are_seen(tmp_path: Path, colour: tuple[int, int, int], polarity: Polarity) -> None:
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse([40, 40, 160, 160], outline=colour, width=4)
    image.save(tmp_path / "ring.png")
    for sketch in (Sketch.from_image(image, polarity=polarity), Sketch.open(tmp_path / "ring.png", polarity=polarity)):
        ink = sketch.rasterize(size=(64, 64)).ink
        assert ink[12:15, 32].max() > 0.5
        assert ink[32, 32] == 0


@pytest.mark.parametrize("polarity", ["auto", "dark-on-light", "light-on-dark"])
def test_pictures_without_contrast_are_blank(polarity: Polarity) -> None:
    for colour in ("white", "black", (128, 120, 130)):
        image = Image.new("RGB", (64, 64), colour)
        assert Sketch.from_image(image, polarity=polarity).rasterize(size=(64, 64)).blank


def test_noise_is_not_ink() -> None:
    noise = np.random.default_rng(0).normal(0.9, 0.02, (200, 200)).clip(0, 1)
    image = Image.fromarray((noise * 255).astype(np.uint8))
    assert Sketch.from_image(image).rasterize(size=(64, 64)).blank


def test_long_pictures_are_refused() -> None:
    with pytest.raises(SketchError, match="times as wide as high"):
        Sketch.from_image(Image.new("RGB", (2000, 20), "white"))


@pytest.mark.shared
def test_tu_berlin_drawings(shared: Path) -> None:
    paths = sorted((shared / "data" / "tuberlin").glob("*/*.png"))[::40]
    maps = [Sketch.open(path).rasterize(size=(64, 64)) for path in paths]
    assert len(maps) >= 5
    assert all(0.01 < mapped.ink.mean() < 0.35 for mapped in maps)
    assert np.median([thickness(mapped) for mapped in maps]) == pytest.approx(1.7, abs=0.3)
