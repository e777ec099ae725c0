"""`sketchguide edit`, and the part that `sketchguide component sketch-attention` makes for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sketchguide.pictures import recall

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


def test_a_mask_says_what_changes_and_from_repeats_it(sketchguide: Run, photo: Path, quick: list[str], tmp_path: Path):
    mask, out = tmp_path / "mask.png", tmp_path / "pear.png"
    white = Image.new("L", (64, 64), 0)
    white.paste(255, (32, 0, 64, 64))
    white.save(mask)
    words = ["edit", photo, "a pear", *quick, "--seed", "7", "-o", out]
    result = sketchguide(*words, "--mask", mask)
    assert (result.code, result.err) == (0, "")
    with Image.open(out) as made, Image.open(photo) as before:
        changed = np.any(np.asarray(made.convert("RGB")) != np.asarray(before.convert("RGB")), axis=2)
    assert not changed[:, :32].any()
    assert changed[:, 36:].mean() > 0.5
    mask.unlink()  # the picture carries it
    assert sketchguide("generate", "--from", out, "-o", tmp_path / "again.png").code == 0
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()
    nothing = sketchguide(*words)
    assert nothing.code == 2
    assert "Nothing says what is to change. Give a sketch, a mask or both; a margin of 1 changes the whole" in " ".join(
        nothing.err.split()
    )

    out.unlink()
    assert sketchguide(*words, "--margin", "1").code == 0
    assert out.exists()


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


def test_a_crop_of_a_larger_picture_is_changed_and_from_repeats_it(
    sketchguide: Run, drawing: Path, quick: list[str], tmp_path: Path
):
    photo, small, out = tmp_path / "photo.jpg", tmp_path / "small.svg", tmp_path / "pear.png"
    upright = Image.effect_noise((150, 200), 60).convert("RGB")
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(photo, exif=tag, quality=95)
    small.write_text(drawing.read_text().replace('viewBox="0 0 64 64"', 'viewBox="0 0 150 200"'))
    crop = ["--sketch", small, "--margin", "0.02", "--padding-mask-crop", "8"]
    result = sketchguide("edit", photo, "a pear", *crop, *quick, "--strength", "0", "--seed", "7", "-o", out, "--json")
    assert (result.code, result.json["warnings"]) == (0, [])
    request = recall(out).request
    assert request.edit is not None
    assert (request.edit.padding_mask_crop, request.size) == (8, (64, 64))
    with Image.open(out) as made, Image.open(photo) as before:
        assert (made.size, made.mode) == ((150, 200), "RGB")
        turned = before.transpose(Image.Transpose.ROTATE_270)
        assert made.crop((0, 70, 150, 200)).tobytes() == turned.crop((0, 70, 150, 200)).tobytes()
        assert made.crop((24, 24, 40, 40)).tobytes() != turned.crop((24, 24, 40, 40)).tobytes()
    again = sketchguide("generate", "--from", out, "-o", tmp_path / "again.png")
    assert again.code == 0
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()
    larger = sketchguide("generate", "--from", out, "--size", "80x80", "-o", tmp_path / "larger.png")
    assert larger.code == 0
    with Image.open(tmp_path / "larger.png") as made:
        assert made.size == (150, 200)


@pytest.mark.parametrize("mode", ["P", "RGBA", "I;16", "L", "1", "CMYK"])
def test_pictures_of_any_kind_are_changed_in_their_size(
    sketchguide: Run, drawing: Path, quick: list[str], tmp_path: Path, mode: str
):
    picture, out = tmp_path / "picture.tif", tmp_path / "pear.png"
    grey = Image.linear_gradient("L").resize((90, 90))
    fine = np.asarray(grey).astype(np.uint16) * 257
    given = Image.fromarray(fine) if mode == "I;16" else grey.convert(mode)
    if mode == "RGBA":
        given.putalpha(grey)
    given.save(picture)
    result = sketchguide("edit", picture, "a pear", "--sketch", drawing, *quick, "--strength", "0", "-o", out)
    assert (result.code, result.err) == (0, "")
    with Image.open(out) as made:
        assert (made.size, made.mode) == ((90, 90), "RGB")
        assert made.getpixel((2, 2)) == pytest.approx(({"1": 0, "RGBA": 248}.get(mode, 7),) * 3, abs=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--amount", "0"], "amount is 0"),
        (["--padding-mask-crop", "-1"], "--padding-mask-crop is -1; it must be at least 0"),
        (["--padding-mask-crop", "8", "--source", "generated"], "leave --padding-mask-crop out"),
        (["--size", "2048x16", "--margin", "1", "--strength", "0"], "leaves less than two pixels"),
        (["--margin", "-1"], "margin is -1"),
        (["--attention", "nowhere"], "No sketch-attention at 'nowhere'"),
    ],
)
def test_bad_input_is_named(
    sketchguide: Run, photo: Path, drawing: Path, quick: list[str], tmp_path: Path, options: list[str], says: str
):
    out = tmp_path / "pear.png"
    result = sketchguide("edit", photo, "a pear", "--sketch", drawing, *quick, *options, "-o", out)
    assert result.code == 2, result.err
    assert says in result.err
    assert not out.exists()
