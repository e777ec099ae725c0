import warnings

import pytest

from sketchguide.errors import SketchguideWarning, UsageError
from sketchguide.generation import Progress, generate, run
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.sizes import batch_size, check_size, fitting_size
from support import CROSS, SIZE, Tiny


def test_fewer_pictures_are_made_at_once_the_larger_they_are_and_the_more_is_kept(
    tiny: Tiny, predictor: LatentPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny()
    for side, unguided, guided in ((32, 8, 8), (64 * backbone.stride, 8, 2), (128 * backbone.stride, 2, 1)):
        assert batch_size((side, side), backbone, guided=False) == unguided
        assert batch_size((side, side), backbone, guided=True) == guided
    assert batch_size((10**4, 10**4), backbone, guided=False) == 1
    monkeypatch.setattr("sketchguide.sizes._GUIDED_ROOM", 1)
    request = Request.checked(prompt="a cat", seed=3, steps=2, size=SIZE, count=3, sketch=CROSS.to_json())
    for sketch, at_a_time in ((request.sketch, [(3,), (4,), (5,)]), (None, [(3, 4, 5)])):
        asked = request.model_copy(update={"sketch": sketch})
        events = list(run(asked, backbone=backbone, predictor=predictor))
        seeds = [event.seeds for event in events if isinstance(event, Progress)]
        assert list(dict.fromkeys(seeds)) == at_a_time


def test_size_511_is_answered_with_the_nearest(tiny: Tiny) -> None:
    assert check_size((512, 64), tiny()) == (512, 64)
    with pytest.raises(UsageError, match="511x64") as caught:
        generate("a cat", backbone=tiny(), size=(511, 64), seed=1)
    assert "512x64" in caught.value.hint
    assert caught.value.field == "size"


def test_a_size_that_takes_hours_is_refused(tiny: Tiny) -> None:
    assert check_size((512, 512), tiny()) == (512, 512)
    with pytest.raises(UsageError, match=r"size is 512x576, 72 times the pixels that tiny was trained for; at most 64"):
        check_size((512, 576), tiny())


@pytest.mark.parametrize(
    ("size", "far"), [((64, 64), False), ((64, 80), True), ((64, 96), True), ((32, 64), True), (None, False)]
)
def test_a_size_far_from_the_models_own_is_told_of(tiny: Tiny, size: tuple[int, int] | None, far: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        generate("a", backbone=tiny(), steps=1, size=size, seed=1)
    messages = [str(one.message) for one in caught if issubclass(one.category, SketchguideWarning)]
    assert messages == ([f"The size is {size[0]} × {size[1]}; tiny was trained for 64 × 64."] if size and far else [])


def test_the_size_follows_the_aspect(tiny: Tiny) -> None:
    assert tiny().default_size == (64, 64)
    for aspect, size in ((1.0, (64, 64)), (0.5, (48, 96)), (2.25, (96, 48)), (9.0, (96, 48))):  # not beyond 2:1
        assert fitting_size(aspect, tiny()) == size
