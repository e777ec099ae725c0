from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

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


def test_without_a_name_it_takes_a_free_one_after_the_pictures(
    sketchguide: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("My Photo.png").write_bytes(photo.read_bytes())
    for name in ("my-photo-lines.png", "my-photo-lines-2.png"):
        assert sketchguide("trace", "My Photo.png", "--json").json["output"] == name
        assert Path(name).is_file()
    assert "There is no file nowhere.png" in sketchguide("trace", "nowhere.png").err


def test_what_is_drawn_already_is_told_of(sketchguide: Run, photo: Path, tmp_path: Path) -> None:
    sheet = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(sheet).ellipse((40, 40, 160, 160), outline="black", width=4)
    sheet.save(tmp_path / "drawn.png")
    words = "looks drawn already: both sides of its lines are traced. Give it as --sketch."
    for picture, told in ((tmp_path / "drawn.png", True), (photo, False)):
        assert (words in sketchguide("trace", picture, "-o", tmp_path / "lines.png").err) == told


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
