from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sketchguide.backbones.unet import UNetBackbone
from sketchguide.controls.base import Step, trained_on
from sketchguide.controls.edges import LatentGuide
from sketchguide.errors import UsageError
from sketchguide.guidance import controls_of, latent_guide
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.seeds import generators, noise
from sketchguide.sketch import Sketch
from sketchguide.taps import tapped
from support import MakePredictor, Tiny

NETWORK = "small"
GRID = (16, 24)
CROSS = Sketch.from_strokes([[[0.2, 0.2], [0.8, 0.8]], [[0.8, 0.2], [0.2, 0.8]]])


def step_of(backbone: UNetBackbone, predictor: LatentPredictor) -> Step:
    latent, level = noise(generators([1, 2]), (4, *GRID)), backbone.level(0.2)
    with torch.no_grad(), tapped(backbone.network, predictor.config.taps) as features:
        prediction = backbone.predict(latent, level, backbone.describe(["a cat", "a dog"]))
    return Step(latent, prediction, features, level)


def target(count: int = 1) -> Tensor:
    return torch.randn(count, 4, *GRID, generator=torch.Generator().manual_seed(4))


def test_the_loss_is_the_distance_of_the_maps_latents(tiny: Tiny, predictor: LatentPredictor) -> None:
    step = step_of(tiny(), predictor)
    error = (predictor(step.features, step.level, GRID) - target()).square()
    loss = LatentGuide(predictor, target()).loss(step)
    assert loss.shape == (2,)
    assert torch.allclose(loss, error.mean(dim=(1, 2, 3)))


def test_with_a_reader_of_ink_the_loss_is_the_drawings_unlikeliness(tiny: Tiny, make_predictor: MakePredictor) -> None:
    backbone = tiny()
    reader = make_predictor(reads="ink", stride=backbone.stride, clean_widths=(8,))
    step = step_of(backbone, reader)
    size = (GRID[1] * backbone.stride, GRID[0] * backbone.stride)
    drawing = CROSS.rasterize(size=size)
    settings = {"blank": 0.25, "widen": 1.5, "handover": 0.3}
    guide = latent_guide(Request.checked(prompt="", seed=1, **settings), [drawing], backbone, reader)
    ink = torch.tensor(drawing.widened(1.5).ink)
    assert torch.equal(guide.target[0, 0], ink)
    assert guide.weight is not None
    assert torch.allclose(guide.weight[0, 0], 0.25 + 0.75 * ink)
    for at, read in (
        (0.3, reader(step.features, step.level, GRID)),
        (0.2, reader.read_clean(step.prediction.clean)),
    ):
        both = -(ink * read.sigmoid().log() + (1 - ink) * (-read).sigmoid().log()) * (0.25 + 0.75 * ink)
        assert torch.allclose(replace(guide, handover=at).loss(step), both.mean(dim=(1, 2, 3)), rtol=1e-4)
    with pytest.raises(UsageError, match="a map of ink") as caught:
        LatentGuide(reader, target())
    assert caught.value.field == "target"
    with pytest.raises(UsageError, match="The drawing's target is") as caught:
        LatentGuide(reader, torch.zeros(1, 1, *GRID)).loss(step)
    assert caught.value.field == "sketch"


def test_weights_say_how_strongly_each_place_binds(tiny: Tiny, predictor: LatentPredictor) -> None:
    step = step_of(tiny(), predictor)
    left = torch.zeros(1, 1, *GRID)
    left[..., : GRID[1] // 2] = 1
    halves = [LatentGuide(predictor, target(), weight).loss(step) for weight in (left, 1 - left)]
    assert torch.allclose(halves[0] + halves[1], LatentGuide(predictor, target()).loss(step), rtol=1e-4)
    moved = torch.where(left > 0, target(), torch.zeros(()))
    assert torch.equal(LatentGuide(predictor, moved, left).loss(step), halves[0])


def test_each_image_has_its_own_target(tiny: Tiny, predictor: LatentPredictor) -> None:
    step, targets = step_of(tiny(), predictor), target(2)
    both = LatentGuide(predictor, targets).loss(step)
    alone = [LatentGuide(predictor, targets[row : row + 1]).loss(step)[row] for row in (0, 1)]
    assert both.tolist() == pytest.approx([float(value) for value in alone])


def test_one_target_may_bind_each_image_in_places_of_its_own(tiny: Tiny, predictor: LatentPredictor) -> None:
    step = step_of(tiny(), predictor)
    weights = torch.rand(2, 1, *GRID, generator=torch.Generator().manual_seed(5))
    both = LatentGuide(predictor, target(), weights).loss(step)
    alone = [LatentGuide(predictor, target(), weights[row : row + 1]).loss(step)[row] for row in (0, 1)]
    assert both.tolist() == pytest.approx([float(value) for value in alone])
    with pytest.raises(UsageError, match="3 weights for 2 pictures"):
        LatentGuide(predictor, target(), torch.ones(3, 1, *GRID)).loss(step)


@pytest.mark.parametrize("count", [1, 3])
def test_the_guide_of_some_pictures_has_their_targets_and_weights(predictor: LatentPredictor, count: int) -> None:
    weights = torch.rand(count, 1, *GRID, generator=torch.Generator().manual_seed(5))
    some = LatentGuide(predictor, target(3), weights).of(slice(2, 3))
    assert torch.equal(some.target, target(3)[2:])
    assert some.weight is not None
    assert torch.equal(some.weight, weights[-1:])


def test_the_papers_defaults(predictor: LatentPredictor) -> None:
    guide = LatentGuide(predictor, target())
    assert guide.window == (0.0, 0.5)
    assert guide.every == 1
    assert guide.strength == type(guide.strength)(1.6)  # pyright: ignore[reportCallIssue]
    assert tuple(guide.reads) == predictor.config.taps


def test_from_the_handover_on_the_predicted_picture_is_read(tiny: Tiny, make_predictor: MakePredictor) -> None:
    predictor = make_predictor(clean_widths=(8, 8))
    step = step_of(tiny(), predictor)  # at a progress of 0.2
    early, late = (LatentGuide(predictor, target(), handover=at).loss(step) for at in (0.21, 0.2))
    assert torch.equal(early, LatentGuide(predictor, target()).loss(step))
    read = predictor.read_clean(step.prediction.clean)
    assert read.shape == (2, 4, *GRID)
    assert torch.allclose(late, (read - target()).square().mean(dim=(1, 2, 3)))
    assert not torch.allclose(late, early)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"target": torch.zeros(1, 1, *GRID)}, "target"),
        ({"target": torch.zeros(4, *GRID)}, "target"),
        ({"weight": torch.ones(1, 1, 3, 3)}, "weight"),
        ({"weight": torch.ones(3, 1, *GRID), "target": torch.zeros(2, 4, *GRID)}, "weight"),
        ({"weight": torch.ones(())}, "weight"),
        ({"weight": -torch.ones(1, 1, *GRID)}, "weight"),
        ({"weight": torch.full((1, 1, *GRID), torch.nan)}, "weight"),
        ({"handover": 5.0}, "handover"),
        ({"every": 1.5}, "every"),
    ],
)
def test_a_guide_that_could_not_work_is_refused_at_once(
    predictor: LatentPredictor, settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(UsageError) as caught:
        LatentGuide(predictor, **{"target": target(), **settings})
    assert caught.value.field == field


def test_a_predictor_of_activations_alone_never_hands_over(predictor: LatentPredictor, tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="reads activations alone") as caught:
        LatentGuide(predictor, target(), handover=0.3)
    assert caught.value.field == "handover"
    step = step_of(tiny(), predictor)
    with pytest.raises(UsageError, match="reads activations alone"):
        predictor.read_clean(step.prediction.clean)


@pytest.mark.parametrize("window", [(0.0, 0.8), (0.1, 0.5)])
def test_defect_guiding_at_levels_that_training_never_saw(
    make_predictor: MakePredictor, window: tuple[float, float]
) -> None:
    predictor = make_predictor(window=(0.2, 0.75))
    LatentGuide(predictor, target(), window=(0.2, 0.75))
    with pytest.raises(UsageError, match=r"trained for 0\.2 to 0\.75") as caught:
        LatentGuide(predictor, target(), window=window)
    assert caught.value.field == "stop"


def test_a_predictor_of_less_noise_guides_where_it_was_trained(tiny: Tiny, make_predictor: MakePredictor) -> None:
    drawing = CROSS.rasterize(size=(64, 64))
    for settings, window in (({}, (0.1, 0.85)), ({"stop": 0.4}, (0.1, 0.4))):
        request = Request.checked(prompt="", seed=1, **settings)
        guide = latent_guide(request, [drawing], tiny(), make_predictor(window=(0.1, 0.9)))
        assert guide.window == window
    with pytest.raises(UsageError, match=r"trained for 0\.1 to 0\.9") as caught:
        latent_guide(
            Request.checked(prompt="", seed=1, stop=0.05), [drawing], tiny(), make_predictor(window=(0.1, 0.9))
        )
    assert "between 0.1 and 0.9" in caught.value.hint


def test_a_predictor_handed_over_goes_to_the_device_of_the_model(tiny: Tiny, predictor: LatentPredictor) -> None:
    class Elsewhere(LatentPredictor):
        def to(self, *asked: Any) -> Any:
            devices.append(asked)
            return self

    devices: list[Any] = []
    controls_of(Request.checked(prompt="", seed=1), tiny(), CROSS.rasterize(size=(64, 64)), Elsewhere(predictor.config))
    assert devices == [(tiny().device,)]


def test_it_says_which_noise_its_predictor_was_trained_on(make_predictor: MakePredictor) -> None:
    guide = LatentGuide(make_predictor(window=(0.2, 0.75)), target(), window=(0.3, 0.5))
    assert trained_on(guide) == (0.2, 0.75)


def test_a_drawing_of_another_size_is_refused(tiny: Tiny, predictor: LatentPredictor) -> None:
    with pytest.raises(UsageError, match=r"\(8, 8\)") as caught:
        LatentGuide(predictor, torch.zeros(1, 4, 8, 8)).loss(step_of(tiny(), predictor))
    assert caught.value.field == "sketch"


def test_a_window_that_runs_backwards_is_refused(predictor: LatentPredictor) -> None:
    with pytest.raises(UsageError) as caught:
        LatentGuide(predictor, target(), window=(0.5, 0.2))
    assert caught.value.field == "window"


def test_a_pull_less_often_than_never_is_refused(predictor: LatentPredictor) -> None:
    with pytest.raises(UsageError, match="at least 1") as caught:
        LatentGuide(predictor, target(), every=0)
    assert caught.value.field == "every"
