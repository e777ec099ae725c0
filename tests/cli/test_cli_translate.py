"""`sketchguide translate`: what it writes and says, and what it refuses."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.images import read_png_text, save_png
from sketchguide.pictures import recall

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def edited(sketchguide: Run, photo: Path, quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edited") / "pear.png"
    result = sketchguide("translate", photo, "a pear", *quick, "--seed", "7", "-o", path)
    assert result.code == 0, result.err
    assert result.err == ""
    assert result.out.splitlines() == [
        f"{path} (seed 7)",
        f"Make it again: sketchguide generate --from {path}",
        "8 network evaluations: 2 conditional, 2 negative, 2 source, 2 inversion.",
    ]
    return path


def test_the_picture_carries_its_recipe_and_source(edited: Path):
    recipe = recall(edited)
    request = recipe.request
    assert (request.prompt, request.seed, recipe.index, request.size) == ("a pear", 7, 0, (64, 64))
    assert request.layout is not None
    assert not request.layout.drawn
    assert {"model", "torch"} <= recipe.made_with.keys()
    assert recipe.evaluations == {"conditional": 2, "negative": 2, "source": 2, "inversion": 2}


def test_a_picture_of_ours_by_the_latents_it_was_made_by(sketchguide: Run, quick: list[str], tmp_path: Path):
    source = tmp_path / "apple.png"
    assert sketchguide("generate", "a red apple", *quick, "--seed", "7", "-o", source).code == 0
    out = tmp_path / "green.png"
    result = sketchguide("translate", source, "a green apple", "--source", "generated", "-o", out)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "10 network evaluations: 2 conditional, 2 negative, 2 source, 4 inversion."
    assert sketchguide("generate", "--from", out, "-o", tmp_path / "again.png").code == 0
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()
    refused = sketchguide("translate", out, "a pear", "--source", "generated", "-o", tmp_path / "pear.png")
    assert refused.code == 2
    assert "itself made from another one" in refused.err


def test_what_a_generated_source_names_is_found_elsewhere(
    sketchguide: Run, quick: list[str], trained: tuple[Path, Any], drawing: Path, tmp_path: Path
):
    near, far = tmp_path / "near.png", tmp_path / "far.png"
    pulled = ["--sketch", drawing, "--predictor", trained[0], "--seed", "7"]
    assert sketchguide("generate", "a ball", *quick, *pulled, "-o", near).code == 0
    recipe = json.loads(read_png_text(near)["sketchguide"])
    recipe["request"]["predictor"] = "./my-edges"
    with Image.open(near) as image:
        save_png(image.convert("RGB"), far, text={"sketchguide": json.dumps(recipe)})
    again = ["translate", far, "a box", "--source", "generated", "-o", tmp_path / "box.png"]
    lost = sketchguide(*again)
    assert lost.code == 2
    assert f"{far} names it as seen from the folder where it was made" in lost.err
    found = sketchguide(*again, "--predictor", trained[0])
    assert (found.code, found.err) == (0, "")


def test_a_small_drawing_on_a_picture_is_as_small_as_it_is_meant(
    sketchguide: Run, quick: list[str], trained: tuple[Path, Any], photo: Path, tmp_path: Path
):
    drawing = tmp_path / "small.svg"
    drawing.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
        '<circle cx="50" cy="50" r="4" fill="none" stroke="black"/></svg>'
    )
    more = [*quick, "--sketch", drawing, "--predictor", trained[0], "-o", tmp_path / "a.png"]
    result = sketchguide("translate", photo, "a pear", *more)
    assert result.code == 0
    assert "--trim" not in result.err


def test_from_repeats_bit_for_bit(sketchguide: Run, edited: Path, tmp_path: Path):
    result = sketchguide("generate", "--from", edited, "-o", tmp_path / "again.png")
    assert (result.code, result.err) == (0, "")
    assert (tmp_path / "again.png").read_bytes() == edited.read_bytes()
    changed = sketchguide("generate", "a plum", "--from", edited, "-o", tmp_path / "plum.png")
    assert changed.code == 0
    assert recall(tmp_path / "plum.png").request.layout == recall(edited).request.layout


def test_several_prompts_share_the_source(
    sketchguide: Run, photo: Path, edited: Path, quick: list[str], tmp_path: Path
):
    out = tmp_path / "fruit.png"
    result = sketchguide("translate", photo, "a fig", "a pear", *quick, "--seed", "7", "-o", out, "--json")
    assert result.json["evaluations"] == {"conditional": 4, "negative": 4, "source": 2, "inversion": 2}
    paths = [tmp_path / "fruit-1.png", tmp_path / "fruit-2.png"]
    rows = [{"path": str(p), "seed": 7, "prompt": text} for p, text in zip(paths, ("a fig", "a pear"), strict=True)]
    assert result.json["pictures"] == rows
    assert paths[1].read_bytes() == edited.read_bytes()


def test_prompts_of_one_word_each_are_perhaps_one(sketchguide: Run, tmp_path: Path):
    nothing = ["--steps", "0", "-o", tmp_path / "a.png"]
    told = sketchguide("translate", tmp_path / "none.png", "a", "green", "apple", *nothing).err
    assert 'Warning: 3 prompts of one word each are given. If they are one, put it in quotes: "a green apple".' in told
    assert "quotes" not in sketchguide("translate", tmp_path / "none.png", "a pear", "apple", *nothing).err


def test_a_drawing_as_source_and_guide(
    sketchguide: Run, drawing: Path, trained: tuple[Path, Any], quick: list[str], tmp_path: Path
):
    more = ["--sketch", drawing, "--predictor", trained[0], "--source", "noised", "--near", "0.1", "--tau-f", "0.4"]
    result = sketchguide("translate", drawing, "a ball", *quick, *more, "-o", tmp_path / "a.png", "--json")
    assert result.code == 0, result
    assert result.json["evaluations"]["inversion"] == 0
    assert result.json["warnings"] == []
    request = recall(tmp_path / "a.png").request
    assert request.sketch is not None
    assert request.layout is not None
    layout = request.layout
    assert (layout.drawn, layout.source, layout.near, layout.tau_f, layout.tau_a) == (True, "noised", 0.1, 0.4, 0.5)
    assert sketchguide("generate", "--from", tmp_path / "a.png", "-o", tmp_path / "b.png").code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_every_option_of_the_layout_reaches_the_recipe(sketchguide: Run, photo: Path, quick: list[str], tmp_path: Path):
    given = {
        "source": "noised", "source_prompt": "a ball", "start": "source", "tau_f": 0.7, "tau_a": 0.6, "share": 0.9,
        "branches": "conditional", "decay": "exponential", "alpha": 0.75, "recurrence": 1,
    }  # fmt: skip
    options = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", value)]
    options += ["--features", "up_blocks.1.resnets.0"]
    result = sketchguide("translate", photo, "a pear", *quick, *options, "-o", tmp_path / "a.png")
    assert result.code == 0, result.err
    layout = recall(tmp_path / "a.png").request.layout
    assert layout is not None
    settings = layout.model_dump(exclude={"picture", "drawn", "near", "made"})
    assert settings == {**given, "features": ("up_blocks.1.resnets.0",)}


def test_as_decides_what_the_image_is(sketchguide: Run, photo: Path, quick: list[str], tmp_path: Path):
    assert sketchguide("translate", photo, "a", *quick, "--as", "sketch", "-o", tmp_path / "a.png").code == 0
    layout = recall(tmp_path / "a.png").request.layout
    assert layout is not None
    assert layout.drawn


def test_pictures_that_are_not_square(sketchguide: Run, quick: list[str], tmp_path: Path):
    Image.effect_noise((300, 100), 90).convert("RGB").save(tmp_path / "wide.png")
    result = sketchguide("translate", tmp_path / "wide.png", "a", *quick, "-o", tmp_path / "a.png")
    assert result.code == 0
    cut, trained = result.err.splitlines()
    assert cut == "Warning: 33% of the picture (300 × 100) is cut off at the sides to make 96 × 48."
    assert trained.startswith("Warning: The size is 96 × 48;")
    assert trained.endswith("was trained for 64 × 64.")


# -------------------------------------------------------------------------------------------------------------- faults


def _fails(result: Any, code: int, words: str) -> None:
    assert result.code == code, result
    assert result.out == ""
    first, *rest = result.err.splitlines()
    assert first.startswith("Error: ")
    assert words in first
    assert len(rest) <= 1


def _png(width: int, height: int) -> bytes:
    """The header of a picture that has no pixels."""
    parts = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND"]
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.png", None, "no file"),
        ("empty.png", b"", "is empty"),
        ("text.png", b"not a picture", "not a readable picture"),
        ("corrupt.png", b"\x89PNG\r\n\x1a\nnonsense", "corrupt.png"),
        ("huge.png", _png(10_000, 10_000), "at most 36 million"),
        ("small.png", _png(8, 8), "each side must be 16"),
        ("broken.svg", b"<svg><path", "not well-formed SVG"),
    ],
)
def test_images_that_cannot_be_used(sketchguide: Run, tmp_path: Path, name: str, content: bytes | None, words: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    _fails(sketchguide("translate", tmp_path / name, "a", "-o", tmp_path / "out.png"), 2, words)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tau-f", "1.5"], "--tau-f is 1.5"),
        (["--tau-a", "nan"], "--tau-a is nan"),
        (["--share", "-1"], "share is -1"),
        (["--near", "2"], "near is 2"),
        (["--alpha", "7"], "alpha is 7"),
        (["--recurrence", "99"], "recurrence is 99"),
        (["--source", "magic"], "--source"),
        (["--decay", "slow"], "--decay"),
        (["--steps", "0"], "steps is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--count", "1000000"], "count is 1000000"),
        (["--size", "64"], "size is '64'"),
        (["--features", "up_blocks.0+"], "names a tap that has no name"),
        (["--source-prompt", "a\x00b"], "--source-prompt is"),
        (["--sketch", "missing.svg"], "no file"),
    ],
)
def test_options_out_of_range(sketchguide: Run, photo: Path, tmp_path: Path, options: list[str], words: str):
    _fails(sketchguide("translate", photo, "a", *options, "-o", tmp_path / "out.png"), 2, words)


def test_wrong_use(sketchguide: Run, photo: Path, tmp_path: Path):
    _fails(sketchguide("translate"), 2, "IMAGE")
    _fails(sketchguide("translate", photo), 2, "PROMPT")
    _fails(sketchguide("translate", photo, "a", "-o", tmp_path / "a.jpg"), 2, "does not end in .png")
    _fails(sketchguide("translate", photo, "a", "-o", tmp_path), 2, "is a folder")
    if Path("/proc").exists():
        _fails(sketchguide("translate", photo, "a", "-o", "/proc/out.png"), 1, "Nothing can be written")
    result = sketchguide("translate", photo, "a", "--tau-f", "2", "-o", tmp_path / "a.png", "--json")
    assert (result.code, result.err, result.json["error"]["field"]) == (2, "", "tau_f")


def test_what_the_model_cannot_do(sketchguide: Run, photo: Path, quick: list[str], tmp_path: Path):
    out = ["-o", tmp_path / "a.png"]
    _fails(sketchguide("translate", photo, "a", *quick, "--size", "65x64", *out), 2, "size is 65x64")
    _fails(sketchguide("translate", photo, "a", *quick, "--near", "0.1", *out), 2, "there are no strokes")
    _fails(sketchguide("translate", photo, "a", *quick, "--solver", "magic", *out), 2, "Unknown solver")


def test_a_network_without_places_lists_its_taps(sketchguide: Run, photo: Path, tmp_path: Path):
    pipeline = tiny_stable_diffusion()
    plain = type(pipeline.unet).from_config(
        pipeline.unet.config,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
    )
    StableDiffusionPipeline(**(pipeline.components | {"unet": plain}), requires_safety_checker=False).save_pretrained(
        tmp_path / "model"
    )
    result = sketchguide(
        "translate", photo, "a", "--model", tmp_path / "model", "--steps", "1", "-o", tmp_path / "a.png"
    )
    _fails(result, 2, "no decoder with residual blocks and self-attention")
    assert "down_blocks.0" in result.err
    shutil.rmtree(tmp_path / "model")


def test_what_a_picture_is_taken_for_is_told(sketchguide: Run, photo: Path, quick: list[str], tmp_path: Path):
    page = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(page).ellipse((16, 16, 48, 48), outline="black", width=2)
    page.save(drawing := tmp_path / "ring.png")
    words = ["translate", drawing, "a", *quick, "-o", tmp_path / "a.png"]
    assert "ring.png is taken for a drawing; --as picture takes it for a picture." in sketchguide(*words).out
    assert "taken for" not in sketchguide(*words, "--as", "sketch").out
    assert sketchguide(*words, "--as", "picture", "--json").json["taken_for"] == "picture"
    assert (
        sketchguide("translate", photo, "a", *quick, "-o", tmp_path / "b.png", "--json").json["taken_for"] == "picture"
    )


def test_an_empty_prompt_is_told_of(sketchguide: Run, photo: Path, quick: list[str], tmp_path: Path):
    assert "The prompt is empty" in sketchguide("translate", photo, " ", *quick, "-o", tmp_path / "a.png").err


def test_options_without_a_drawing_are_idle(sketchguide: Run, photo: Path, quick: list[str], tmp_path: Path):
    result = sketchguide("translate", photo, "a", *quick, "--strength", "2", "-o", tmp_path / "a.png")
    assert result.err == "Warning: --strength changes nothing without a drawing.\n"
    result = sketchguide("translate", photo, "a", *quick, "--polarity", "light-on-dark", "-o", tmp_path / "a.png")
    assert result.err.startswith("Warning: --polarity changes nothing: IMAGE is taken for a picture. --as sketch takes")
    result = sketchguide(
        "translate", photo, "a", *quick, "--polarity", "light-on-dark", "--as", "sketch", "-o", tmp_path / "a.png"
    )
    assert "--polarity" not in result.err
