from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sketchguide.backbones.unet import UNetBackbone
from sketchguide.controls.base import Step
from sketchguide.controls.features import NegativePrompt
from sketchguide.controls.strengths import Proportional
from sketchguide.errors import GuidanceError, SketchguideWarning, UsageError
from sketchguide.levels import Level, Prediction, Window, check_window, is_open
from sketchguide.sampling import Moment, pulling_at, sample
from sketchguide.seeds import generators, noise
from sketchguide.solvers import DDIM
from support import Tiny, small_stable_diffusion

NETWORK = "small"
KEY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k"


@dataclass
class Watch:
    """A guide that keeps what it sees, and pulls the latent to zero."""

    reads: tuple[str, ...] = (KEY,)
    window: Window = (0.0, 1.0)
    strength: Any = field(default_factory=lambda: Proportional(0.5))
    every: int = 1
    seen: list[Step] = field(default_factory=list)

    def loss(self, step: Step) -> Tensor:
        self.seen.append(step)
        return step.latent.square().flatten(1).mean(dim=1)


def begin(count: int = 1, grid: tuple[int, int] = (16, 16)) -> Tensor:
    return noise(generators(range(count)), (4, *grid))


def walk(backbone: UNetBackbone, latent: Tensor, *, steps: int = 3, **settings: Any) -> list[Moment]:
    condition = backbone.describe(["a cat"] * len(latent))
    return list(sample(backbone, condition, latent, backbone.levels(steps), **settings))


def test_every_step_yields_where_the_walk_stands(tiny: Tiny) -> None:
    latent = begin(2)
    kept, levels = latent.clone(), tiny().levels(3)
    moments = walk(tiny(), latent)
    assert [moment.level for moment in moments] == levels[1:]
    for moment in moments:
        assert moment.latent.shape == moment.clean.shape == (2, 4, 16, 16)
        assert moment.latent.dtype == torch.float32
    assert torch.equal(latent, kept)  # the caller's latent is not written to


def test_the_clean_image_seen_is_the_one_the_step_is_made_of(tiny: Tiny) -> None:
    latent, (now, to) = begin(), next(pairwise(tiny().levels(3)))
    first = walk(tiny(), latent)[0]
    rest = (latent - now.alpha * first.clean) / now.sigma
    assert torch.allclose(first.latent, to.alpha * first.clean + to.sigma * rest, atol=1e-4)


def test_a_walk_is_lazy(tiny: Tiny) -> None:
    calls: list[Any] = []
    with tiny().network.register_forward_hook(lambda *call: calls.append(call[0])):
        steps = sample(tiny(), tiny().describe(["a cat"]), begin(), tiny().levels(50))
        assert not calls
        next(steps)
        next(steps)
        assert len(calls) == 2
        steps.close()


def test_not_square(tiny: Tiny) -> None:
    watch = Watch()
    (*_, last) = walk(tiny(), begin(2, (16, 24)), guides=[watch])
    assert last.latent.shape == (2, 4, 16, 24)
    assert watch.seen[0].features[KEY].shape == (2, 2 * 3, 32)


def test_a_guide_sees_the_conditional_branch_of_this_step(tiny: Tiny) -> None:
    watch, latent = Watch(), begin(2)
    negative = tiny().describe(["a dog"] * 2)
    walk(tiny(), latent, guides=[watch], negative=negative, scale=7.5)
    levels = tiny().levels(3)
    assert [step.level for step in watch.seen] == levels[:3]
    first = watch.seen[0]
    assert torch.equal(first.latent, latent)
    assert len(first.features[KEY]) == 2
    with torch.no_grad():
        conditional = tiny().predict(latent, levels[0], tiny().describe(["a cat"] * 2))
    assert torch.allclose(first.prediction.noise, conditional.noise, atol=1e-5)


def test_guidance_of_scale_one_costs_no_second_pass(tiny: Tiny) -> None:
    calls: list[Any] = []
    with tiny().network.register_forward_hook(lambda *call: calls.append(call[0])):
        plain = walk(tiny(), begin())[-1].latent
        assert len(calls) == 3
        one = walk(tiny(), begin(), negative=tiny().describe(["a dog"]), scale=1.0)[-1].latent
    assert len(calls) == 6
    assert torch.equal(one, plain)


def times_told(tiny: Tiny, **settings: Any) -> list[float]:
    told: list[float] = []
    negative = tiny().describe([""])
    hook = tiny().network.register_forward_pre_hook(
        lambda _, args, named: told.append(float([*args, *named.values()][1].flatten()[0])), with_kwargs=True
    )
    with hook:
        walk(tiny(), begin(), negative=negative, scale=3.0, **settings)
    return told


def test_the_negative_pass_is_told_of_more_noise_the_other_one_of_what_there_is(tiny: Tiny) -> None:
    right = [level.time for level in tiny().levels(3)[:-1]]
    for later in (0.0, 0.1, 2.0):
        told = times_told(tiny, negative_time=later)
        assert told[::2] == pytest.approx(right)
        assert told[1::2] == pytest.approx([min(999.0, (1 + later) * time) for time in right])


def test_what_the_negative_pass_says_of_more_noise_is_read_at_the_noise_there_is(tiny: Tiny) -> None:
    """The walk is that of a network whose negative pass is given another time and nothing else."""
    latent, levels = begin(), tiny().levels(3)[1:3]
    cat, none = tiny().describe(["a cat"]), tiny().describe([""])
    (moment,) = sample(tiny(), cat, latent, levels, negative=none, scale=3.0, negative_time=0.1)
    with torch.no_grad():
        told = tiny().run(latent, torch.tensor([1.1 * levels[0].time]), none)
        away = Prediction.read(tiny().prediction_kind, told, latent, levels[0])
        wanted = tiny().predict(latent, levels[0], cat).towards(away, 3.0)
    assert torch.allclose(moment.clean, wanted.clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("told", [-0.1, float("inf"), float("nan")])
def test_a_time_that_cannot_be_told_is_refused(tiny: Tiny, told: float) -> None:
    with pytest.raises(UsageError, match="negative_time is") as caught:
        walk(tiny(), begin(), negative=tiny().describe([""]), scale=3.0, negative_time=told)
    assert caught.value.field == "negative_time"


def test_what_would_do_nothing_beside_the_negative_prompt_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="not how far to go from it") as caught:
        walk(tiny(), begin(), negative=tiny().describe(["a dog"]))
    assert caught.value.field == "scale"
    with pytest.raises(UsageError, match=r"negative_time is 0\.3, but there is no negative prompt") as caught:
        walk(tiny(), begin(), negative_time=0.3)
    assert caught.value.field == "negative"


def test_a_pull_is_a_share_of_the_step(tiny: Tiny) -> None:
    """|guided - plain| = beta * |step|, for each image by itself (Voynov et al. 2022, eq. 4)."""
    latent = begin(2) * torch.tensor([1.0, 3.0])[:, None, None, None]
    plain = walk(tiny(), latent)[0].latent
    guided = walk(tiny(), latent, guides=[Watch(strength=Proportional([0.5, 2.0]))])[0].latent
    shares = (guided - plain).flatten(1).norm(dim=1) / (plain - latent).flatten(1).norm(dim=1)
    assert shares.tolist() == pytest.approx([0.5, 2.0], rel=1e-4)
    pull = (guided - plain).flatten(1)
    assert torch.nn.functional.cosine_similarity(pull, -latent.flatten(1)).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_a_gradient_that_is_not_finite_names_its_guide(tiny: Tiny) -> None:
    class Broken(Watch):
        def loss(self, step: Step) -> Tensor:
            return super().loss(step) / 0

    with pytest.raises(GuidanceError, match="Broken") as caught:
        walk(tiny(), begin(), guides=[Broken()])
    assert "divides by zero" in caught.value.hint


def test_a_guide_whose_features_are_detached_is_refused(tiny: Tiny) -> None:
    class Detached(Watch):
        def loss(self, step: Step) -> Tensor:
            return step.features[KEY].detach().flatten(1).mean(dim=1)

    with pytest.raises(GuidanceError, match="Detached"):
        walk(tiny(), begin(), guides=[Detached()])


def test_a_guide_whose_loss_depends_on_something_else_is_refused(tiny: Tiny) -> None:
    weight = torch.ones(1, requires_grad=True)

    class Elsewhere(Watch):
        def loss(self, step: Step) -> Tensor:
            return step.latent.detach().flatten(1).mean(dim=1) * weight

    with pytest.raises(GuidanceError, match="Elsewhere"):
        walk(tiny(), begin(), guides=[Elsewhere()])


def test_where_the_gradient_ends_inside_the_network_is_named() -> None:
    backbone = UNetBackbone(small_stable_diffusion())
    path = KEY.removesuffix(".to_k")
    attention = backbone.network.get_submodule(path)
    forward = attention.forward
    attention.forward = lambda *given, **named: forward(*given, **named).detach()  # as a kernel for inference does
    with pytest.raises(UsageError, match=f"ends in {path} \\(Attention\\)") as caught:
        walk(backbone, begin(), guides=[Watch()])
    assert "Quantise weights alone" in caught.value.hint
    walk(backbone, begin())  # nothing is pulled


def test_an_operation_without_a_gradient_is_told_of() -> None:
    @torch.library.custom_op("sketchguide_tests::doubled", mutates_args=())
    def doubled(x: Tensor) -> Tensor:
        return x * 2

    backbone = UNetBackbone(small_stable_diffusion())
    last = backbone.network.conv_out
    forward = last.forward
    last.forward = lambda x: doubled(forward(x))

    class OfClean(Watch):
        def loss(self, step: Step) -> Tensor:
            return step.prediction.clean.square().flatten(1).mean(dim=1)

    with pytest.raises(UsageError, match=r"No gradient gets through the network, or .* pulls: .*autograd formula"):
        walk(backbone, begin(), guides=[OfClean()])


def test_a_pull_in_inference_mode_is_refused_by_its_name(tiny: Tiny) -> None:
    with torch.inference_mode(), pytest.raises(UsageError, match="inference_mode"):
        walk(tiny(), begin(), guides=[Watch()])
    with torch.inference_mode():
        walk(tiny(), begin())


def test_a_latent_made_in_inference_mode_is_pulled_as_any(tiny: Tiny) -> None:
    with torch.inference_mode():
        latent = begin()
    *_, last = walk(tiny(), latent, guides=[Watch()])
    *_, same = walk(tiny(), begin(), guides=[Watch()])
    assert torch.equal(last.latent, same.latent)


def test_conditions_are_one_for_each_picture(tiny: Tiny) -> None:
    one = tiny().describe(["a cat"])
    levels = tiny().levels(2)
    for settings in ({}, {"negative": tiny().describe(["", ""]), "scale": 3.0}):
        with pytest.raises(UsageError, match="condition has 1 prompts for 2") as caught:
            next(sample(tiny(), one, begin(2), levels, **settings))
        assert caught.value.field == "condition"
    with pytest.raises(UsageError, match="negative has 2 prompts for 1"):
        next(sample(tiny(), one, begin(), levels, negative=tiny().describe(["", ""]), scale=3.0))
    with pytest.raises(UsageError, match="negative has 2 prompts for 1"):
        next(sample(tiny(), one, begin(), levels, negative=NegativePrompt(one, tiny().describe(["", ""])), scale=3.0))


def test_a_scale_that_cannot_act_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="no negative prompt"):
        walk(tiny(), begin(), scale=7.5)
    with pytest.raises(UsageError, match="finite"):
        walk(tiny(), begin(), scale=float("nan"), negative=tiny().describe([""]))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_noisy_solvers_need_one_generator_per_image(tiny: Tiny, count: int) -> None:
    with pytest.raises(UsageError, match=f"{count} generators for 2") as caught:
        walk(tiny(), begin(2), solver=DDIM(eta=1.0), generators=generators(range(count)))
    assert caught.value.field == "generators"


def test_windows_are_half_open() -> None:
    level = Level(500, 0.6, 0.8, 0.5)
    assert is_open((0.5, 1.0), level)
    assert not is_open((0.0, 0.5), level)
    assert is_open((0.0, 1.0), level._replace(progress=0.0))
    assert not is_open((0.5, 0.5), level)


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3]), (9, [0])])
def test_a_guide_pulls_at_every_so_many_th_step(tiny: Tiny, every: int, steps: list[int]) -> None:
    watch = Watch(every=every)
    walk(tiny(), begin(), steps=5, guides=[watch])
    assert [step.level for step in watch.seen] == [tiny().levels(5)[k] for k in steps]


def test_between_two_pulls_the_walk_is_a_plain_one(tiny: Tiny) -> None:
    guided = walk(tiny(), begin(), steps=3, guides=[Watch(every=2)])
    levels = tiny().levels(3)
    (again, *_) = sample(tiny(), tiny().describe(["a cat"]), guided[0].latent, levels[1:])
    assert torch.equal(guided[1].latent, again.latent)


def test_a_guide_pulls_at_noise_that_it_was_trained_on(tiny: Tiny) -> None:
    """Progress is a place among the steps; how much noise there is at it, the scheduler decides."""

    @dataclass
    class Trained(Watch):
        trained: Window = (0.0, 0.9)

    def times(steps: int, watch: Watch, **scheduler: Any) -> list[float]:
        walk(tiny(**scheduler), begin(), steps=steps, guides=[watch])
        return [step.level.time for step in watch.seen]

    spaced = {"timestep_spacing": "leading", "steps_offset": 1}
    assert times(5, Watch(), **spaced) == [801, 601, 401, 201, 1]
    assert times(5, Trained(), **spaced) == [801, 601, 401, 201]
    assert times(5, Trained(trained=(0.3, 0.9)), **spaced) == [601, 401, 201]
    trailing = tiny(timestep_spacing="trailing")
    for steps in (1, 4, 7, 10, 30, 50):
        pulls = [pulling_at(trailing.levels(steps), [kind(window=(0.0, 0.9))], trailing) for kind in (Trained, Watch)]
        trained, watch = ([len(guides) for guides in one] for one in pulls)
        assert trained == watch
        assert sum(watch) > 0


@pytest.mark.parametrize("factor", [1e-7, 1.0, 1e4])
def test_small_and_large_gradients_survive_float16(tiny: Tiny, factor: float) -> None:
    class Scaled(Watch):
        def loss(self, step: Step) -> Tensor:
            self.seen.append(step)
            return factor * step.features[KEY].float().square().flatten(1).mean(dim=1)

    half = UNetBackbone(small_stable_diffusion().to(torch.float16), name="half")
    pulls: list[Tensor] = []
    for backbone in (tiny(), half):
        plain, pulled = (walk(backbone, begin(), steps=1, guides=guides)[0].latent for guides in ([], [Scaled()]))
        pulls.append((pulled - plain).flatten())
    assert float(torch.nn.functional.cosine_similarity(*pulls, dim=0)) > 0.95


def test_small_gradients_survive_autocast_to_float16(tiny: Tiny) -> None:
    class Small(Watch):
        def loss(self, step: Step) -> Tensor:
            return 1e-7 * step.features[KEY].float().square().flatten(1).mean(dim=1)

    def pull() -> Tensor:
        plain, pulled = (walk(tiny(), begin(), steps=1, guides=guides)[0].latent for guides in ([], [Small()]))
        return (pulled - plain).flatten()

    wanted = pull()
    with torch.autocast("cpu", torch.float16):
        assert float(torch.nn.functional.cosine_similarity(pull(), wanted, dim=0)) > 0.95


def test_law_04_in_float16_the_gradient_of_a_neighbour_does_not_matter() -> None:
    @dataclass
    class Uneven(Watch):
        factors: tuple[float, ...] = ()

        def loss(self, step: Step) -> Tensor:
            return torch.tensor(self.factors) * step.features[KEY].float().square().flatten(1).mean(dim=1)

    half = UNetBackbone(small_stable_diffusion().to(torch.float16), name="half")

    def pulled(count: int, *factors: float) -> Tensor:
        return walk(half, begin(count), steps=1, guides=[Uneven(factors=factors)])[0].latent[0].flatten()

    plain, alone = walk(half, begin(), steps=1)[0].latent[0].flatten(), pulled(1, 1e-7)
    beside = pulled(2, 1e-7, 1e4)
    assert float(torch.nn.functional.cosine_similarity(alone - plain, beside - plain, dim=0)) > 0.99


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_a_latent_that_is_not_finite_is_found(tiny: Tiny, half: bool) -> None:
    backbone = UNetBackbone(small_stable_diffusion().to(torch.float16), name="half") if half else tiny()
    told = backbone.describe(["a cat"])
    told.embedding[0, 0, 0] = float("inf")
    with pytest.raises(GuidanceError, match="The latent is not finite at step 0%") as caught:
        list(sample(backbone, told, begin(), backbone.levels(3)))
    assert caught.value.field == ("dtype" if half else "")
    assert ("bfloat16" in caught.value.hint) is half


def test_a_guide_that_pulls_at_no_step_is_told_of_once_with_the_cause(tiny: Tiny) -> None:
    class Trained(Watch):
        trained: Window = (0.0, 0.01)

    for guide, told in (
        (Watch(window=(0.5, 0.6), every=3), r"of 5, none in its window, 0\.5 to 0\.6, is one of every 3\. Widen"),
        (Watch(window=(0.85, 0.95)), r"none in its window, 0\.85 to 0\.95, is one of every 1\."),
        (Trained(), r"none has such noise as it was trained for, 0 to 0\.01 of the way\. Take more steps"),
    ):
        with pytest.warns(SketchguideWarning, match=told) as caught:
            walk(tiny(), begin(), steps=5, guides=[guide, Watch()])
        assert len(caught) == 1
        assert not guide.seen


def test_a_guide_that_is_not_meant_to_pull_is_not_told_of(tiny: Tiny) -> None:
    idle = [Watch(window=(0.5, 0.5)), Watch(window=(0.0, 0.0)), Watch(strength=Proportional(0.0), window=(0.5, 0.6))]
    walk(tiny(), begin(), steps=5, guides=idle)
    late, told = Watch(window=(0.0, 0.4)), tiny().describe(["a cat"])
    list(sample(tiny(), told, begin(), tiny().levels(5)[2:], guides=[late]))  # of an edit, switched off
    assert not any(watch.seen for watch in [*idle, late])


@pytest.mark.parametrize("window", [(-0.1, 0.5), (0.6, 0.5), (0.0, 1.1), (float("nan"), 1.0), (0.0, float("nan"))])
def test_impossible_windows_are_refused(window: Window) -> None:
    with pytest.raises(UsageError) as caught:
        check_window(window)
    assert caught.value.field == "window"


def test_steps_and_levels_cannot_be_changed(tiny: Tiny) -> None:
    watch = Watch()
    walk(tiny(), begin(), steps=1, guides=[watch])
    with pytest.raises(AttributeError):
        watch.seen[0].latent = begin()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError):
        watch.seen[0].level.alpha = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    assert replace(watch.seen[0], latent=begin()) is not watch.seen[0]
