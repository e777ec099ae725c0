import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sketchguide
from sketchguide.errors import UsageError
from sketchguide.generation import run
from sketchguide.images import read_png_text, save_png, to_png
from sketchguide.pictures import RECIPE_KEY, Picture, carries_recipe, recall
from sketchguide.predictors import LatentPredictor
from support import SIZE, Tiny, draw, pixels


def test_a_saved_picture_can_be_made_again(tiny: Tiny, predictor: LatentPredictor, tmp_path: Path) -> None:
    pictures = draw(tiny, predictor, count=2, solver="euler-ancestral", stop=0.5, negative="a dog")
    pictures[1].save(tmp_path / "cat.png")
    recipe = recall(tmp_path / "cat.png")
    assert recipe == pictures[1].recipe
    assert (recipe.request, recipe.index) == (pictures[1].request, 1)
    assert recipe.made_with["sketchguide"] == sketchguide.__version__
    assert {"torch", "dtype", "device", "model", "predictor"} <= recipe.made_with.keys()
    events = run(recipe.request, backbone=tiny(), predictor=predictor, only=recipe.index)
    (again,) = [event for event in events if isinstance(event, Picture)]
    with Image.open(tmp_path / "cat.png") as saved:
        assert np.array_equal(pixels(again.image), pixels(saved))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{",
        "[]",
        "null",
        '{"index": 0}',
        '{"request": 5, "index": 0, "made_with": {}}',
        '{"request": {"prompt": "a", "seed": 1, "steps": 0}, "index": 0, "made_with": {}}',
        '{"request": {"prompt": "a", "seed": NaN}, "index": 0, "made_with": {}}',
        '{"request": {"prompt": "a", "seed": 1}, "index": "first", "made_with": {}}',
        '{"request": {"prompt": "a", "seed": 1}, "index": 0}',
        "[" * 100_000,
    ],
    ids=["none", "no-json", "list", "null", "no-request", "number", "bad-value", "nan", "bad-index", "bare", "deep"],
)
def test_recipes_that_are_none_are_refused(text: str | None, tmp_path: Path) -> None:
    save_png(Image.new("RGB", SIZE), tmp_path / "a.png", text={} if text is None else {RECIPE_KEY: text})
    with pytest.raises(UsageError):
        recall(tmp_path / "a.png")


def test_the_recipe_is_plain_json(tiny: Tiny, predictor: LatentPredictor, tmp_path: Path) -> None:
    (picture,) = draw(tiny, predictor)
    assert repr(picture) == f"Picture({picture.request.prompt!r}, seed {picture.seed}, {SIZE[0]}x{SIZE[1]})"
    picture.save(tmp_path / "cat.png")
    recipe = json.loads(read_png_text(tmp_path / "cat.png")[RECIPE_KEY])
    assert recipe == picture.recipe.model_dump(mode="json")
    assert recipe["request"]["prompt"] == "a cat"
    assert recipe["request"]["sketch"]["strokes"]


def test_files_of_pictures_are_told_from_others(tiny: Tiny, predictor: LatentPredictor, tmp_path: Path) -> None:
    (picture,) = draw(tiny, predictor, steps=1)
    picture.save(tmp_path / "cat.png")
    assert (tmp_path / "cat.png").read_bytes() == picture.to_png()
    assert recall(picture.to_png()) == picture.recipe
    assert carries_recipe(picture.to_png())
    assert not carries_recipe(to_png(picture.image))
    assert not carries_recipe(b"GIF89a")
