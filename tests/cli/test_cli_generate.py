import json
import os
import re
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from sketchguide.classifiers import IconClassifier, save_classifier
from sketchguide.defaults import MODEL, RECOGNISED
from sketchguide.images import read_png_text, save_png
from sketchguide.pictures import Picture, recall
from sketchguide.request import Request
from sketchguide.sketch import Sketch

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def apple(
    sketchguide: Run,
    quick: list[str],
    drawing: Path,
    trained: tuple[Path, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A guided picture with the seed 7."""
    path = tmp_path_factory.mktemp("apple") / "apple.png"
    more = ["--sketch", str(drawing), "--predictor", str(trained[0]), "--seed", "7", "-o", str(path)]
    result = sketchguide("generate", "a red apple", *quick, *more)
    assert result.code == 0, result.err
    assert result.out.splitlines() == [f"{path} (seed 7)", f"Make it again: sketchguide generate --from {path}"]
    assert result.err == ""
    return path


@pytest.fixture(scope="module")
def three(sketchguide: Run, quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("three")
    result = sketchguide("generate", "a cat", *quick, "--seed", "5", "--count", "3", "-o", folder / "cat.png", "--json")
    paths = [folder / f"cat-{number}.png" for number in (1, 2, 3)]
    assert result.json["pictures"] == [{"path": str(p), "seed": 5 + i, "prompt": "a cat"} for i, p in enumerate(paths)]
    assert result.err == ""
    return paths


def test_each_line_of_a_file_is_a_prompt(sketchguide: Run, quick: list[str], tmp_path: Path):
    prompts = tmp_path / "things.txt"
    prompts.write_bytes("\ufeffa cat\r\n\r\n  a blue duck \n".encode())
    made = ["--prompts", prompts, *quick, "--seed", "5", "--count", "2", "-o", tmp_path / "thing.png"]
    result = sketchguide("generate", *made)
    assert result.code == 0, result.err
    paths = [tmp_path / f"thing-{number}.png" for number in (1, 2, 3, 4)]
    assert result.out.splitlines()[:-1] == [f"{path} (seed {5 + i % 2})" for i, path in enumerate(paths)]
    recipes = [recall(path) for path in paths]
    assert [(one.request.prompt, one.index) for one in recipes] == [
        ("a cat", 0), ("a cat", 1), ("a blue duck", 0), ("a blue duck", 1),
    ]  # fmt: skip
    again = sketchguide("generate", "--from", paths[3], "-o", tmp_path / "again.png")
    assert again.code == 0, again.err
    assert (tmp_path / "again.png").read_bytes() == paths[3].read_bytes()


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (None, (), "cannot be read: No such file"),
        (b"\n \n", (), "has no prompts"),
        (b"a caf\xe9", (), "are not UTF-8 text"),
        (b"a cat\n\na\x1bdog", (), "things.txt, line 3: prompt is"),
        (b"a cat", ("a dog",), "--prompts and PROMPT exclude each other"),
        (b"a cat", ("--sheet",), "--prompts and --sheet exclude each other"),
        (b"a cat", ("--from", "cat.png"), "--prompts and --from exclude each other"),
    ],
)
def test_a_file_of_prompts_that_is_none(
    sketchguide: Run, quick: list[str], tmp_path: Path, content: bytes | None, more: tuple[str, ...], message: str
):
    prompts = tmp_path / "things.txt"
    if content is not None:
        prompts.write_bytes(content)
    result = sketchguide("generate", *more, "--prompts", prompts, *quick, "-o", tmp_path / "thing.png")
    assert result.code == 2
    assert message in " ".join(result.err.split())


def test_what_is_not_recognised_is_tried_again_and_told(
    sketchguide: Run, quick: list[str], drawing: Path, trained: tuple[Path, Any], tmp_path: Path
):
    save_classifier(IconClassifier(["apple", "pear"]), tmp_path / "recogniser.safetensors")
    path = tmp_path / "apple.png"
    made = [
        *quick,
        "--sketch",
        str(drawing),
        "--predictor",
        str(trained[0]),
        "--seed",
        "7",
        "--recogniser",
        str(tmp_path),
    ]
    result = sketchguide("generate", "a red apple", *made, "--tries", "2", "--sure", "1", "-o", path, "--json")
    (told,) = result.json["pictures"]
    assert told["tried"] in (1, 2)
    assert 0 < told["confidence"] < 1
    assert "seed 7 may not show 'a red apple'" in " ".join(result.json["warnings"])
    once = sketchguide("generate", "a red apple", *made, "--tries", "2", "--sure", "0", "-o", path)
    assert re.match(r".*\(seed 7, try 1 of 2, recognised with \d+%\)", once.out.splitlines()[0])
    assert once.err == ""
    other = sketchguide("generate", "a red tree", *made, "--tries", "2", "-o", path)
    assert (other.code, "names none of the 2 things" in other.err) == (2, True)
    assert sketchguide("generate", "a red apple", *made, "--tries", "0", "-o", path).code == 2


def test_what_nobody_chose_is_chosen_anew_for_another_prompt(sketchguide: Run, tmp_path: Path):
    apple, other = tmp_path / "apple.png", tmp_path / "other.png"
    drawing = Path(__file__).parents[2] / "examples" / "sketches" / "apple.svg"
    made = sketchguide(
        "generate", "a red apple", "--sketch", drawing, "--model", "icons-64", "--seed", "7", "-o", apple
    )
    assert made.code == 0

    def of(*options: str) -> dict[str, Any]:
        assert sketchguide("generate", "--from", apple, "-o", other, *options).code == 0
        request = recall(other).request
        return {name: getattr(request, name) for name in RECOGNISED}

    assert of("--scale", "3") == of("a cat") == RECOGNISED
    assert of("a wizard") == {name: Request.model_fields[name].default for name in RECOGNISED}
    assert of("a cat", "--steps", "4") == {**RECOGNISED, "steps": 4}


def test_the_picture_carries_its_recipe(apple: Path):
    with Image.open(apple) as image:
        assert image.size == (64, 64)
    recipe = recall(apple)
    request = recipe.request
    assert (request.prompt, request.seed, recipe.index, request.steps) == ("a red apple", 7, 0, 2)
    assert request.sketch is not None
    assert "predictor" in recipe.made_with


def test_from_repeats_bit_for_bit(sketchguide: Run, apple: Path, tmp_path: Path):
    result = sketchguide("generate", "--from", apple, "-o", tmp_path / "again.png")
    assert (result.code, result.err) == (0, "")
    assert (tmp_path / "again.png").read_bytes() == apple.read_bytes()


def test_from_repeats_one_of_several(sketchguide: Run, three: list[Path], tmp_path: Path):
    assert sketchguide("generate", "--from", three[1], "-o", tmp_path / "again.png").code == 0
    assert (tmp_path / "again.png").read_bytes() == three[1].read_bytes()


def test_from_with_other_options_changes_only_these(sketchguide: Run, three: list[Path], tmp_path: Path):
    path = tmp_path / "finer.png"
    result = sketchguide("generate", "--from", three[2], "--steps", "3", "-o", path, "--json")
    assert result.json["pictures"] == [{"path": str(path), "seed": 7, "prompt": "a cat"}]
    recipe = recall(path)
    assert (recipe.request.prompt, recipe.request.seed + recipe.index, recipe.request.steps) == ("a cat", 7, 3)


def test_from_with_a_count_goes_on_from_the_seed(sketchguide: Run, three: list[Path], tmp_path: Path):
    result = sketchguide("generate", "--from", three[1], "--count", "2", "-o", tmp_path / "more.png", "--json")
    assert [picture["seed"] for picture in result.json["pictures"]] == [6, 7]


def test_a_sheet_of_one_picture_of_several_is_that_picture(sketchguide: Run, three: list[Path], tmp_path: Path):
    result = sketchguide("generate", "--from", three[2], "--sheet", "-o", tmp_path / "one.png")
    assert result.code == 0
    assert "--sheet changes nothing" in result.err
    assert (tmp_path / "one.png").read_bytes() == three[2].read_bytes()


def test_one_of_a_sheet_is_an_ordinary_picture(sketchguide: Run, quick: list[str], tmp_path: Path):
    assert (
        sketchguide("generate", "a", *quick, "--seed", "5", "--count", "3", "--sheet", "-o", tmp_path / "s.png").code
        == 0
    )
    again = ["generate", "--from", tmp_path / "s.png", "--seed", "6", "--count", "1", "-o", tmp_path / "one.png"]
    assert sketchguide(*again).code == 0
    with Image.open(tmp_path / "one.png") as one:
        assert (recall(tmp_path / "one.png").sheet, one.size) == (False, (64, 64))
    assert sketchguide(*again, "--sheet").out.splitlines()[0].endswith("one.png (seed 6)")
    assert recall(tmp_path / "one.png").sheet


def test_the_longest_seed_fits_below_a_small_picture(
    sketchguide: Run, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    labels: list[str] = []
    monkeypatch.setattr("sketchguide.images.sheet", lambda made, **given: labels.extend(given["labels"]) or made[0])
    seeds = ["--seed", "4294967290", "--count", "2", "--sheet"]
    assert sketchguide("generate", "a", *quick, *seeds, "-o", tmp_path / "s.png").code == 0
    assert labels == ["4294967290", "4294967291"]
    assert all(ImageFont.load_default(size=9).getlength(label) < 64 for label in labels)


def test_from_with_other_steps_or_a_solver_warns_of_nothing(sketchguide: Run, three: list[Path], tmp_path: Path):
    for option in (("--steps", "3"), ("--solver", "euler"), ("--dtype", "bfloat16")):
        result = sketchguide("generate", "--from", three[0], *option, "-o", tmp_path / "other.png")
        assert (result.code, result.err) == (0, "")


def test_from_warns_when_the_circumstances_differ(sketchguide: Run, three: list[Path], tmp_path: Path):
    recipe = json.loads(read_png_text(three[0])["sketchguide"])
    recipe["made_with"] |= {"model": "000000000000", "torch": "1.0", "predictor": "only for sketches"}
    with Image.open(three[0]) as image:
        save_png(image.convert("RGB"), tmp_path / "old.png", text={"sketchguide": json.dumps(recipe)})
    result = sketchguide("generate", "--from", tmp_path / "old.png", "-o", tmp_path / "new.png")
    assert result.code == 0
    assert result.err.startswith("Warning: The picture may differ")
    assert "torch 1.0, now" in result.err
    assert "model 000000000000, now" in result.err
    assert "predictor" not in result.err


def test_from_says_that_a_recipe_names_what_lies_beside_the_place_where_it_was_made(
    sketchguide: Run, three: list[Path], tmp_path: Path
):
    recipe = json.loads(read_png_text(three[0])["sketchguide"])
    recipe["request"]["model"] = "./my-model"
    with Image.open(three[0]) as image:
        save_png(image.convert("RGB"), tmp_path / "far.png", text={"sketchguide": json.dumps(recipe)})
    again = ["generate", "--from", tmp_path / "far.png", "-o", tmp_path / "new.png"]
    result = sketchguide(*again)
    assert result.code == 2
    assert "where it was made: run this there, or say where it is now with --model." in result.err
    assert "where it was made" not in sketchguide(*again, "--model", "./mine").err


def test_a_sheet_is_one_file_that_repeats_itself(sketchguide: Run, quick: list[str], tmp_path: Path):
    sheet = tmp_path / "sheet.png"
    more = ["--count", "3", "--seed", "1", "--sheet", "-o", str(sheet)]
    result = sketchguide("generate", "cats", *quick, *more)
    assert result.out.startswith(f"{sheet} (seeds 1 to 3)")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with Image.open(sheet) as image:
        assert image.size == (2 * 64 + 3 * 4, image.height)
    assert sketchguide("generate", "--from", sheet, "-o", tmp_path / "again.png").code == 0
    assert (tmp_path / "again.png").read_bytes() == sheet.read_bytes()


def test_without_output_nothing_is_overwritten(
    sketchguide: Run, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "red-apple.png").write_text("mine")
    sketchguide("generate", "Red, apple!", *quick, "--count", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["red-apple-2.png", "red-apple-3.png", "red-apple.png"]
    assert (tmp_path / "red-apple.png").read_text() == "mine"


def test_an_existing_output_is_replaced_and_size_obeyed(sketchguide: Run, quick: list[str], tmp_path: Path):
    (tmp_path / "a.png").write_text("old")
    assert sketchguide("generate", "a", *quick, "--size", "96x64", "-o", tmp_path / "a.png").code == 0
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (96, 64)


def test_prompts_are_text_and_not_commands_to_the_terminal(sketchguide: Run, quick: list[str], tmp_path: Path):
    path = tmp_path / "[red]a\x1b[2Jb.png"
    result = sketchguide("generate", "[bold]x[/bold]", *quick, "-o", path)
    assert result.code == 0
    assert f"{tmp_path}/[red]a\N{REPLACEMENT CHARACTER}[2Jb.png (seed" in result.out
    result = sketchguide("generate", "x", *quick, "--solver", "[red]\x1b[0m[/red]")
    assert "\x1b" not in result.err
    assert "[red]" in result.err


def test_a_blank_sketch_gives_a_picture_and_a_warning(
    sketchguide: Run, quick: list[str], trained: tuple[Path, Any], tmp_path: Path
):
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    more = ["--sketch", tmp_path / "blank.png", "--predictor", trained[0], "-o", tmp_path / "out.png"]
    result = sketchguide("generate", "a", *quick, *more)
    assert result.code == 0
    assert result.err == "Warning: The sketch is blank: nothing will follow it.\n"
    with_json = sketchguide("generate", "a", *quick, *more, "--json")
    assert with_json.json["warnings"] == ["The sketch is blank: nothing will follow it."]
    assert with_json.err == ""


def test_what_is_ink_can_be_said(sketchguide: Run, quick: list[str], trained: tuple[Path, Any], tmp_path: Path):
    chalk = Image.new("RGB", (64, 64), "white")
    chalk.paste("black", (2, 2, 62, 62))
    chalk.paste("white", (20, 20, 44, 22))
    chalk.save(tmp_path / "chalk.png")
    more = ["--sketch", tmp_path / "chalk.png", "--predictor", trained[0], "--seed", "1"]
    made: list[bytes] = []
    for polarity in ("dark-on-light", "light-on-dark"):
        path = tmp_path / f"{polarity}.png"
        assert sketchguide("generate", "a", *quick, *more, "--polarity", polarity, "-o", path).code == 0
        made.append(Image.open(path).tobytes())
    assert made[0] != made[1]
    again = sketchguide("generate", "--from", path, "--polarity", "light-on-dark", "-o", tmp_path / "c.png")
    assert again.code == 2
    assert "its drawing was read by the polarity of then" in " ".join(again.err.split())
    nothing = sketchguide("generate", "a", *quick, "--polarity", "light-on-dark", "-o", tmp_path / "c.png")
    assert nothing.code == 2
    assert "Give --sketch" in nothing.err


def test_the_paper_around_a_drawing_can_be_cut_off(
    sketchguide: Run, quick: list[str], trained: tuple[Path, Any], tmp_path: Path
):
    sheet = Image.new("RGB", (400, 400), "white")
    ImageDraw.Draw(sheet).rectangle((40, 60, 100, 100), outline="black", width=2)
    sheet.save(tmp_path / "sheet.png")
    more = ["--sketch", tmp_path / "sheet.png", "--predictor", trained[0], "--seed", "1", "-o", tmp_path / "a.png"]
    small = "fills 2% of the picture; --trim cuts off the paper"
    assert small in sketchguide("generate", "a", *quick, *more).err
    trimmed = sketchguide("generate", "a", *quick, *more, "--trim")
    assert trimmed.code == 0
    assert small not in trimmed.err
    drawn = recall(tmp_path / "a.png").request.sketch
    assert drawn == Sketch.open(tmp_path / "sheet.png").trimmed().to_json()
    sketchguide("generate", "a", *quick, *more)
    again = ["generate", "--from", tmp_path / "a.png", "--trim", "-o", tmp_path / "again.png"]
    assert sketchguide(*again).code == 0
    assert recall(tmp_path / "again.png").request.sketch == drawn
    assert sketchguide("generate", "a", *quick, "-o", tmp_path / "none.png").code == 0
    again[2] = tmp_path / "none.png"
    assert "none.png follows none. Leave it out" in " ".join(sketchguide(*again).err.split())
    nothing = sketchguide("generate", "a", *quick, "--trim", "-o", tmp_path / "b.png")
    assert nothing.code == 2
    assert "--trim cuts a drawing, and there is none. Give --sketch" in " ".join(nothing.err.split())


def test_the_shipped_model_is_given_drawings_that_fill_the_picture(
    sketchguide: Run, quick: list[str], trained: tuple[Path, Any], tmp_path: Path
):
    for name, side in (("large", 330), ("middling", 240)):
        sheet = Image.new("RGB", (400, 400), "white")
        ImageDraw.Draw(sheet).ellipse((40, 40, 40 + side, 40 + side), outline="black", width=4)
        sheet.save(tmp_path / f"{name}.png")
    asked = ["generate", "an apple", "--steps", "1", "--seed", "1", "-o", tmp_path / "a.png", "--sketch"]
    small = "of the picture, and icons-128 draws what fills it; --trim cuts off the paper"
    assert small not in sketchguide(*asked, tmp_path / "large.png").err
    told = sketchguide(*asked, tmp_path / "middling.png").err
    assert f"fills 36% {small}" in told
    again = ["generate", "--from", tmp_path / "a.png", "--sketch", tmp_path / "middling.png", "-o", tmp_path / "b.png"]
    assert f"fills 36% {small}" in sketchguide(*again).err
    other = ["generate", "a", *quick, "--seed", "1", "-o", tmp_path / "a.png"]
    assert sketchguide(*other).code == 0
    assert "draws what fills it" not in sketchguide(*again, "--predictor", trained[0]).err


def test_a_wide_drawing_is_better_cropped_or_given_a_wide_picture(
    sketchguide: Run, quick: list[str], trained: tuple[Path, Any], tmp_path: Path
):
    row = Image.new("RGB", (1500, 150), "white")
    for left in (100, 650, 1250):
        ImageDraw.Draw(row).ellipse((left, 20, left + 110, 130), outline="black", width=3)
    row.save(tmp_path / "row.png")
    run = ["generate", "a", *quick, "--sketch", tmp_path / "row.png", "--predictor", trained[0], "--seed", "1"]
    for more in ([], ["--trim"]):
        told = sketchguide(*run, *more, "-o", tmp_path / "a.png").err
        assert "it is 11 times as wide as high. Crop it to one thing, or give a wider --size." in told
    assert "Crop it" not in sketchguide(*run, "--size", "128x32", "-o", tmp_path / "a.png").err


def test_an_output_that_is_an_input_is_refused(
    sketchguide: Run, quick: list[str], trained: tuple[Path, Any], tmp_path: Path
):
    drawing, link = tmp_path / "mine.png", tmp_path / "link.png"
    Image.new("RGB", (64, 64), "white").save(drawing)
    link.symlink_to(drawing)
    before = drawing.read_bytes()
    more = [*quick, "--sketch", drawing, "--predictor", trained[0]]
    for output in (drawing, link):
        result = sketchguide("generate", "a", *more, "-o", output)
        assert result.code == 2
        assert "would be lost" in result.err
    assert sketchguide("generate", "a", *more, "--count", "2", "-o", drawing).code == 0  # mine-1.png and mine-2.png
    assert drawing.read_bytes() == before
    (tmp_path / "mine-1.png").unlink()
    numbered = tmp_path / "mine-2.png"
    drawing.rename(numbered)
    more[more.index(drawing)] = numbered
    assert sketchguide("generate", "a", *more, "--count", "2", "-o", drawing).code == 2
    assert numbered.read_bytes() == before
    assert not (tmp_path / "mine-1.png").exists()
    edited = sketchguide("edit", numbered, "a", "--sketch", numbered, "--margin", "1", "-o", numbered, *quick)
    assert edited.code == 2
    assert "would be lost" in edited.err


def test_every_numbered_name_is_tried_before_the_work(sketchguide: Run, quick: list[str], tmp_path: Path):
    (tmp_path / "n-2.png").mkdir()
    result = sketchguide("generate", "a", *quick, "--count", "2", "-o", tmp_path / "n.png")
    assert result.code == 2
    assert "n-2.png is a folder" in result.err
    assert not (tmp_path / "n-1.png").exists()
    result = sketchguide("generate", "a", *quick, "--count", "2", "-o", tmp_path / f"{'n' * 251}.png")
    assert result.code == 1
    assert not list(tmp_path.glob("nn*"))


def test_where_a_link_leads_to_is_tried_before_the_work(sketchguide: Run, quick: list[str], tmp_path: Path):
    link = tmp_path / "latest.png"
    link.symlink_to(tmp_path / "gone" / "a.png")
    result = sketchguide("generate", "a", *quick, "-o", link)
    assert result.code == 2
    assert f"The folder {tmp_path / 'gone'} does not exist" in result.err
    (tmp_path / "gone").mkdir()
    assert sketchguide("generate", "a", *quick, "-o", link).code == 0
    assert (tmp_path / "gone" / "a.png").is_file()


def test_polarity_of_strokes_changes_nothing(
    sketchguide: Run, quick: list[str], trained: tuple[Path, Any], tmp_path: Path
):
    drawing = Path(__file__).parents[2] / "examples" / "sketches" / "apple.svg"
    more = [*quick, "--sketch", drawing, "--predictor", trained[0], "-o", tmp_path / "a.png"]
    result = sketchguide("generate", "a", *more, "--polarity", "dark-on-light")
    assert result.code == 0
    assert "polarity dark-on-light changes nothing" in " ".join(result.err.split())


def test_warnings_call_settings_by_their_options(sketchguide: Run, quick: list[str], tmp_path: Path):
    draw = [
        "generate",
        "a cat",
        *quick,
        "--class-scale",
        "3",
        "--sketcher",
        "class_scale",
        "--t2i-adapter-scale",
        "0.5",
        "--sure",
        "0.5",
        "--lora-scale",
        "0.5",
        "-o",
        tmp_path / "a.png",
    ]
    told = sketchguide(*draw).err
    assert "Warning: --class-scale changes nothing without a class." in told
    assert "Warning: --sketcher changes nothing without --sketch-loss." in told
    assert "Warning: --t2i-adapter-scale changes nothing without --t2i-adapter." in told
    assert "Warning: --sure changes nothing without --tries above 1." in told
    assert "Warning: --lora-scale changes nothing without --lora." in told
    assert "class_scale changes nothing without a class." in sketchguide(*draw, "--json").json["warnings"]


def test_guidance_options_without_a_drawing_warn(sketchguide: Run, quick: list[str], tmp_path: Path):
    result = sketchguide("generate", "a", *quick, "--strength", "2", "-o", tmp_path / "a.png")
    assert result.err == "Warning: --strength changes nothing without a drawing.\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_sigterm_keeps_the_finished_pictures(
    sketchguide: Run, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
):
    save = Picture.save

    def save_and_stop(self: Picture, path: Path) -> None:
        if when == "after":
            save(self, path)
        os.kill(os.getpid(), signal.SIGTERM)
        if when == "before":
            save(self, path)

    monkeypatch.setattr(Picture, "save", save_and_stop)
    before = signal.getsignal(signal.SIGTERM)
    result = sketchguide("generate", "a", *quick, "--count", "2", "-o", tmp_path / "a.png")
    assert result.code == 143
    assert result.err == "Stopped.\n1 of 2 pictures were finished and are kept.\n"
    assert recall(tmp_path / "a-1.png").index == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stopped_sheet_shows_what_is_finished(
    sketchguide: Run, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sketchguide.sizes.BATCH", 2)
    from sketchguide import generation

    decode = generation.to_images

    def decode_and_stop(tensor: Any) -> Any:
        if len(tensor) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return decode(tensor)

    monkeypatch.setattr(generation, "to_images", decode_and_stop)
    result = sketchguide("generate", "a", *quick, "--count", "3", "--sheet", "-o", tmp_path / "a.png", "--json")
    assert result.code == 130
    assert result.json["error"]["code"] == "stopped"
    assert len(result.json["pictures"]) == 2
    assert recall(tmp_path / "a.png").request.count == 2


def test_ctrl_c_in_a_terminal(quick: list[str], tmp_path: Path):
    command = [sys.executable, "-m", "sketchguide.cli", "generate", "a", *quick, "--steps", "1", "--count", "256"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # other tests have the other cores
    command += ["-o", str(tmp_path / "a.png")]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=alone) as process:
        deadline = time.monotonic() + 300
        while not (tmp_path / "a-8.png").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.startswith("Stopped.\n")
    assert "Traceback" not in out + err
    made = sorted(tmp_path.iterdir())
    assert 8 <= len(made) < 256
    assert all(path.suffix == ".png" and recall(path).request.count == 256 for path in made)


def test_a_home_in_which_nothing_can_be_written_is_no_matter(drawing: Path, tmp_path: Path):
    (tmp_path / "file").touch()  # within which not even root can make anything
    elsewhere = {"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "TORCH_HOME", "MPLCONFIGDIR"}
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    environment |= {"HOME": str(tmp_path / "file" / "home"), "PYTHONUSERBASE": site.getuserbase()}
    command = [sys.executable, "-m", "sketchguide", "generate", "a red apple", "--sketch", str(drawing)]
    command += ["--trim", "--steps", "1", "--device", "cpu", "-o", str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert recall(tmp_path / "a.png").request.model == MODEL


def test_an_empty_prompt_is_told_of(sketchguide: Run, quick: list[str], tmp_path: Path):
    result = sketchguide("generate", " ", *quick, "-o", tmp_path / "a.png")
    assert result.code == 0
    assert "The prompt is empty" in result.err
