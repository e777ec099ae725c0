"""`sketchguide edit`, and the part that `sketchguide component sketch-attention` makes for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sketchguide.generation import recall

Run = Callable[..., Any]


def test_a_picture_is_changed_and_from_repeats_it(
    sketchguide: Run, photo: Path, drawing: Path, quick: list[str], tmp_path: Path
):
    out = tmp_path / "pear.png"
    result = sketchguide(
        "edit", photo, "a pear", "--sketch", drawing, *quick, "--strength", "0", "--seed", "7", "-o", out
    )
    assert (result.code, result.err) == (0, "")
    request = recall(out).request
    assert request.edit is not None
    assert (request.prompt, request.size) == ("a pear", (64, 64))
    with Image.open(out) as made, Image.open(photo) as before:
        assert made.getpixel((2, 2)) == before.getpixel((2, 2))
    again = sketchguide("generate", "--from", out, "-o", tmp_path / "again.png")
    assert again.code == 0
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()


def test_attention_is_trained_and_edits(
    sketchguide: Run, photo: Path, drawing: Path, quick: list[str], model: Path, tmp_path: Path
):
    data = tmp_path / "data"
    data.mkdir()
    for i in range(4):
        with Image.open(photo) as picture:
            picture.rotate(20 * i).save(data / f"{i}.png")
        (data / f"{i}.txt").write_text("a ball")
    parts = tmp_path / "parts"
    train = ["component", "sketch-attention", "--data", data, "-o", parts, "--model", model]
    result = sketchguide(*train, "--steps", "2", "--batch", "2")
    assert (result.code, result.err) == (0, "")
    report = json.loads((parts / "sketch-attention-report.json").read_text())
    assert report["steps"] == 2
    out = tmp_path / "pear.png"
    made = sketchguide("edit", photo, "a pear", "--sketch", drawing, "--attention", parts, *quick, "-o", out, "--json")
    assert made.code == 0, made.err
    assert recall(out).made_with.keys() >= {"attention", "model"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--amount", "0"], "amount is 0"),
        (["--margin", "-1"], "margin is -1"),
        (["--attention", "nowhere"], "No sketch-attention at 'nowhere'"),
    ],
)
def test_bad_input_is_named(
    sketchguide: Run, photo: Path, drawing: Path, quick: list[str], tmp_path: Path, options: list[str], says: str
):
    out = tmp_path / "pear.png"
    result = sketchguide("edit", photo, "a pear", "--sketch", drawing, *quick, *options, "-o", out)
    assert result.code != 0
    assert says in result.err
    assert not out.exists()
