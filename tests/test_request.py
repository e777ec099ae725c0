import json
from pathlib import Path
from typing import Any

import pytest

from sketchguide.defaults import EVERY, FEW_STEPS, SOFT_STEPS, STRENGTH
from sketchguide.errors import UsageError
from sketchguide.request import Request


def test_a_request_survives_json() -> None:
    request = Request.checked(prompt="a cat", seed=7, size=(64, 96), sketch={"strokes": []}, stop=0.3, solver="euler")
    assert Request.checked(**json.loads(request.model_dump_json())) == request


def test_white_space_in_prompts_is_evened_out() -> None:
    assert Request.checked(prompt="  a\tred \n apple ", seed=1).prompt == "a red apple"
    assert Request.checked(prompt="naïve 猫 🙂", seed=1).prompt == "naïve 猫 🙂"


def test_html_is_text() -> None:
    prompt = "<script>alert(1)</script>"
    assert Request.checked(prompt=prompt, seed=1).prompt == prompt


def test_the_ends_of_ranges_are_allowed() -> None:
    Request.checked(prompt="", seed=0, steps=1, scale=0, strength=0, stop=0, count=1, size=(16, 16))
    Request.checked(prompt="x" * 10_000, seed=2**32 - 256, steps=1000, scale=50, strength=20, stop=1, count=256)
    with pytest.raises(UsageError, match="beyond the last seed"):
        Request.checked(prompt="x", seed=2**32 - 255, count=256)


def test_a_drawing_pulls_at_every_step_where_there_are_few_and_softer_the_more_often() -> None:
    def pull(**settings: float) -> tuple[int, float]:
        request = Request.checked(prompt="", seed=0, **settings)
        return request.pulling_every, request.beta

    assert pull() == pull(steps=30) == (EVERY.default, STRENGTH.default) == (2, 2.3)
    assert pull(steps=FEW_STEPS) == pull(every=1) == (1, 1.15)
    assert pull(steps=FEW_STEPS + 1) == pull(steps=SOFT_STEPS, every=2) == (2, 2.3)
    assert pull(every=3)[1] == pytest.approx(3.45)
    assert pull(steps=6) == (1, pytest.approx(0.575))
    assert pull(steps=8, strength=3) == (2, 3)
    assert pull(steps=8, strength=3, every=1) == (1, 3)
    assert pull(strength=0) == (2, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", -5),
        ("steps", 1e9),
        ("steps", 10**9),
        ("steps", 2.5),
        ("steps", "many"),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", None),
        ("scale", float("nan")),
        ("scale", float("inf")),
        ("scale", -1),
        ("strength", float("nan")),
        ("strength", float("-inf")),
        ("stop", 1.1),
        ("stop", float("nan")),
        ("size", (15, 64)),
        ("size", (10**5, 64)),
        ("size", (-64, 64)),
        ("count", 10**6),
        ("count", 0),
        ("prompt", "x" * 10_001),
        ("prompt", "a\0b"),
        ("prompt", "a\x1bb"),
        ("prompt", "a\rb"),
        ("prompt", "a\ud800b"),
        ("negative", "a\x7fb"),
        ("prompt", None),
        ("prompt", 5),
        ("dtype", "float64"),
        ("device", "c" * 65),
        ("sketch", "apple.svg"),
        ("surprise", 1),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_bad_values_are_named(field: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Request.checked(**({"prompt": "a cat", "seed": 7} | {field: value}))
    error = caught.value
    assert error.field == field
    assert error.message.startswith(f"{field} is ")
    assert len(error.message) < 300
    assert "\n" not in error.message
    assert error.message.isprintable()
    error.message.encode()  # no lone surrogate gets out


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("size", (5000, 5000), "size is 5000x5000; each side must be 16 to 4096 pixels."),
        ("size", [15, 64], "size is 15x64; each side must be 16 to 4096 pixels."),
        ("size", 64, "size is 64; it must be several values, such as (width, height)."),
        ("size", (64,), "size is 64; it must be several values, such as (width, height)."),
        ("size", (64, 64, 3), "size is 64x64x3; it must be several values, such as (width, height)."),
        ("strength", "hard", "strength is 'hard'; it must be a number."),
        ("strength", 50, "strength is 50; it must be at most 20."),
        ("strength", float("nan"), "strength is nan; it must be finite."),
        ("seed", 2**32, "seed is 4294967296; it must be at most 4294967295."),
        ("count", 1.5, "count is 1.5; it must be a whole number."),
        ("count", "1.5", "count is '1.5'; it must be a whole number."),
        ("steps", 0, "steps is 0; it must be at least 1."),
        ("dtype", "int8", "dtype is 'int8'; it must be 'auto', 'float32', 'bfloat16' or 'float16'."),
        ("prompt", 5, "prompt is 5; it must be a text."),
        ("negative", "a\0", "negative is 'a\\x00'; it contains control characters or broken Unicode."),
        ("surprise", 1, "surprise is 1; there is no such setting."),
    ],
)
def test_a_sentence_says_what_was_given_and_what_is_allowed(field: str, value: Any, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        Request.checked(**({"prompt": "a cat", "seed": 7} | {field: value}))
    assert caught.value.message == sentence


@pytest.mark.parametrize(
    ("name", "meant"),
    [("num_inference_steps", "steps"), ("guidance_scale", "scale"), ("stepz", "steps"), ("mask_image", ""), ("q", "")],
)
def test_what_others_call_a_setting_is_told(name: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        Request.checked(prompt="a cat", seed=7, **{name: 4})
    assert caught.value.message == f"{name} is 4; there is no such setting."
    assert caught.value.hint == (f"Did you mean {meant}?" if meant else "")


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        Request.checked(seed=1)
    assert caught.value.field == "prompt"
    assert caught.value.message == "prompt is missing."


def test_requests_cannot_be_changed() -> None:
    request = Request.checked(prompt="a cat", seed=7)
    with pytest.raises(ValueError, match="frozen"):
        request.seed = 8  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("lora", "scale", "loras"),
    [
        (None, 0.5, {}),
        ("a", 0.5, {"a": 0.5}),
        (["a", "b"], 0.5, {"a": 0.5, "b": 0.5}),
        (["a", "b"], [0.5, -1], {"a": 0.5, "b": -1.0}),
        (Path("a"), 0.5, {"a": 0.5}),
        ([Path("a"), "b"], 0.5, {"a": 0.5, "b": 0.5}),
    ],
)
def test_one_lora_or_several_have_scales(lora: Any, scale: Any, loras: dict[str, float]) -> None:
    """Recipes of before name one, or none."""
    assert Request.checked(prompt="", seed=0, lora=lora, lora_scale=scale).loras == loras
