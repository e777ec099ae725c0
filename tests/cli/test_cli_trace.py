from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sketchguide.sketch import Sketch

Run = Callable[..., Any]


def test_the_lines_of_a_photo_steer_a_picture(
    sketchguide: Run, photo: Path, quick: list[str], trained: tuple[Path, object], tmp_path: Path
) -> None:
    lines = tmp_path / "lines.png"
    result = sketchguide("trace", photo, "-o", lines)
    assert result.code == 0, result.err
    assert str(lines) in result.out
    ink = Sketch.open(lines).rasterize(size=(64, 64)).ink
    assert ink[35, 10] > 0.5  # the left end of the ellipse
    assert ink[35, 30] < 0.1
    words = ["a ball", "--sketch", lines, "--predictor", trained[0], *quick, "--seed", "1"]
    made = sketchguide("generate", *words, "-o", tmp_path / "ball.png")
    assert (made.code, made.err) == (0, "")


def test_json_says_where_they_are(sketchguide: Run, photo: Path, tmp_path: Path) -> None:
    told = sketchguide("trace", photo, "-o", tmp_path / "lines.png", "--json").json
    assert (told["output"], told["width"], told["height"]) == (str(tmp_path / "lines.png"), 64, 64)
    with Image.open(told["output"]) as lines:
        assert lines.size == (64, 64)


@pytest.mark.parametrize(
    ("output", "message"),
    [("lines.jpg", "does not end in .png"), ("photo.png", "would be lost"), ("no/lines.png", "does not exist")],
)
def test_what_cannot_be_written_is_refused_at_once(
    sketchguide: Run, photo: Path, tmp_path: Path, output: str, message: str
) -> None:
    own = tmp_path / "photo.png"
    own.write_bytes(photo.read_bytes())
    result = sketchguide("trace", own, "-o", tmp_path / output)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert own.read_bytes() == photo.read_bytes()
    assert list(tmp_path.iterdir()) == [own]


def test_a_photo_without_an_edge_fails(sketchguide: Run, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "plain.png")
    result = sketchguide("trace", tmp_path / "plain.png", "-o", tmp_path / "lines.png")
    assert result.code == 2
    assert "There is no edge" in result.err
    (tmp_path / "lines.svg").write_text("<svg/>")
    refused = sketchguide("trace", tmp_path / "lines.svg", "-o", tmp_path / "lines.png")
    assert "not a readable picture" in refused.err
    assert "SVG" not in refused.err
    assert not (tmp_path / "lines.png").exists()
