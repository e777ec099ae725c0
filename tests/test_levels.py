from typing import Any

import diffusers
import pytest
import torch

from sketchguide.errors import UsageError
from sketchguide.levels import Level, Prediction, PredictionKind, levels_of
from sketchguide.solvers import SOLVERS
from support import Tiny


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 7, 30])
def test_levels_fall_from_noise_to_image(tiny: Tiny, solver: str, steps: int) -> None:
    levels = tiny().levels(steps, solver)
    assert len(levels) == steps + 1
    for level in levels:
        assert level.alpha**2 + level.sigma**2 == pytest.approx(1)
    assert [level.progress for level in levels] == pytest.approx([i / steps for i in range(steps + 1)])
    sigmas = [level.sigma for level in levels]
    assert sigmas == sorted(sigmas, reverse=True)
    times = [level.time for level in levels]
    assert times == sorted(times, reverse=True)
    assert 0 <= times[-1] <= times[0] <= 999
    assert levels[-1].sigma < 0.05


def test_zero_terminal_snr_starts_at_pure_noise(tiny: Tiny) -> None:
    settings = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    first = tiny(**settings).levels(5)[0]
    assert (first.time, first.alpha, first.sigma) == (999, 0, 1)


def test_flow_levels_blend_image_and_noise() -> None:
    levels = levels_of(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 6)
    assert len(levels) == 7
    for level in levels:
        assert level.alpha + level.sigma == pytest.approx(1)
    assert levels[0].sigma == pytest.approx(1)
    assert levels[-1].sigma == 0


@pytest.mark.parametrize(
    ("solver", "steps"),
    [("ddim", 0), ("ddim", -3), ("lcm", 60), ("ddim", 1000), ("ddim", 1001), ("dpm++2m", 1000)],
)
def test_step_counts_that_a_schedule_cannot_make_are_refused(tiny: Tiny, solver: str, steps: int) -> None:
    with pytest.raises(UsageError) as caught:
        tiny().levels(steps, solver)
    assert caught.value.field == "steps"
    assert str(steps) in caught.value.message


def test_second_order_schedulers_are_refused() -> None:
    with pytest.raises(UsageError, match="HeunDiscreteScheduler"):
        levels_of(diffusers.HeunDiscreteScheduler(), 5)


@pytest.mark.parametrize(("kind", "level"), [
    ("epsilon", Level(500, 0.6, 0.8, 0.5)),
    ("sample", Level(500, 0.6, 0.8, 0.5)),
    ("v_prediction", Level(500, 0.6, 0.8, 0.5)),
    ("flow", Level(0.3, 0.7, 0.3, 0.7)),
])  # fmt: skip
def test_every_kind_of_output_is_read_into_image_and_noise(kind: PredictionKind, level: Level) -> None:
    rng = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, 1, 4, 3, 3, generator=rng)
    a, s = level.alpha, level.sigma
    outputs: dict[str, Any] = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": a * noise - s * clean,
        "flow": noise - clean,
    }
    read = Prediction.read(kind, outputs[kind], a * clean + s * noise, level)
    assert torch.allclose(read.clean, clean, atol=1e-5)
    assert torch.allclose(read.noise, noise, atol=1e-5)


def test_guidance_starts_at_the_other_prediction() -> None:
    here, there = Prediction(torch.ones(1), torch.full((1,), 2.0)), Prediction(torch.zeros(1), torch.ones(1))
    assert here.towards(there, 1.0) == here
    assert here.towards(there, 0.0) == there
    assert here.towards(there, 5.0) == Prediction(torch.full((1,), 5.0), torch.full((1,), 6.0))
