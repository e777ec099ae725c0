"""What a request starts from, where it cannot be had or is not what it was."""

import pytest
from PIL import Image, ImageDraw

from sketchguide.errors import SketchguideWarning, UsageError
from sketchguide.generation import generate, run
from sketchguide.images import to_base64
from sketchguide.pictures import Picture
from sketchguide.request import Edit, Layout, Request
from sketchguide.sketch import Sketch
from sketchguide.starting import picture_to_start_from, steps_to_find, steps_walked
from support import CROSS, Tiny

SIZE = (32, 32)
STEPS = 3


def generated(tiny: Tiny) -> Picture:
    (picture,) = generate("a cat", backbone=tiny(), seed=5, steps=STEPS, size=SIZE)
    return picture


def begun_with(source: Picture, **layout: object) -> Request:
    given = {"picture": to_base64(source.image), "source": "generated", "made": source.recipe, **layout}
    return Request.checked(prompt="a cat", seed=5, steps=STEPS, size=SIZE, layout=Layout.checked(**given))


def test_another_precision_is_not_called_another_model(tiny: Tiny) -> None:
    source = generated(tiny)
    made_with = {**source.made_with, "model": "0" * 12, "dtype": "float16"}
    request = begun_with(source, made=source.recipe.model_copy(update={"made_with": made_with}))
    with pytest.raises(UsageError, match="was made in float16, and the model is in float32") as caught:
        list(run(request, backbone=tiny()))
    assert caught.value.field == "dtype"


def test_a_layout_is_not_stretched_to_another_size(tiny: Tiny) -> None:
    request = begun_with(generated(tiny))
    assert picture_to_start_from(request, SIZE) is not None
    with pytest.raises(UsageError, match="size is 64x32, but the picture to start from is carried at 32x32"):
        picture_to_start_from(request, (64, 32))


def test_a_picture_that_was_painted_over_is_told(tiny: Tiny) -> None:
    ball = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(ball).ellipse((4, 8, 22, 28), fill="red")
    with pytest.warns(SketchguideWarning, match="not the one that its recipe makes"):
        list(run(begun_with(generated(tiny), picture=to_base64(ball)), backbone=tiny()))


def test_the_steps_before_the_first_picture(tiny: Tiny) -> None:
    """None for a request that starts from noise; those of the recipe where a picture was made by one."""
    source = generated(tiny)
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
