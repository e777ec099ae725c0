import warnings
from typing import Any

import numpy as np
import pytest

from sketchguide.advice import NEEDS, warn_of_request
from sketchguide.backbones.base import Backbone
from sketchguide.errors import SketchguideWarning
from sketchguide.generation import generate
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.sketch import Sketch
from support import CROSS, SIZE, Tiny, draw, pixels

# Of every field that needs something: a value, what it changes nothing without, and what it acts beside.
DRAWN = {"sketch": CROSS.to_json()}
LOSS = {"sketch_loss": 1.0, **DRAWN}
IDLE: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "attention": ("parts", "a sketch", DRAWN),
    "attention_scale": (0.5, "attention", {"attention": "parts", **DRAWN}),
    "controlnet": ("lines", "a sketch", DRAWN),
    "controlnet_scale": (0.5, "controlnet", {"controlnet": "lines", **DRAWN}),
    "controlnet_start": (0.5, "controlnet", {"controlnet": "lines", **DRAWN}),
    "controlnet_end": (0.5, "controlnet", {"controlnet": "lines", **DRAWN}),
    "controlnet_mode": (1, "controlnet", {"controlnet": "lines", **DRAWN}),
    "t2i_adapter": ("lines", "a sketch", DRAWN),
    "t2i_adapter_scale": (0.5, "t2i_adapter", {"t2i_adapter": "lines", **DRAWN}),
    "t2i_adapter_start": (0.5, "t2i_adapter", {"t2i_adapter": "lines", **DRAWN}),
    "t2i_adapter_end": (0.5, "t2i_adapter", {"t2i_adapter": "lines", **DRAWN}),
    "negative_time": (0.1, "a negative pass", {"scale": 4}),
    "lora_scale": (0.5, "lora", {"lora": "parts"}),
    "class_scale": (3.0, "a class", {"class_name": "a cat"}),
    "classifier": ("parts", "a class", {"class_name": "a cat"}),
    "sketch_loss": (1.0, "a sketch", DRAWN),
    "sketcher": ("parts", "sketch_loss", LOSS),
    "drawing_features": ("parts", "sketch_loss", LOSS),
    "like": ("picture", "sketch_loss", LOSS),
    "identity": (0.1, "like", {"like": "picture", **LOSS}),
    "picture_features": ("parts", "like", {"like": "picture", **LOSS}),
    "recogniser": ("parts", "tries above 1", {"tries": 2}),
    "sure": (0.5, "tries above 1", {"tries": 2}),
    "predictor": ("parts", "a drawing", DRAWN),
    "strength": (1.0, "a drawing", DRAWN),
    "stop": (0.5, "a drawing", DRAWN),
    "every": (3, "a drawing", DRAWN),
    "even": (0.1, "a drawing", DRAWN),
    "blank": (0.1, "a drawing", DRAWN),
    "widen": (2.0, "a drawing", DRAWN),
    "handover": (0.5, "a drawing", DRAWN),
}


def told(backbone: Backbone, **settings: Any) -> list[str]:
    """What is told of a request with these settings."""
    request = Request.checked(prompt="a cat", seed=1, **settings)
    sketch = None if request.sketch is None else Sketch.from_json(request.sketch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_request([request], sketch, None, backbone)
    return [str(one.message) for one in caught]


def test_each_setting_that_needs_something_is_told_of_without_it_alone(tiny: Tiny) -> None:
    assert list(IDLE) == list(NEEDS)
    assert set(NEEDS) <= set(Request.model_fields)
    backbone = tiny()
    for name, (value, need, beside) in IDLE.items():
        without = {"scale": 1} if name == "negative_time" else {}
        assert told(backbone, **{name: value}, **without)[:1] == [f"{name} changes nothing without {need}."]
        assert told(backbone, **{**beside, name: value}) == []


def test_settings_are_told_of_in_the_order_of_the_table(tiny: Tiny) -> None:
    met = {"attention", "controlnet", "t2i_adapter", "sketch_loss", "like"}  # by which others act
    idle = {name: value for name, (value, _, _) in reversed(IDLE.items()) if name not in met}
    messages = told(tiny(), **idle, scale=1)
    assert [message.split()[0] for message in messages] == [*(name for name in NEEDS if name in idle), "scale"]


def test_a_negative_time_of_zero_needs_no_negative_pass(tiny: Tiny) -> None:
    (only,) = told(tiny(), negative_time=0, scale=1)
    assert only.startswith("scale is 1")


def test_ink_all_over_is_told_of(tiny: Tiny) -> None:
    squared = Sketch.from_strokes([[[0, y / 32], [1, y / 32]] for y in range(33)])
    (only,) = told(tiny(), sketch=squared.to_json())
    assert only.startswith("The lines that were found in the sketch cover 75% of it")


def test_nothing_follows_a_blank_drawing(tiny: Tiny, predictor: LatentPredictor) -> None:
    with pytest.warns(SketchguideWarning, match="blank"):
        (blank,) = draw(tiny, predictor, sketch=Sketch())
    (free,) = draw(tiny, predictor, sketch=None)
    assert np.array_equal(pixels(blank.image), pixels(free.image))


def test_a_prompt_cut_short_is_told_of(tiny: Tiny) -> None:
    with pytest.warns(SketchguideWarning, match="the end"):
        generate("a " * 76 + "the end", backbone=tiny(), steps=1, size=SIZE, seed=1)


def test_what_web_uis_read_otherwise_is_told_of(tiny: Tiny) -> None:
    prompt = "a (red:1.2) duck (1: 2) <lora:pond:0.8>, embedding:good BREAK a (small) swan"
    with pytest.warns(SketchguideWarning) as caught:
        generate(prompt, negative="(bad:.5)", backbone=tiny(), steps=1, seed=1)
    assert [str(one.message) for one in caught] == [
        "'(red:1.2)' in the prompt is read as it stands: words have no weights here.",
        "'<lora:pond:0.8>' in the prompt is read as it stands: give the LoRA as lora, and its weight as lora_scale.",
        "'embedding:good' in the prompt is read as it stands: load the embedding on a pipeline in Python, and write "
        "its token.",
        "'BREAK' in the prompt is read as it stands: a prompt has one part here.",
        "'(bad:.5)' in the negative prompt is read as it stands: words have no weights here.",
    ]


def test_a_negative_prompt_cut_short_is_told_of(tiny: Tiny) -> None:
    with pytest.warns(SketchguideWarning, match="negative prompt is too long.*the end"):
        generate("a", negative="a " * 76 + "the end", backbone=tiny(), steps=1, size=SIZE, seed=1)


def test_settings_for_a_drawing_are_told_of_without_one(tiny: Tiny) -> None:
    with pytest.warns(SketchguideWarning) as caught:
        generate("a cat", backbone=tiny(), steps=1, size=SIZE, seed=1, strength=3, predictor="nosuch")
    _, *told = [str(one.message) for one in caught]  # the first is of the size
    assert told == [f"{name} changes nothing without a drawing." for name in ("predictor", "strength")]
    assert {one.filename for one in caught} == {__file__}


def test_a_scale_below_one_is_told_of(tiny: Tiny) -> None:
    with pytest.warns(SketchguideWarning, match="scale is 0: below 1 the picture turns from the prompt"):
        generate("a cat", backbone=tiny(), steps=1, size=SIZE, seed=1, scale=0.0)


def test_a_scale_of_one_is_told_of(tiny: Tiny) -> None:
    with pytest.warns(SketchguideWarning, match="scale is 1"):
        generate("a cat", backbone=tiny(), steps=1, size=SIZE, seed=1, scale=1.0)
    with pytest.warns(SketchguideWarning) as caught:
        generate("a cat", backbone=tiny(), steps=1, size=SIZE, seed=1, scale=1.0, negative_time=0.1)
    assert "negative_time changes nothing without a negative pass." in [str(one.message) for one in caught]


def test_nothing_else_is_told_of(tiny: Tiny, predictor: LatentPredictor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The size is")
        draw(tiny, predictor, steps=1)
