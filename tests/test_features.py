import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from sketchguide.backbones.base import Condition
from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.controls.edges import LatentGuide
from sketchguide.controls.features import DECAYS, NegativePrompt, Places, PlugAndPlay, choose_places, look
from sketchguide.errors import TapError, UsageError
from sketchguide.levels import Level, Prediction
from sketchguide.predictors import LatentPredictor
from sketchguide.sampling import Evaluations, Moment, sample
from sketchguide.seeds import generators, noise
from sketchguide.solvers import DDIM
from sketchguide.taps import TapInfo, survey, tapped
from support import Tiny, hook_count, relative

GRID = (8, 16)
STEPS = 3
FEATURE = "up_blocks.1.resnets.1.conv2"
QUERY = "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q"


@dataclass(frozen=True)
class Drift:
    """A source that is given: some latent, the same at every level up to a factor."""

    latent: Tensor

    def at(self, level: Level) -> Tensor:
        return self.latent * (1 + level.sigma)


def begin(*seeds: int) -> Tensor:
    return noise(generators(seeds), (4, *GRID))


@pytest.fixture(scope="module")
def backbone(tiny: Tiny) -> UNetBackbone:
    surveyed = tiny()
    assert surveyed.taps  # found by one pass, once; the tests count passes
    return surveyed


def borrow(backbone: UNetBackbone, *, rows: int = 1, **settings: Any) -> PlugAndPlay:
    told = backbone.describe(["a cat"] * rows)
    return PlugAndPlay(backbone, Drift(begin(*range(9, 9 + rows))), told, **({"features_until": 1.0} | settings))


def walk(backbone: UNetBackbone, *injections: PlugAndPlay, rows: int = 1, **settings: Any) -> Moment:
    defaults: dict[str, Any] = {"negative": backbone.describe(["dog"] * rows), "scale": 5.0}
    levels, told = backbone.levels(STEPS), backbone.describe(["two birds"] * rows)
    *_, last = sample(backbone, told, begin(*range(rows)), levels, injections=injections, **(defaults | settings))
    return last


# ---------------------------------------------------------------------------------------------------------- places


def attention(*blocks: str, depth: int = 1) -> tuple[str, ...]:
    return tuple(
        f"{block}.transformer_blocks.{i}.attn1.to_{which}" for block in blocks for i in range(depth) for which in "qk"
    )


def table(network: nn.Module, *inputs: Any, channels: int = 4) -> list[TapInfo]:
    with torch.no_grad():
        return survey(network, lambda: network(torch.zeros(1, channels, 16, 24), 5, *inputs), grid=(16, 24))


def test_places_in_stable_diffusion_are_the_published_ones(backbone: UNetBackbone) -> None:
    assert choose_places(backbone.taps) == Places(
        features=("up_blocks.1.resnets.1.conv2",),
        attention=attention(
            "up_blocks.1.attentions.1",
            "up_blocks.1.attentions.2",
            "up_blocks.2.attentions.0",
            "up_blocks.2.attentions.1",
            "up_blocks.2.attentions.2",
            "up_blocks.3.attentions.0",
            "up_blocks.3.attentions.1",
            "up_blocks.3.attentions.2",
        ),
    )


def conditional_unet(**settings: Any) -> UNet2DConditionModel:
    three: dict[str, Any] = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 8, 8),
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "cross_attention_dim": 4,
        "sample_size": 16,
    }
    return UNet2DConditionModel(**(three | settings))


def test_places_in_sdxl_are_those_of_ctrl_x() -> None:
    network = conditional_unet(transformer_layers_per_block=(1, 2, 3))
    blocks = [f"up_blocks.0.attentions.{i}" for i in range(3)]
    assert choose_places(table(network, torch.zeros(1, 7, 4))) == Places(
        ("up_blocks.0.resnets.0",), attention(*blocks, depth=3)
    )


def test_places_in_a_small_unet_follow_the_same_plan() -> None:
    network = conditional_unet(layers_per_block=1)
    assert choose_places(table(network, torch.zeros(1, 7, 4))) == Places(
        ("up_blocks.1.resnets.0.conv2",), attention("up_blocks.1.attentions.0", "up_blocks.1.attentions.1")
    )


def test_a_small_unet_of_sdxls_form_is_not_taken_for_it() -> None:
    network = conditional_unet(layers_per_block=2, transformer_layers_per_block=1)
    places = choose_places(table(network, torch.zeros(1, 7, 4)))
    assert places.features == ("up_blocks.1.resnets.0.conv2",)
    assert places.attention == attention(*(f"up_blocks.1.attentions.{i}" for i in range(3)))


def test_places_in_a_pixel_unet_follow_the_same_plan() -> None:
    network = UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        attention_head_dim=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    assert choose_places(table(network, channels=3)) == Places(
        ("up_blocks.1.resnets.0.conv2",),
        tuple(f"up_blocks.1.attentions.{i}.to_{which}" for i in range(2) for which in "qk"),
    )


@pytest.mark.parametrize(
    "paths",
    [
        ["blocks.0.norm", "blocks.0", "blocks.1.attn1.to_q", "blocks.1"],
        ["up_blocks.0.resnets.0.conv2", "blocks.0", "blocks.1"],  # residual blocks without any self-attention
    ],
)
def test_an_unknown_network_is_refused_with_the_taps_it_has(paths: Sequence[str]) -> None:
    with pytest.raises(TapError) as caught:
        choose_places([TapInfo(path, 8, 1) for path in paths])
    assert "blocks.0, blocks.1" in caught.value.hint
    assert "to_q" not in caught.value.hint  # only the outermost
    assert "places" in caught.value.hint


def test_fused_projections_are_refused_with_the_way_to_unfuse_them() -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.unet.fuse_qkv_projections()
    with pytest.raises(TapError, match="fused") as caught:
        borrow(UNetBackbone(pipeline, name="fused"))
    assert "`unfuse_qkv_projections()` on the pipeline's network" in caught.value.hint
    pipeline.unet.unfuse_qkv_projections()
    borrow(UNetBackbone(pipeline, name="unfused"))


def test_projections_fused_after_the_survey_are_noticed_at_the_first_step() -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline, name="fused")
    injection = borrow(backbone)
    pipeline.unet.fuse_qkv_projections()
    with pytest.raises(TapError, match=r"attn1\.to_q") as caught:
        walk(backbone, injection)
    assert "unfuse_qkv_projections" in caught.value.hint
    assert hook_count(backbone.network) == 0


# ------------------------------------------------------------------------------------------------------- injection


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_injection_equals_a_side_by_side_batch_of_three(tiny: Tiny, kind: str) -> None:
    """Law 9: source, negative and conditional rows in one batch, the source's row copied over the other two."""
    backbone, scale = tiny(prediction_type=kind), 7.5
    levels = backbone.levels(5)
    source, latent = Drift(begin(9)), begin(0)
    told = [backbone.describe([prompt]).embedding for prompt in ("a cat", "", "two birds")]
    places = choose_places(backbone.taps)

    def copy_first_row(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        del module, args
        return output[:1].expand_as(output)

    for now, to in pairwise(levels):
        open_places = [
            *(places.features if now.progress < 0.8 else ()),
            *(places.attention if now.progress < 0.4 else ()),
        ]
        modules = [backbone.network.get_submodule(path) for path in open_places]
        handles = [module.register_forward_hook(copy_first_row) for module in modules]
        with torch.no_grad():
            three = torch.cat([source.at(now), latent, latent])
            output = backbone.run(three, torch.tensor([now.time]), Condition(torch.cat(told)))
        for handle in handles:
            handle.remove()
        _, negative, conditional = output.split(1)
        output = negative + scale * (conditional - negative)
        epsilon = output if kind == "epsilon" else now.sigma * latent + now.alpha * output
        latent = to.alpha * (latent - now.sigma * epsilon) / now.alpha + to.sigma * epsilon

    injection = PlugAndPlay(backbone, source, Condition(told[0]), features_until=0.8, attention_until=0.4)
    walked = [
        sample(
            backbone,
            Condition(told[2]),
            begin(0),
            levels,
            negative=Condition(told[1]),
            scale=scale,
            injections=injections,
        )
        for injections in ([injection], [])
    ]
    ours, plain = [list(steps)[-1].latent for steps in walked]
    assert relative(ours, latent) < 1e-5
    assert relative(plain, latent) > 1e-2
    assert injection.evaluations == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"strength": 0.0},
        {"features_until": 0.0, "attention_until": 0.0},
        {"mask": torch.zeros(1, 1, *GRID)},
    ],
    ids=["strength", "window", "mask"],
)
def test_an_injection_of_nothing_changes_no_bit_and_costs_no_pass(
    backbone: UNetBackbone, settings: Mapping[str, Any]
) -> None:
    injection = borrow(backbone, **settings)
    assert torch.equal(walk(backbone, injection).latent, walk(backbone).latent)
    assert injection.evaluations == 0


def test_a_mask_of_ones_is_no_mask(backbone: UNetBackbone) -> None:
    full = walk(backbone, borrow(backbone)).latent
    assert torch.equal(walk(backbone, borrow(backbone, mask=torch.ones(1, 1, *GRID))).latent, full)
    assert relative(full, walk(backbone).latent) > 1e-3


@pytest.mark.parametrize(("path", "stride"), [(FEATURE, 4), (QUERY, 4), (QUERY.replace("_blocks.1", "_blocks.3"), 1)])
def test_what_is_seen_is_blended_by_mask_and_strength(backbone: UNetBackbone, path: str, stride: int) -> None:
    mask = torch.zeros(1, 1, *GRID)
    mask[..., :4, 4:8] = 1.0
    mask[..., 4:, 12:] = 0.5
    injection = borrow(backbone, mask=mask, strength=0.5)
    level = backbone.levels(STEPS)[0]
    theirs = look(backbone, injection.source.at(level), level, injection.condition, [path])[path]
    own = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(2))
    blended = injection.rewrites(level)[path](own)
    grid = (GRID[0] // stride, GRID[1] // stride)

    def pictures(value: Tensor) -> Tensor:
        return value if value.ndim == 4 else value.transpose(1, 2).reshape(1, -1, *grid)

    shares = torch.zeros(1, 1, *grid)
    shares[..., : 4 // stride, 4 // stride : 8 // stride] = 0.5
    shares[..., 4 // stride :, 12 // stride :] = 0.25
    expected = pictures(own) + shares * (pictures(theirs) - pictures(own))
    assert torch.allclose(pictures(blended), expected, atol=1e-5)
    outside = (shares == 0).expand_as(expected)
    assert torch.equal(pictures(blended)[outside], pictures(own)[outside])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_full_share_is_exact_in_half_precision(backbone: UNetBackbone, dtype: torch.dtype) -> None:
    rewrite = borrow(backbone).rewrites(backbone.levels(STEPS)[0])[FEATURE]
    theirs: Tensor = rewrite(torch.zeros(2, 32, 2, 4))
    own = torch.full((2, 32, 2, 4), 1000.0, dtype=dtype)
    assert torch.equal(rewrite.func(theirs[:1].to(dtype), 0, GRID, own), theirs.to(dtype))  # pyright: ignore


def test_an_injection_on_the_conditional_branch_leaves_the_negative_pass_alone(backbone: UNetBackbone) -> None:
    latent, (now, to) = begin(0), next(pairwise(backbone.levels(1)))
    injection = borrow(backbone, branches="conditional")
    with torch.no_grad():
        negative = backbone.predict(latent, now, backbone.describe(["dog"]))
        with tapped(backbone.network, (), injection.rewrites(now)):
            conditional = backbone.predict(latent, now, backbone.describe(["two birds"]))
    expected = DDIM()(latent, conditional.towards(negative, 10.0), now, to, previous=None, noise=lambda: latent)

    def step(injection: PlugAndPlay) -> Tensor:
        told = backbone.describe(["two birds"]), latent, [now, to]
        return next(
            sample(backbone, *told, negative=backbone.describe(["dog"]), scale=10.0, injections=[injection])
        ).latent

    assert torch.equal(step(injection), expected)
    assert relative(step(borrow(backbone)), expected) > 1e-3


def test_pictures_share_one_source_or_have_one_each(backbone: UNetBackbone) -> None:
    def alone(row: int, source: int) -> Tensor:
        injection = PlugAndPlay(backbone, Drift(begin(source)), backbone.describe(["a cat"]))
        told = backbone.describe(["two birds"])
        *_, last = sample(backbone, told, begin(row), backbone.levels(STEPS), injections=[injection])
        return last.latent

    def together(*sources: int) -> Tensor:
        told = backbone.describe(["a cat"] * len(sources))
        injection = PlugAndPlay(backbone, Drift(begin(*sources)), told)
        return walk(backbone, injection, rows=2, negative=None, scale=1.0).latent

    assert relative(together(9), torch.cat([alone(0, 9), alone(1, 9)])) < 1e-4
    assert relative(together(9, 10), torch.cat([alone(0, 9), alone(1, 10)])) < 1e-4
    assert relative(together(9, 10), together(9)) > 1e-3


def test_features_and_gradients_work_together(backbone: UNetBackbone, predictor: LatentPredictor) -> None:
    guide = LatentGuide(predictor, begin(5))
    both = walk(backbone, borrow(backbone), guides=[guide])
    assert both.latent.isfinite().all()
    assert relative(both.latent, walk(backbone, borrow(backbone)).latent) > 1e-3
    assert relative(both.latent, walk(backbone, guides=[guide]).latent) > 1e-3
    assert both.evaluations == Evaluations(STEPS, STEPS)


# ------------------------------------------------------------------------------------------------- the source pass


def test_a_pass_that_ends_early_shows_what_a_full_one_shows(backbone: UNetBackbone) -> None:
    places, level = choose_places(backbone.taps), backbone.levels(STEPS)[0]
    paths = [*places.features, *places.attention]
    latent, told = begin(9), backbone.describe(["a cat"])
    with torch.no_grad(), tapped(backbone.network, paths) as full:
        backbone.predict(latent, level, told)
    late: list[Any] = []
    with backbone.network.conv_out.register_forward_hook(lambda *call: late.append(call[0])):
        early = look(backbone, latent, level, told, paths)
        assert not late
    assert early.keys() == set(paths)
    for path in paths:
        assert torch.equal(early[path], full[path])
        assert early[path].grad_fn is None
    assert hook_count(backbone.network) == 0


def test_a_pass_ends_at_the_last_place_still_open(backbone: UNetBackbone) -> None:
    reached: list[str] = []
    spies = [
        backbone.network.get_submodule(path).register_forward_hook(lambda *_, path=path: reached.append(path))
        for path in (FEATURE, QUERY)
    ]
    injection = borrow(backbone, attention_until=0.5)
    first, _, last, _ = backbone.levels(STEPS)
    injection.rewrites(first)
    assert reached == [FEATURE, QUERY]
    injection.rewrites(last)
    assert reached == [FEATURE, QUERY, FEATURE]
    for spy in spies:
        spy.remove()


def test_what_is_kept_serves_a_second_walk_without_a_pass(backbone: UNetBackbone) -> None:
    kept = borrow(backbone, keep=True)
    first, again = walk(backbone, kept), walk(backbone, kept)
    assert kept.evaluations == STEPS
    assert torch.equal(first.latent, again.latent)
    in_step = borrow(backbone)
    assert torch.equal(walk(backbone, in_step).latent, first.latent)
    assert not in_step.kept  # nothing outlives its step


def test_what_there_is_no_room_for_is_looked_at_again(backbone: UNetBackbone) -> None:
    whole = borrow(backbone, keep=True)
    wanted = walk(backbone, whole)
    (first, *_) = whole.kept.values()
    of_one = sum(rewrite.args[0].nbytes for rewrite in first.values())  # pyright: ignore
    scarce = borrow(backbone, keep=True)
    scarce._room = of_one + 1
    for passes in (STEPS, 2 * STEPS - 1):
        assert torch.equal(walk(backbone, scarce).latent, wanted.latent)
        assert scarce.evaluations == passes
    assert len(scarce.kept) == 1


def test_a_whole_trajectory_of_stable_diffusion_keeps_less_than_0_7_gib() -> None:
    """The true architecture at 512 pixels, on a device where tensors have shapes and no values."""
    with torch.device("meta"):
        network = UNet2DConditionModel(cross_attention_dim=768).eval()
        told, latent = Condition(torch.empty(1, 77, 768)), torch.empty(1, 4, 64, 64)

    class Shapes:
        def __init__(self) -> None:
            self.network = network
            self.taps = [TapInfo(path, 1, None) for path, _ in network.named_modules()]

        def predict(self, latent: Tensor, level: Level, condition: Condition) -> Prediction:
            times = torch.empty(1, device="meta")
            output = network(latent, times, encoder_hidden_states=condition.embedding).sample
            return Prediction.read("epsilon", output, latent, level)

    shapes: Any = Shapes()
    injection = PlugAndPlay(shapes, Drift(latent), told, keep=True)
    steps = 10
    for step in range(steps):
        injection.rewrites(Level(0.0, 0.6, 0.8, step / steps))
    seen = [rewrite for table in injection.kept.values() for rewrite in table.values()]
    numbers = sum(rewrite.args[0].numel() for rewrite in seen)  # pyright: ignore
    at_50_steps = numbers * 50 / steps
    assert len(injection.kept) == 8
    assert 0.5 * 2**30 < 2 * at_50_steps < 0.7 * 2**30


class FaultError(Exception):
    pass


class Faulty:
    def at(self, level: Level) -> Tensor:
        del level
        raise FaultError


@pytest.mark.parametrize("ambient", [True, False], ids=["grad", "no_grad"])
def test_law_06_no_hook_and_no_grad_mode_survives(backbone: UNetBackbone, ambient: bool) -> None:
    cat = backbone.describe(["a cat"])
    with torch.set_grad_enabled(ambient):
        with pytest.raises(FaultError):
            walk(backbone, PlugAndPlay(backbone, Faulty(), cat))
        with pytest.raises(UsageError, match="2 sources for 3 pictures"):
            walk(backbone, borrow(backbone, rows=2), rows=3)
        with pytest.raises(RuntimeError):  # the source pass itself fails: its prompt is of another width
            walk(backbone, PlugAndPlay(backbone, Drift(begin(1)), replace(cat, embedding=cat.embedding[..., 1:])))
        assert torch.is_grad_enabled() is ambient
        assert hook_count(backbone.network) == 0
        steps = sample(backbone, cat, begin(0), backbone.levels(STEPS), injections=[borrow(backbone)])
        moment = next(steps)
        assert hook_count(backbone.network) == 0
        steps.close()
        assert torch.is_grad_enabled() is ambient
    assert moment.latent.grad_fn is None
    assert hook_count(backbone.network) == 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"features_until": 1.5}, "features_until"),
        ({"attention_until": -0.1}, "attention_until"),
        ({"strength": float("nan")}, "strength"),
        ({"mask": torch.ones(1, 4, *GRID)}, "mask"),
        ({"mask": torch.ones(*GRID)}, "mask"),
        ({"mask": torch.full((1, 1, *GRID), 2.0)}, "mask"),
        ({"mask": torch.full((1, 1, *GRID), float("nan"))}, "mask"),
    ],
)
def test_impossible_settings_are_refused(backbone: UNetBackbone, settings: Mapping[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        borrow(backbone, **settings)
    assert caught.value.field == field


def test_rows_that_do_not_match_are_refused(backbone: UNetBackbone) -> None:
    with pytest.raises(UsageError, match="3 masks for 1 pictures"):
        walk(backbone, borrow(backbone, mask=torch.ones(3, 1, *GRID)))
    with pytest.raises(UsageError, match="2 prompts for 1 pictures"):
        walk(backbone, replace(borrow(backbone), condition=backbone.describe(["a", "b"])))


def test_a_mask_or_a_source_of_another_size_is_refused(backbone: UNetBackbone) -> None:
    with pytest.raises(UsageError, match=r"mask is \(8, 8\).*\(8, 16\)"):
        walk(backbone, borrow(backbone, mask=torch.ones(1, 1, 8, 8)))
    square = PlugAndPlay(backbone, Drift(torch.zeros(1, 4, 16, 8)), backbone.describe(["a cat"]))
    with pytest.raises(UsageError, match="differ in size"):
        walk(backbone, square)


# -------------------------------------------------------------------------------------------------- negative prompt


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0.75, 0.5625, 0.0]),
        ("constant", [0.75] * 3),
        ("exponential", [0.75, 0.75 * math.exp(-1.5), 0.75 * math.exp(-6)]),
    ],
)
def test_the_share_of_the_empty_prompt_decays(decay: Any, expected: Sequence[float]) -> None:
    empty, prompt = Condition(torch.zeros(1, 2, 3)), Condition(torch.ones(1, 2, 3))
    negative = NegativePrompt(empty, prompt, alpha=0.75, decay=decay)
    for progress, alpha in zip((0.0, 0.25, 1.0), expected, strict=True):
        shares = {id(told): share for told, share in negative.shares(Level(5, 0.6, 0.8, progress))}
        assert shares.get(id(empty), 0.0) == pytest.approx(alpha)
        assert shares[id(prompt)] == pytest.approx(1 - alpha)


def test_guidance_moves_away_from_the_mixture(backbone: UNetBackbone) -> None:
    """eps = alpha_t eps(empty) + (1 - alpha_t) eps(prompt), then classifier-free guidance from there."""
    told = [backbone.describe([prompt]) for prompt in ("", "dog", "two birds")]
    latent = begin(0)
    for now, to in pairwise(backbone.levels(STEPS)):
        alpha = 0.75 * (1 - now.progress)
        with torch.no_grad():
            empty, prompt, wanted = (backbone.run(latent, torch.tensor([now.time]), one) for one in told)
        away = alpha * empty + (1 - alpha) * prompt
        epsilon = away + 5.0 * (wanted - away)
        latent = to.alpha * (latent - now.sigma * epsilon) / now.alpha + to.sigma * epsilon
    ours = walk(backbone, negative=NegativePrompt(told[0], told[1], alpha=0.75))
    assert relative(ours.latent, latent) < 1e-4
    assert ours.evaluations == Evaluations(conditional=STEPS, negative=2 * STEPS)


def test_at_a_share_of_one_or_zero_two_passes_are_enough(backbone: UNetBackbone) -> None:
    empty, prompt = backbone.describe([""]), backbone.describe(["dog"])
    for alpha, same in ((1.0, empty), (0.0, prompt)):
        mixed = walk(backbone, negative=NegativePrompt(empty, prompt, alpha=alpha, decay="constant"))
        plain = walk(backbone, negative=same)
        assert torch.equal(mixed.latent, plain.latent)
        assert mixed.evaluations == plain.evaluations == Evaluations(STEPS, STEPS)
    falling = walk(backbone, negative=NegativePrompt(empty, prompt))
    assert falling.evaluations == Evaluations(STEPS, 1 + 2 * (STEPS - 1))  # 1 at first, then below it


@pytest.mark.parametrize(("settings", "field"), [({"alpha": 1.1}, "alpha"), ({"decay": "slow"}, "decay")])
def test_impossible_negative_prompts_are_refused(settings: Mapping[str, Any], field: str) -> None:
    told = Condition(torch.zeros(1, 2, 3))
    with pytest.raises(UsageError) as caught:
        NegativePrompt(told, told, **settings)
    assert caught.value.field == field
    assert field != "decay" or all(name in caught.value.hint for name in DECAYS)
