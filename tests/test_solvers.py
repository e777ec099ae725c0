import math
from itertools import pairwise

import diffusers
import pytest
import torch
from torch import Tensor

from sketchguide.errors import UsageError
from sketchguide.levels import Level, Prediction
from sketchguide.solvers import DDIM, OF_SCHEDULER, SOLVERS, Consistency, Multistep, Solver, choose_solver
from support import Tiny

NOW, TO = Level(600, 0.6, 0.8, 0.4), Level(400, 0.8, 0.6, 0.6)
LAST = Level(0, 1.0, 0.0, 1.0)


def no_noise() -> Tensor:
    pytest.fail("a deterministic solver drew noise")


def guess(seed: int = 0) -> tuple[Tensor, Prediction]:
    clean, noise = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
    return NOW.alpha * clean + NOW.sigma * noise, Prediction(clean, noise)


def test_ddim_goes_where_the_prediction_says() -> None:
    latent, prediction = guess()
    expected = 0.8 * prediction.clean + 0.6 * prediction.noise
    assert torch.equal(DDIM()(latent, prediction, NOW, TO, previous=None, noise=no_noise), expected)


def test_ancestral_steps_have_the_posterior_variance() -> None:
    """Ho et al. 2020, eq. 7: the variance of q(x_s | x_t, x_0)."""
    latent, prediction = guess()

    def step(draw: float) -> Tensor:
        return DDIM(eta=1.0)(latent, prediction, NOW, TO, previous=None, noise=lambda: torch.full((2, 4, 3, 3), draw))

    ratio = (NOW.alpha / TO.alpha) ** 2
    variance = TO.sigma**2 / NOW.sigma**2 * (1 - ratio)
    assert torch.allclose(step(1.0) - step(0.0), torch.full((2, 4, 3, 3), math.sqrt(variance)), atol=1e-6)
    mean = (
        TO.alpha * (1 - ratio) / NOW.sigma**2 * prediction.clean
        + math.sqrt(ratio) * TO.sigma**2 / NOW.sigma**2 * latent
    )
    assert torch.allclose(step(0.0), mean, atol=1e-6)


@pytest.mark.parametrize("solver", [DDIM(), DDIM(eta=1.0), Multistep(), Consistency()], ids=lambda s: repr(s))
def test_the_last_step_to_no_noise_is_the_clean_image(solver: DDIM) -> None:
    latent, prediction = guess()
    found = solver(latent, prediction, NOW, LAST, previous=None, noise=no_noise)
    assert torch.allclose(found, prediction.clean, atol=1e-5)


def test_near_the_picture_consistency_keeps_some_of_the_latent() -> None:
    """Luo et al. 2023: at time 1, which is scaled to 10, with a sigma of the data of 0.5."""
    latent, prediction = guess()
    near, ones = NOW._replace(time=1), torch.ones_like(latent)
    clean = 0.25 / 100.25 * latent + 10 / math.sqrt(100.25) * prediction.clean
    last = Consistency()(latent, prediction, near, LAST, previous=None, noise=no_noise)
    assert torch.allclose(last, clean, atol=1e-5)
    inside = Consistency()(latent, prediction, near, TO, previous=None, noise=lambda: ones)
    assert torch.allclose(inside, 0.8 * clean + 0.6 * ones, atol=1e-5)
    assert Consistency().carried(near, LAST).clean == pytest.approx(10 / math.sqrt(100.25))


def test_a_first_multistep_step_is_ddim() -> None:
    latent, prediction = guess()
    ours = Multistep()(latent, prediction, NOW, TO, previous=None, noise=no_noise)
    assert torch.allclose(ours, DDIM()(latent, prediction, NOW, TO, previous=None, noise=no_noise), atol=1e-6)


def test_multistep_is_second_order() -> None:
    """On an image estimate that moves linearly in the log-SNR, halving the step quarters the error, not halves it."""

    def error(steps: int, second: bool) -> float:
        def level(i: float) -> Level:
            log_snr = -1 + 2 * i / steps
            sigma = 1 / math.sqrt(1 + math.exp(2 * log_snr))
            return Level(0, math.sqrt(1 - sigma**2), sigma, i / steps)

        def predict(latent: Tensor, at: Level) -> Prediction:
            clean = torch.tensor([math.log(at.alpha / at.sigma)], dtype=torch.float64)
            return Prediction(clean, (latent - at.alpha * clean) / at.sigma)

        latent, previous = torch.ones(1, dtype=torch.float64), None
        for now, to in pairwise(level(i) for i in range(steps + 1)):
            prediction = predict(latent, now)
            latent = Multistep()(latent, prediction, now, to, previous=previous, noise=no_noise)
            previous = (prediction, now) if second else None
        # d(x / sigma) / d(log-SNR) = exp(log-SNR) * clean integrates to (log-SNR - 1) * exp(log-SNR) from -1 to 1.
        first, last = level(0), level(steps)
        exact = last.sigma * (1 / first.sigma + 2 * math.exp(-1))
        return abs(float(latent) - exact)

    assert error(20, second=False) / error(40, second=False) == pytest.approx(2, rel=0.1)
    assert error(20, second=True) / error(40, second=True) > 3


@pytest.mark.parametrize("to", [TO, LAST], ids=["inside", "last"])
@pytest.mark.parametrize("solver", [DDIM(), DDIM(eta=0.4), DDIM(eta=1.0), Multistep(), Consistency()], ids=repr)
def test_what_a_step_carries_is_what_a_shift_of_the_prediction_moves_it_by(solver: Solver, to: Level) -> None:
    latent, prediction = guess()
    ones = torch.ones_like(latent)
    shifted = {
        "clean": prediction._replace(clean=prediction.clean + 0.5),
        "noise": prediction._replace(noise=prediction.noise + 0.5),
        "epsilon": Prediction(prediction.clean - NOW.sigma / NOW.alpha * 0.5, prediction.noise + 0.5),
    }

    def step(prediction: Prediction) -> Tensor:
        return solver(latent, prediction, NOW, to, previous=None, noise=lambda: 3 * ones)

    clean, noise = solver.carried(NOW, to)
    moved = noise - NOW.sigma / NOW.alpha * clean
    assert torch.allclose(step(shifted["epsilon"]) - step(prediction), 0.5 * moved * ones, atol=1e-5)
    if solver != Multistep():  # which knows the noise by what is left of the latent
        for name, share in (("clean", clean), ("noise", noise)):
            assert torch.allclose(step(shifted[name]) - step(prediction), 0.5 * share * ones, atol=1e-5)


def test_a_shift_at_every_step_comes_to_what_multistep_carries() -> None:
    """By how much the second order overshoots with a shift that comes anew, the step after falls back."""
    levels = [Level(0, math.cos(angle), math.sin(angle), 0) for angle in torch.linspace(1.2, 0.3, 41).tolist()]
    none, one = torch.zeros(1), torch.ones(1)
    shifted, carried = none, none
    previous: tuple[Prediction, Level] | None = None
    for now, to in pairwise(levels):
        shift = Prediction(-now.sigma / now.alpha * one, one)
        shifted = Multistep()(shifted, shift, now, to, previous=previous, noise=no_noise)
        previous = (shift, now)
        plain = Multistep()(carried, Prediction(none, none), now, to, previous=None, noise=no_noise)
        clean, noise = Multistep().carried(now, to)
        carried = plain + clean * shift.clean + noise * shift.noise
    assert float(shifted) == pytest.approx(float(carried), rel=0.05)


def test_every_name_leads_to_a_scheduler_and_back() -> None:
    for name, choice in SOLVERS.items():
        assert choose_solver(name) is choice
        own = OF_SCHEDULER[choice.scheduler]
        assert SOLVERS[own].solver == choice.solver
        assert (own == name) == (not choice.settings)  # of a scheduler that is set otherwise it is a variant
    assert set(OF_SCHEDULER.values()) == {name for name, choice in SOLVERS.items() if not choice.settings}
    assert all(hasattr(diffusers, scheduler) for scheduler in OF_SCHEDULER)


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_an_impossible_eta_is_refused(eta: float) -> None:
    with pytest.raises(UsageError, match="eta is"):
        DDIM(eta=eta)


def test_an_unknown_solver_is_answered_with_the_known_ones(tiny: Tiny) -> None:
    with pytest.raises(UsageError) as caught:
        tiny().levels(5, "heun")
    assert caught.value.field == "solver"
    assert all(name in caught.value.hint for name in SOLVERS)


def test_the_models_own_solver_comes_first(tiny: Tiny) -> None:
    assert next(iter(tiny().solvers)) == "ddim"
    assert set(tiny().solvers) == set(SOLVERS)


def test_the_names_of_web_uis_are_answered_with_ours() -> None:
    for said, meant in (
        ("DPM++ 2M Karras", "dpm++2m-karras"),
        ("Euler", "euler"),
        ("Euler Ancestral", "euler-ancestral"),
    ):
        with pytest.raises(UsageError) as caught:
            choose_solver(said)
        assert caught.value.hint == f"Did you mean {meant}?"
