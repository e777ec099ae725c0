from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from sketchguide.backbones.base import Backbone, Condition
from sketchguide.backbones.tiny import tiny_flux, tiny_stable_diffusion, tiny_stable_diffusion_3
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.controls.base import Step
from sketchguide.controls.features import NegativePrompt, Places, PlugAndPlay
from sketchguide.errors import UsageError
from sketchguide.generation import generate
from sketchguide.images import to_tensor
from sketchguide.inversion import Noised, Trajectory, ascend, invert, recur
from sketchguide.levels import Level, Prediction
from sketchguide.loading import from_pipe, load_backbone
from sketchguide.sampling import Evaluations, sample
from sketchguide.seeds import generators, noise
from sketchguide.solvers import DDIM
from support import Pull, Tiny, shallow

SHAPE = (4, 8, 8)


class Layers(nn.Module):
    """As little network as Plug-and-Play can act on: two places, and something after them."""

    def __init__(self) -> None:
        super().__init__()
        self.feature = nn.Identity()
        self.query = nn.Identity()
        self.last = nn.Identity()

    def forward(self, latent: Tensor, told: Tensor) -> Tensor:
        return self.last(self.query(self.feature(0.1 * latent) + told.mean()))


class Toy:
    """A backbone that predicts epsilon with `Layers` and counts the passes begun and ended."""

    dtype = torch.float32
    distilled = False
    prediction_kind = "epsilon"

    def __init__(self) -> None:
        self.network = Layers()
        self.begun = self.ended = 0

    def predict(self, latent: Tensor, level: Level, condition: Condition) -> Prediction:
        self.begun += 1
        output = self.network(latent, condition.embedding)
        self.ended += 1
        return Prediction.read("epsilon", output, latent, level)


PLACES = Places(("feature",), ("query",))
TOLD = Condition(torch.zeros(1, 2, 3))


def cosine(steps: int) -> list[Level]:
    angles = torch.linspace(1.5, 0.01, steps + 1, dtype=torch.float64)
    return [Level(i, float(a.cos()), float(a.sin()), i / steps) for i, a in enumerate(angles)]


def begin(*seeds: int) -> Tensor:
    return noise(generators(seeds), SHAPE)


# ------------------------------------------------------------------------------------------------------- inversion


@pytest.mark.parametrize("pipeline", [tiny_stable_diffusion_3, tiny_flux])
def test_the_way_up_to_pure_noise_leads_back_down(pipeline: Callable[[], Any]) -> None:
    made = shallow(pipeline())
    with torch.no_grad():
        made.transformer.proj_out.weight.mul_(0.3)
    backbone = from_pipe(made, name="flow")
    levels, told = backbone.levels(6), backbone.describe(["a cat", ""])
    latent = noise(generators([1, 2]), (backbone.latent_channels, 16, 16))
    errors: list[float] = []
    for iterations in (1, 12):
        trajectory = invert(backbone, latent, levels, told, iterations=iterations)
        *_, last = sample(backbone, told, trajectory.at(levels[0]), levels)
        errors.append(float((last.latent - latent).norm() / latent.norm()))
    assert errors[1] < min(1e-4, 0.1 * errors[0])


@pytest.mark.parametrize("pipeline", [tiny_stable_diffusion_3, tiny_flux])
def test_of_a_flow_one_pass_for_each_step_leads_nearly_back(pipeline: Callable[[], Any]) -> None:
    backbone = from_pipe(pipeline(), name="flow")
    levels, told = backbone.levels(20), backbone.describe(["a cat", ""])
    latent = noise(generators([1, 2]), (backbone.latent_channels, 16, 16))
    trajectory = invert(backbone, latent, levels, told)
    *_, last = sample(backbone, told, trajectory.at(levels[0]), levels)
    assert float((last.latent - latent).norm() / latent.norm()) < 0.0026  # lifted with the noise: 0.003 to 0.006


@pytest.fixture(scope="module")
def smooth() -> Tiny:
    """Random networks of the true architecture whose output changes slowly with the latent, as a trained one's does."""
    base = tiny_stable_diffusion()
    with torch.no_grad():
        base.unet.conv_out.weight.mul_(0.1)

    def make(**scheduler: Any) -> UNetBackbone:
        changed = DDIMScheduler.from_config(base.scheduler.config, **scheduler)
        pipeline = StableDiffusionPipeline(**(base.components | {"scheduler": changed}), requires_safety_checker=False)
        return UNetBackbone(pipeline, name="smooth")

    return make


def test_the_way_up_to_noise_alone_leads_back_down(smooth: Tiny) -> None:
    """There the noise that the network sees is the latent, wrong or right."""
    backbone = smooth(prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True)
    levels, told = backbone.levels(6), backbone.describe(["a cat", ""])
    assert levels[0].alpha == 0
    assert round_trip(backbone, told, levels, iterations=12) < 1e-3


def round_trip(backbone: Any, told: Condition, levels: Sequence[Level], **settings: Any) -> float:
    """How far the way up and back down ends from where it began, for two pictures."""
    latent = begin(1, 2)
    trajectory = invert(backbone, latent, levels, told, **settings)
    *_, last = sample(backbone, told, trajectory.at(levels[0]), levels)
    return float((last.latent - latent).norm() / latent.norm())


@pytest.mark.parametrize(
    ("kind", "spacing", "steps"),
    [
        ("epsilon", "leading", 8),
        ("epsilon", "trailing", 9),
        ("v_prediction", "leading", 9),
        ("v_prediction", "trailing", 8),
    ],
)
def test_the_way_up_leads_back_down(smooth: Tiny, kind: str, spacing: str, steps: int) -> None:
    backbone = smooth(prediction_type=kind, timestep_spacing=spacing)
    told = backbone.describe(["a cat", ""])
    assert round_trip(backbone, told, backbone.levels(steps), iterations=6) < 1e-3


@pytest.fixture(scope="module")
def drawn() -> tuple[Backbone, Tensor]:
    """The embedded model, and latents of two pictures of it."""
    backbone = load_backbone("icons-64", device="cpu")
    images = [
        made.image for name in ("apple", "car") for made in generate(f"a {name}", backbone=backbone, seed=3, steps=12)
    ]
    return backbone, backbone.encode(to_tensor(images))


@pytest.mark.parametrize(("steps", "least"), [(20, 37), (50, 44)])
def test_one_pass_per_step_leads_the_embedded_model_back(
    drawn: tuple[Backbone, Tensor], steps: int, least: float
) -> None:
    """In dB, against what the autoencoder makes of the pictures: what `translate` inverts with."""
    backbone, latent = drawn
    levels, told = backbone.levels(steps, "ddim"), backbone.describe(["", ""])
    trajectory = invert(backbone, latent, levels, told)
    assert trajectory.evaluations == steps
    *_, last = sample(backbone, told, trajectory.at(levels[0]), levels)
    with torch.no_grad():
        again, kept = (backbone.decode(one).clamp(-1, 1) for one in (last.latent, latent))
    error = (again - kept).square().flatten(1).mean(dim=1) / 4
    assert float((-10 * error.log10()).min()) > least


class Gaussian(Toy):
    """The perfect network for pictures whose pixels are normal with deviations from 0.2 to 1.5."""

    def predict(self, latent: Tensor, level: Level, condition: Condition) -> Prediction:
        del condition
        deviation = torch.linspace(0.2, 1.5, latent[0].numel()).reshape(SHAPE)
        variance = (level.alpha * deviation) ** 2 + level.sigma**2
        return Prediction.read("epsilon", level.sigma / variance * latent, latent, level)


@pytest.mark.parametrize("steps", [15, 50])
def test_one_iteration_errs_less_than_the_published_inversion(steps: int) -> None:
    """Which takes the noise at the latent at hand, as if that were as noisy as the next one."""
    perfect, levels, latent = Gaussian(), cosine(steps), begin(1, 2)
    told = Condition(torch.zeros(2, 2, 3))
    risen = latent
    for now, to in pairwise(reversed(levels)):
        epsilon = perfect.predict(risen, to, told).noise
        risen = to.alpha * (risen - now.sigma * epsilon) / now.alpha + to.sigma * epsilon
    *_, last = sample(perfect, told, risen, levels)
    published = float((last.latent - latent).norm() / latent.norm())
    assert round_trip(perfect, told, levels) < 0.5 * published
    assert round_trip(perfect, told, levels, iterations=30) < 1e-4


def test_a_network_that_always_sees_the_same_noise_is_inverted_exactly() -> None:
    eps, clean = begin(5), begin(6)

    class Certain(Toy):
        def predict(self, latent: Tensor, level: Level, condition: Condition) -> Prediction:
            del condition
            return Prediction.read("epsilon", eps, latent, level)

    levels = cosine(7)
    latent = levels[-1].alpha * clean + levels[-1].sigma * eps
    trajectory = invert(Certain(), latent, levels, TOLD)
    for level in levels:
        assert torch.allclose(trajectory.at(level), level.alpha * clean + level.sigma * eps, atol=1e-5)


def test_a_walk_up_is_lazy_and_counts_its_passes() -> None:
    toy, levels = Toy(), cosine(6)
    walk = ascend(toy, begin(1), levels, TOLD, iterations=2)
    assert toy.begun == 0
    first = next(walk)
    assert toy.begun == 2
    assert first.level == levels[-2]
    assert first.evaluations == Evaluations(2, 0)
    rest = list(walk)
    assert [moment.level for moment in rest] == levels[-3::-1]
    assert sum(rest[-1].evaluations) == toy.begun == 12
    assert invert(toy, begin(1), levels, TOLD).evaluations == 6


def test_a_walk_up_builds_no_graph(tiny: Tiny) -> None:
    first = next(ascend(tiny(), begin(1), tiny().levels(3), tiny().describe(["a cat"])))
    assert first.latent.grad_fn is None


@pytest.mark.parametrize("iterations", [0, -1])
def test_at_least_one_iteration(iterations: int) -> None:
    with pytest.raises(UsageError) as caught:
        invert(Toy(), begin(1), cosine(3), TOLD, iterations=iterations)
    assert caught.value.field == "iterations"


# --------------------------------------------------------------------------------------------------------- sources


def test_a_recorded_walk_is_a_source() -> None:
    toy, levels, latent = Toy(), cosine(4), begin(1)
    moments = list(sample(toy, TOLD, latent, levels, negative=TOLD, scale=2.0))
    trajectory = Trajectory(latent, levels[0], moments)
    assert torch.equal(trajectory.at(levels[0]), latent)
    for moment in moments:
        assert torch.equal(trajectory.at(moment.level), moment.latent)
    assert trajectory.evaluations == 8
    with pytest.raises(UsageError, match="not recorded") as caught:
        trajectory.at(cosine(5)[1])
    assert "same number of steps" in caught.value.hint


def test_borrowing_from_ones_own_walk_changes_nothing() -> None:
    toy, levels, latent = Toy(), cosine(4), begin(1)
    walk = list(sample(toy, TOLD, latent, levels))
    injection = PlugAndPlay(toy, Trajectory(latent, levels[0], walk), TOLD, 1.0, 1.0, places=PLACES)
    *_, again = sample(toy, TOLD, latent, levels, injections=[injection])
    assert torch.equal(again.latent, walk[-1].latent)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_noised_picture_is_a_source(fresh: bool) -> None:
    clean, (noisy, _, almost) = begin(1, 2), cosine(2)
    source = Noised(clean, generators([7, 8]), fresh=fresh)
    each = generators([7, 8])
    first = noise(each, SHAPE)
    second = noise(each, SHAPE) if fresh else first
    assert torch.allclose(source.at(noisy), noisy.alpha * clean + noisy.sigma * first)
    begun = source.at(noisy)
    assert torch.allclose(source.at(almost), almost.alpha * clean + almost.sigma * second)
    assert torch.equal(source.at(noisy), begun), "what the next batch sees is what this one saw"


def test_noise_needs_one_generator_per_row() -> None:
    with pytest.raises(UsageError, match="1 generators for 2 pictures"):
        Noised(begin(1, 2), generators([7]))


# ------------------------------------------------------------------------------------------------------------ cost


def edit(toy: Toy, levels: Sequence[Level], source: Any, latent: Tensor, **settings: Any) -> tuple[int, Evaluations]:
    injection = PlugAndPlay(toy, source, TOLD, features_until=0.8, attention_until=0.5, places=PLACES)
    arguments: dict[str, Any] = {"negative": TOLD, "scale": 7.5} | settings
    *_, last = sample(toy, TOLD, latent, levels, injections=[injection], **arguments)
    return injection.evaluations, last.evaluations


def test_an_inversion_edit_takes_190_passes() -> None:
    toy, levels = Toy(), cosine(50)
    trajectory = invert(toy, begin(1), levels, TOLD)
    assert trajectory.evaluations == toy.begun == 50
    source, walk = edit(toy, levels, trajectory, trajectory.at(levels[0]))
    assert (source, walk) == (40, Evaluations(50, 50))
    assert toy.begun == 190
    assert toy.ended == 150  # a source pass ends with what is borrowed


def test_an_edit_without_inversion_takes_140_passes() -> None:
    toy, levels = Toy(), cosine(50)
    source, walk = edit(toy, levels, Noised(begin(1), generators([7])), begin(2))
    assert (source, walk) == (40, Evaluations(50, 50))
    assert toy.begun == 140


def test_a_negative_prompt_takes_three_passes_per_step_beside_the_source() -> None:
    toy, levels = Toy(), cosine(10)
    other = Condition(torch.ones(1, 2, 3))
    mixture = NegativePrompt(TOLD, other, alpha=0.75)
    assert edit(toy, levels, Noised(begin(1), generators([7])), begin(2), negative=mixture) == (8, Evaluations(10, 20))
    assert toy.begun == 38


# ------------------------------------------------------------------------------------------------- self-recurrence


def test_recurrence_takes_steps_again_from_fresh_noise() -> None:
    toy, levels = Toy(), cosine(4)
    ours = list(recur(toy, TOLD, begin(1), levels, generators=generators([3]), window=(0.25, 0.75), times=2))
    (generator,) = generators([3])
    latent = begin(1)
    for now, to in pairwise(levels):
        repeats = 2 if 0.25 <= now.progress < 0.75 else 0
        for repeat in range(1 + repeats):
            if (
                repeat
            ):  # variance-preserving: what is kept of the latent and what is fresh have squares that add up to 1
                keep = now.alpha / to.alpha
                latent = keep * latent + (1 - keep**2) ** 0.5 * torch.randn(1, *SHAPE, generator=generator)
            prediction = toy.predict(latent, now, TOLD)
            latent = DDIM()(latent, prediction, now, to, previous=None, noise=lambda: latent)  # noqa: B023
    assert [moment.level for moment in ours] == levels[1:]
    assert torch.allclose(ours[-1].latent, latent, atol=1e-5)
    assert ours[-1].evaluations == Evaluations(4 + 2 * 2, 0)


def test_repeats_run_without_injections() -> None:
    toy, levels = Toy(), cosine(4)
    injection = PlugAndPlay(toy, Noised(begin(1), generators([7])), TOLD, 1.0, 1.0, places=PLACES)
    walk = recur(
        toy, TOLD, begin(2), levels, generators=generators([3]), window=(0.0, 1.0), times=3, injections=[injection]
    )
    *_, last = walk
    assert injection.evaluations == 4
    assert last.evaluations == Evaluations(16, 0)


@pytest.mark.parametrize(("every", "expected"), [(1, [0.0, 0.25, 0.5, 0.75]), (2, [0.0, 0.5])])
def test_a_guide_pulls_in_recurrence_where_it_does_without_and_at_no_repeat(every: int, expected: list[float]) -> None:
    toy, levels = Toy(), cosine(4)
    seen: list[float] = []

    def loss(step: Step) -> Tensor:
        seen.append(step.level.progress)
        return step.latent.square().flatten(1).mean(dim=1)

    list(recur(toy, TOLD, begin(1), levels, generators=generators([3]), times=1, guides=[Pull(loss, every=every)]))
    assert seen == expected


def test_by_default_steps_of_the_first_half_are_taken_again_twice() -> None:
    *_, last = recur(Toy(), TOLD, begin(1), cosine(10), generators=generators([3]))
    assert last.evaluations == Evaluations(10 + 2 * 4, 0)


def test_no_recurrence_is_sample(tiny: Tiny) -> None:
    backbone, levels = tiny(), tiny().levels(2)
    told, negative = (backbone.describe([prompt]) for prompt in ("a cat", "a dog"))
    settings: dict[str, Any] = {"negative": negative, "scale": 3.0, "negative_time": 0.3, "solver": DDIM(eta=1.0)}
    *_, plain = sample(backbone, told, begin(1), levels, generators=generators([3]), **settings)
    for none in ({"times": 0}, {"window": (0.5, 0.5)}):
        *_, same = recur(backbone, told, begin(1), levels, generators=generators([3]), **none, **settings)
        assert torch.equal(same.latent, plain.latent)
        assert same.evaluations == plain.evaluations


def test_there_is_a_generator_for_each_picture_and_a_prompt() -> None:
    for count in (0, 1, 3):
        with pytest.raises(UsageError, match=f"{count} generators for 2 pictures"):
            next(recur(Toy(), TOLD, begin(1, 2), cosine(3), generators=generators(range(count))))
    with pytest.raises(UsageError, match="1 prompts for 2 pictures"):
        next(ascend(Toy(), begin(1, 2), cosine(3), TOLD))


@pytest.mark.parametrize(("settings", "field"), [({"times": -1}, "times"), ({"window": (0.5, 0.4)}, "window")])
def test_impossible_recurrence_is_refused(settings: Any, field: str) -> None:
    with pytest.raises(UsageError) as caught:
        next(recur(Toy(), TOLD, begin(1), cosine(3), generators=generators([3]), **settings))
    assert caught.value.field == field
