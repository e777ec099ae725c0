"""What is given beside the settings, held to the model that is given with it."""

import pytest

from sketchguide.arguments import backbone_for, carrying, check_given, named
from sketchguide.errors import ModelNotFoundError, UsageError
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from support import Tiny


def test_another_precision_than_that_of_the_model_is_refused(tiny: Tiny) -> None:
    request = Request.checked(prompt="a cat", seed=1, dtype="bfloat16")
    with pytest.raises(UsageError, match="dtype is bfloat16, but the model that was given is in float32"):
        check_given(tiny(), request)


@pytest.mark.parametrize(("device", "fits"), [("auto", True), ("cpu", True), ("cpu:0", True), ("cpu:1", False)])
def test_the_model_is_where_the_request_says(tiny: Tiny, device: str, fits: bool) -> None:
    request = Request.checked(prompt="a cat", seed=1, device=device)
    if fits:
        check_given(tiny(), request)
    else:
        with pytest.raises(UsageError, match=f"device is {device}, but the model that was given is on cpu") as caught:
            check_given(tiny(), request)
        assert caught.value.field == "device"


def test_what_is_loaded_is_named_in_place_of_what_is_asked_for(tiny: Tiny, predictor: LatentPredictor) -> None:
    values = {"model": "another", "steps": 3}
    assert named(values, None, None) == values
    assert named(values, tiny(), predictor) == {"model": "tiny", "steps": 3, "dtype": "float32"}  # it has no name
    assert named(values, None, "lines") == values | {"predictor": "lines"}


def test_nothing_to_show_is_carried_as_it_is() -> None:
    assert carrying({"steps": 3}) == {"steps": 3}


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ModelNotFoundError):
        backbone_for({"model": "no-such-model", "steps": 3})
