"""Lines in photographs, which are drawings from then on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sketchguide.errors import SketchError, UsageError
from sketchguide.images import from_grey, save_png
from sketchguide.sketch import Sketch
from sketchguide.tracing import SIDE, trace


@pytest.fixture
def ball() -> Image.Image:
    image = Image.new("RGB", (900, 600), "navy")
    ImageDraw.Draw(image).ellipse((300, 150, 600, 450), fill="orange")
    return image


def ink(sketch: Sketch) -> np.ndarray:
    return sketch.rasterize(size=(120, 80)).ink


def test_the_outline_is_found_and_nothing_else(ball: Image.Image) -> None:
    sketch = trace(ball)
    assert sketch.aspect == pytest.approx(1.5, abs=0.01)
    assert sketch.raster is not None
    assert max(sketch.raster.shape) == SIDE
    rows, columns = np.mgrid[:80, :120] + 0.5
    distance = np.abs(np.hypot(columns - 60, rows - 40) - 20)
    assert ink(sketch)[distance < 0.5].min() > 0.5
    assert ink(sketch)[distance > 4].max() < 0.1


def test_files_and_their_bytes_are_read_upright(ball: Image.Image, tmp_path: Path) -> None:
    file = tmp_path / "ball.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    ball.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif, quality=95)
    for one in (file, str(file), file.read_bytes()):
        found = trace(one)
        assert np.abs(ink(found) - ink(trace(ball))).mean() < 0.01
    assert trace(file).name == "ball"


def test_a_traced_drawing_that_was_written_is_read_as_it_was(ball: Image.Image, tmp_path: Path) -> None:
    sketch = trace(ball)
    assert sketch.raster is not None
    save_png(from_grey(1 - sketch.raster), tmp_path / "lines.png")
    assert np.abs(ink(Sketch.open(tmp_path / "lines.png")) - ink(sketch)).max() < 0.1


def test_a_picture_is_left_as_it_was(ball: Image.Image) -> None:
    before = ball.copy()
    trace(ball)
    assert (ball.size, ball.tobytes()) == (before.size, before.tobytes())


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("RGB", (64, 64), "teal"), "There is no edge"),
        (Image.new("RGB", (1000, 20), "teal"), "more than 32 times as long as wide"),
        (Path("nowhere.png"), "There is no file nowhere.png"),
        (b"<svg/>", "not a readable picture"),
    ],
    ids=["plain", "long", "missing", "svg"],
)
def test_what_cannot_be_traced(picture: Image.Image | Path | bytes, message: str) -> None:
    with pytest.raises(SketchError, match=message):
        trace(picture)


def test_an_array_is_no_picture() -> None:
    with pytest.raises(UsageError, match="not a ndarray"):
        trace(np.zeros((64, 64)))  # type: ignore[arg-type]
