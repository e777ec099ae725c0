"""What a request starts from, where it cannot be had or is not what it was."""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from sketchguide.classifiers import LatentClassifier
from sketchguide.errors import SketchguideWarning, UsageError
from sketchguide.fingerprints import fingerprint
from sketchguide.generation import generate, run
from sketchguide.images import to_base64
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Edit, Layout, Request
from sketchguide.schedule import steps_walked
from sketchguide.sketch import Sketch
from sketchguide.starting import picture_to_start_from, steps_to_find
from support import CROSS, Tiny

NETWORK = "small"
SIZE = (32, 32)
STEPS = 3


@pytest.fixture(scope="module")
def source(tiny: Tiny) -> Picture:
    (picture,) = generate("a cat", backbone=tiny(), seed=5, steps=STEPS, size=SIZE)
    return picture


def begun_with(source: Picture, **layout: object) -> Request:
    given = {"picture": to_base64(source.image), "source": "generated", "made": source.recipe, **layout}
    return Request.checked(prompt="a cat", seed=5, steps=STEPS, size=SIZE, layout=Layout.checked(**given))


def made_otherwise(source: Picture, made_with: dict[str, str], **settings: object) -> Request:
    """Begun with it, as if it had been made with these parts and settings."""
    made = source.request.model_copy(update=settings)
    recipe = source.recipe.model_copy(update={"request": made, "made_with": source.made_with | made_with})
    return begun_with(source, made=recipe)


def test_another_precision_is_not_called_another_model(tiny: Tiny, source: Picture) -> None:
    request = made_otherwise(source, {"model": "0" * 12, "dtype": "float16"})
    with pytest.raises(UsageError, match="was made in float16, and the model is in float32") as caught:
        list(run(request, backbone=tiny()))
    assert caught.value.field == "dtype"


def test_what_pulled_a_picture_must_be_the_same(
    tiny: Tiny, source: Picture, predictor: LatentPredictor, classifier: LatentClassifier, tmp_path: Path
) -> None:
    predictor.save_pretrained(tmp_path)
    classifier.save(tmp_path / "latent-classifier.safetensors")
    parts = {"predictor": fingerprint(predictor), "classifier": fingerprint(classifier)}
    pulled = {"sketch": CROSS.to_json(), "class_name": "b", **dict.fromkeys(parts, str(tmp_path))}
    for name in parts:
        request = made_otherwise(source, parts | {name: "0" * 12}, **pulled)
        with pytest.raises(UsageError, match=f"was made with another {name}\\.") as caught:
            list(run(request, backbone=tiny()))
        assert caught.value.field == "source"


def test_another_solver_or_lora_is_called_by_its_name(tiny: Tiny, source: Picture) -> None:
    """The model's own solver may be another since, and of a LoRA the model has another fingerprint."""
    solved = made_otherwise(source, {"solver": "euler"})
    styled = made_otherwise(source, {"model": "0" * 12}, lora="somebody/style")
    for request, name in ((solved, "solver"), (styled, "LoRA")):
        with pytest.raises(UsageError, match=f"was made with another {name}\\."):
            list(run(request, backbone=tiny()))


def test_a_layout_is_not_stretched_to_another_size(source: Picture) -> None:
    request = begun_with(source)
    assert picture_to_start_from(request, SIZE) is not None
    with pytest.raises(UsageError, match="size is 64x32, but the picture to start from is carried at 32x32"):
        picture_to_start_from(request, (64, 32))


def test_a_picture_that_was_painted_over_is_told(tiny: Tiny, source: Picture) -> None:
    ball = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(ball).ellipse((4, 8, 22, 28), fill="red")
    with pytest.warns(SketchguideWarning, match="not the one that its recipe makes"):
        list(run(begun_with(source, picture=to_base64(ball)), backbone=tiny()))


def test_the_steps_before_the_first_picture(source: Picture) -> None:
    """None for a request that starts from noise; those of the recipe where a picture was made by one."""
    plain = Request.checked(prompt="a cat", seed=5, steps=20)
    assert (steps_to_find(plain), steps_walked(plain)) == (0, 20)
    picture = to_base64(source.image)
    for kind, expected in (("noised", 0), ("inverted", 20)):
        layout = Layout.checked(picture=picture, source=kind)
        assert steps_to_find(plain.model_copy(update={"layout": layout})) == expected
    assert steps_to_find(begun_with(source).model_copy(update={"steps": 1})) == STEPS
    edit = Edit.checked(picture=picture, source="inverted", amount=0.6)
    edited = Request.checked(prompt="a cat", seed=5, steps=20, sketch=CROSS.to_json(), edit=edit)
    assert (steps_to_find(edited), steps_walked(edited)) == (12, 12)


def test_an_edit_by_a_blank_drawing_is_refused(tiny: Tiny) -> None:
    edit = Edit.checked(picture=to_base64(Image.new("RGB", (64, 64), "white")))
    blank = Sketch.from_strokes([]).to_json()
    request = Request.checked(prompt="a cat", seed=5, steps=STEPS, size=SIZE, sketch=blank, edit=edit)
    with pytest.warns(SketchguideWarning), pytest.raises(UsageError, match="nothing would change"):
        list(run(request, backbone=tiny()))
