"""The laws of the house. Whatever else changes, these hold.

The eleventh (imports go up the table only, the public list is exact) is in test_layers.py and test_public_names.py.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from sketchguide.backbones.base import Condition
from sketchguide.backbones.tiny import tiny_stable_diffusion, tiny_stable_diffusion_xl
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.controls.edges import LatentGuide
from sketchguide.controls.strengths import Proportional, Score
from sketchguide.errors import GuidanceError, MismatchError, TapError, UsageError
from sketchguide.levels import Level, Prediction, Window
from sketchguide.predictors import LatentPredictor
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from sketchguide.solvers import SOLVERS
from sketchguide.taps import Rewrite, tapped
from support import MakePredictor, Pull, Rewriting, Tiny, hook_count, relative

GRID = (16, 16)
STEPS = 4
EPSILON = {"prediction_type": "epsilon"}
VELOCITY = {"prediction_type": "v_prediction"}
LEADING = {"timestep_spacing": "leading"}
TRAILING = {"timestep_spacing": "trailing"}
ZERO_SNR = {**VELOCITY, **TRAILING, "rescale_betas_zero_snr": True}
KINDS = pytest.mark.parametrize("kind", [EPSILON, VELOCITY], ids=["epsilon", "v"])
EVERY_SOLVER = pytest.mark.parametrize("solver", SOLVERS)
QUERY = "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q"
KEY = "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_k"
FEATURE = "up_blocks.1.resnets.1.conv2"


def walk(
    backbone: UNetBackbone,
    *,
    seeds: Sequence[int] = (3, 4),
    prompts: Sequence[str] = ("a cat", "two dogs"),
    solver: str = "ddim",
    scale: float = 5.0,
    grid: tuple[int, int] = GRID,
    **controls: Any,
) -> Tensor:
    """The last latent of a short walk."""
    each = generators(seeds)
    begin = noise(each, (4, *grid))
    *_, last = sample(
        backbone,
        backbone.describe(prompts),
        begin,
        backbone.levels(STEPS, solver),
        negative=backbone.describe([""] * len(prompts)),
        scale=scale,
        solver=SOLVERS[solver].solver,
        generators=each,
        **controls,
    )
    return last.latent


def target(count: int = 1, grid: tuple[int, int] = GRID, *, seed: int = 9) -> Tensor:
    return torch.randn(count, 4, *grid, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------- law 1


def check_equal_to_pipeline(backbone: UNetBackbone, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, seeds, steps = ["a cat", "two dogs"], [3, 4], 5
    pipeline = backbone.pipeline
    choice = SOLVERS[solver]
    scheduler = getattr(diffusers, choice.scheduler).from_config(pipeline.scheduler.config, **choice.settings)
    levels = backbone.levels(steps, solver)

    each = generators(seeds)
    begin = noise(each, (4, *GRID))
    ours = begin * levels[0].sigma if backbone.solvers[solver].scaled else begin
    condition, negative = backbone.describe(prompts), backbone.describe(["", ""])
    *_, last = sample(
        backbone,
        condition,
        ours,
        levels,
        negative=negative,
        scale=5.0,
        solver=SOLVERS[solver].solver,
        generators=each,
    )

    monkeypatch.setattr(pipeline, "scheduler", scheduler)
    each = generators(seeds)
    noise(each, (4, *GRID))
    theirs = pipeline(
        prompts,
        height=GRID[0] * backbone.stride,
        width=GRID[1] * backbone.stride,
        num_inference_steps=steps,
        guidance_scale=5.0,
        latents=begin,
        generator=each,
        output_type="latent",
    ).images
    assert relative(last.latent, theirs) < 1e-4


@EVERY_SOLVER
@pytest.mark.parametrize(
    "schedule",
    [{**EPSILON, **LEADING}, {**EPSILON, **TRAILING}, {**VELOCITY, **LEADING}, {**VELOCITY, **TRAILING}, ZERO_SNR],
    ids=["epsilon-leading", "epsilon-trailing", "v-leading", "v-trailing", "v-trailing-zero-snr"],
)
def test_law_01_without_controls_sample_equals_the_pipeline(
    whole: Tiny, small: Tiny, monkeypatch: pytest.MonkeyPatch, solver: str, schedule: Mapping[str, Any]
) -> None:
    """For every solver once with all of SD's blocks."""
    network = whole if schedule == {**EPSILON, **LEADING} else small
    check_equal_to_pipeline(network(**schedule), solver, monkeypatch)


@pytest.mark.parametrize("solver", ["euler", "euler-ancestral", "dpm++2m"])
@pytest.mark.parametrize("schedule", [{"timestep_spacing": "linspace"}, {"use_karras_sigmas": True}], ids=str)
def test_law_01_for_other_spacings_of_sigma_schedulers(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, solver: str, schedule: Mapping[str, Any]
) -> None:
    assert tiny(**schedule).levels(5, solver) != tiny(**LEADING).levels(5, solver)
    check_equal_to_pipeline(tiny(**schedule), solver, monkeypatch)


@EVERY_SOLVER
def test_law_01_of_sdxl(monkeypatch: pytest.MonkeyPatch, solver: str) -> None:
    pipeline = tiny_stable_diffusion_xl()
    pipeline.set_progress_bar_config(disable=True)
    check_equal_to_pipeline(UNetBackbone(pipeline, name="xl"), solver, monkeypatch)


@pytest.mark.parametrize("solver", ["dpm++2m", "euler"])
@pytest.mark.parametrize("spacing", ["use_karras_sigmas", "use_exponential_sigmas"])
def test_law_01_where_the_schedule_ends_at_the_noise_of_its_last_step(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, spacing: str, solver: str
) -> None:
    check_equal_to_pipeline(tiny(**{spacing: True, "final_sigmas_type": "sigma_min"}), solver, monkeypatch)


@pytest.mark.parametrize("spacing", ["use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_levels_by_karras_whatever_the_spacing_of_the_model(tiny: Tiny, name: str, spacing: str) -> None:
    backbone = UNetBackbone(tiny_stable_diffusion(), name="tiny")
    own = backbone.pipeline.scheduler
    backbone.pipeline.scheduler = getattr(diffusers, name).from_config(own.config, **{spacing: True})
    for solver in ("euler-karras", "dpm++2m-karras"):
        assert backbone.levels(5, solver) == tiny().levels(5, solver)


# ---------------------------------------------------------------------------------------------------------- law 2


@KINDS
@EVERY_SOLVER
def test_law_02_controls_that_do_nothing_change_no_bit(
    tiny: Tiny, predictor: LatentPredictor, kind: Mapping[str, Any], solver: str
) -> None:
    backbone = tiny(**kind)
    plain = walk(backbone, solver=solver)
    identity = Rewriting({QUERY: lambda value: value, "mid_block.attentions.0": lambda value: value})
    doubling = Rewriting({QUERY: lambda value: 2 * value}, window=(0.5, 0.5))
    closed = LatentGuide(predictor, target(), window=(0.5, 0.5))
    weak = LatentGuide(predictor, target(), window=(0.0, 1.0), strength=Proportional(0.0))
    controls = {"injections": [identity, doubling], "guides": [closed, weak]}
    assert torch.equal(walk(backbone, solver=solver, **controls), plain)


def test_law_02_is_no_accident(tiny: Tiny, predictor: LatentPredictor) -> None:
    plain = walk(tiny())
    assert relative(walk(tiny(), injections=[Rewriting({QUERY: lambda value: 2 * value})]), plain) > 1e-3
    assert relative(walk(tiny(), guides=[LatentGuide(predictor, target(), window=(0.0, 0.5))]), plain) > 1e-3


# ---------------------------------------------------------------------------------------------------------- law 3


@pytest.mark.parametrize(("solver", "kind"), [("ddim", EPSILON), ("dpm++2m", VELOCITY)])
def test_law_03_guides_commute(tiny: Tiny, predictor: LatentPredictor, kind: Mapping[str, Any], solver: str) -> None:
    guides = [
        LatentGuide(predictor, target(), window=(0.0, 0.6)),
        Pull(lambda step: step.prediction.clean.square().flatten(1).mean(1)),
        Pull(lambda step: step.features[KEY].square().flatten(1).mean(1), reads=[KEY], strength=Score(3.0)),
    ]
    one = walk(tiny(**kind), solver=solver, guides=guides)
    other = walk(tiny(**kind), solver=solver, guides=[guides[2], guides[0], guides[1]])
    assert relative(one, other) < 1e-5
    assert relative(one, walk(tiny(**kind), solver=solver, guides=guides[:2])) > 1e-4


# ---------------------------------------------------------------------------------------------------------- law 4


@EVERY_SOLVER
def test_law_04_a_batch_of_two_is_two_batches_of_one(tiny: Tiny, predictor: LatentPredictor, solver: str) -> None:
    backbone = tiny(prediction_type="v_prediction")
    targets, weights, betas = target(2), target(2).abs()[:, :1], [1.6, 0.8]

    def made(rows: slice) -> Tensor:
        guide = LatentGuide(predictor, targets[rows], weights[rows], strength=Proportional(betas[rows]))
        prompts = ["a cat", "two dogs"][rows]
        return walk(backbone, solver=solver, seeds=[3, 4][rows], prompts=prompts, guides=[guide])

    first, second = made(slice(0, 1)), made(slice(1, 2))
    assert relative(made(slice(0, 2)), torch.cat([first, second])) < 1e-3
    assert relative(first, second) > 0.1


# ---------------------------------------------------------------------------------------------------------- law 5


def watch_calls(network: nn.Module) -> tuple[list[bool], Any]:
    """A list that gains one entry per network call, whether its output carries a graph; and the hook."""
    graphs: list[bool] = []

    def on_output(module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        graphs.append(output[0].grad_fn is not None)

    return graphs, network.register_forward_hook(on_output)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_law_05_network_calls_do_not_grow_with_guides(tiny: Tiny, predictor: LatentPredictor, count: int) -> None:
    graphs, handle = watch_calls(tiny().network)
    with handle:
        walk(tiny(), guides=[LatentGuide(predictor, target(seed=i), window=(0.0, 1.0)) for i in range(count)])
    assert len(graphs) == 2 * STEPS
    assert graphs == [count > 0, False] * STEPS  # conditional, then negative


def test_law_05_no_graph_is_built_after_the_last_window_closes(tiny: Tiny, predictor: LatentPredictor) -> None:
    graphs, handle = watch_calls(tiny().network)
    guides = [LatentGuide(predictor, target(), window=(0.0, stop)) for stop in (0.25, 0.5)]
    with handle:
        walk(tiny(), guides=guides)
    assert graphs == [True, False] * 2 + [False, False] * 2


# ---------------------------------------------------------------------------------------------------------- law 6


class FaultError(Exception):
    pass


def fail(value: Any) -> Tensor:
    del value
    raise FaultError


def nothing_is_left(backbone: UNetBackbone) -> None:
    assert hook_count(backbone.network) == 0
    assert all(not p.requires_grad and p.grad is None for p in backbone.network.parameters())


@pytest.mark.parametrize("ambient", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize(
    ("controls", "error"),
    [
        ({}, None),
        ({"guides": [Pull(lambda step: step.features[KEY].flatten(1).sum(1), reads=[KEY])]}, None),
        ({"guides": [Pull(fail)]}, FaultError),
        ({"guides": [Pull(lambda step: step.latent.flatten(1).sum(1) * float("nan"))]}, GuidanceError),
        ({"injections": [Rewriting({QUERY: fail})]}, FaultError),
        ({"guides": [Pull(fail, reads=[KEY])], "injections": [Rewriting({QUERY: lambda value: value})]}, FaultError),
    ],
    ids=["plain", "guided", "loss-raises", "gradient-nan", "rewrite-raises", "loss-raises-beside-an-injection"],
)
def test_law_06_no_hook_and_no_grad_mode_survives(
    tiny: Tiny, ambient: bool, controls: Mapping[str, Any], error: type[Exception] | None
) -> None:
    backbone = tiny()
    with torch.set_grad_enabled(ambient):
        if error is None:
            walk(backbone, **controls)
        else:
            with pytest.raises(error):
                walk(backbone, **controls)
        assert torch.is_grad_enabled() is ambient
    nothing_is_left(backbone)


@pytest.mark.parametrize("ambient", [True, False], ids=["grad", "no_grad"])
def test_law_06_nothing_survives_a_generator_closed_early(
    tiny: Tiny, predictor: LatentPredictor, ambient: bool
) -> None:
    backbone = tiny()
    with torch.set_grad_enabled(ambient):
        steps = sample(
            backbone,
            backbone.describe(["a cat"]),
            noise(generators([1]), (4, *GRID)),
            backbone.levels(STEPS),
            guides=[LatentGuide(predictor, target())],
            injections=[Rewriting({QUERY: lambda value: value})],
        )
        moment = next(steps)
        assert torch.is_grad_enabled() is ambient  # the consumer's code runs in its own mode
        assert hook_count(backbone.network) == 0
        steps.close()
        assert torch.is_grad_enabled() is ambient
    assert moment.latent.grad_fn is None
    assert not moment.latent.requires_grad
    nothing_is_left(backbone)


# ---------------------------------------------------------------------------------------------------------- law 7


@pytest.mark.parametrize("path", ["up_blocks.9.attentions.0", "down_blocks.0"], ids=["unknown", "no-tensor"])
@pytest.mark.parametrize("role", ["reads", "rewrites"])
def test_law_07_unknown_and_non_tensor_taps_raise_naming_the_path(tiny: Tiny, path: str, role: str) -> None:
    guide = Pull(lambda step: step.latent.flatten(1).sum(1), reads=[path])
    controls = {"guides": [guide]} if role == "reads" else {"injections": [Rewriting({path: lambda value: value})]}
    with pytest.raises(TapError, match=path):
        walk(tiny(), **controls)
    assert hook_count(tiny().network) == 0


@pytest.fixture(scope="module")
def fused() -> UNetBackbone:
    pipeline = tiny_stable_diffusion()
    pipeline.unet.fuse_qkv_projections()
    return UNetBackbone(pipeline, name="fused")


@pytest.mark.parametrize("role", ["reads", "rewrites"])
def test_law_07_taps_never_reached_raise_naming_the_path(fused: UNetBackbone, role: str) -> None:
    guide = Pull(lambda step: step.latent.flatten(1).sum(1), reads=[QUERY])
    controls = {"guides": [guide]} if role == "reads" else {"injections": [Rewriting({QUERY: lambda value: value})]}
    with pytest.raises(TapError, match=QUERY):
        walk(fused, **controls)


def test_law_07_a_guide_that_needs_a_tap_never_reached_raises_naming_the_path(fused: UNetBackbone) -> None:
    guide = Pull(lambda step: step.features[QUERY].flatten(1).sum(1), reads=[QUERY])
    with pytest.raises(TapError, match=QUERY):
        walk(fused, guides=[guide])


def test_law_07_two_injections_on_one_path_raise(tiny: Tiny) -> None:
    early, late = Rewriting({QUERY: lambda value: value}, (0.0, 0.5)), Rewriting({QUERY: lambda value: value}, (0.5, 1))
    walk(tiny(), injections=[early, late])
    with pytest.raises(UsageError, match=QUERY):
        walk(tiny(), injections=[early, early])


# ---------------------------------------------------------------------------------------------------------- law 8


def naive(predictor: LatentPredictor, features: Mapping[str, Tensor], time: float, size: tuple[int, int]) -> Tensor:
    """The paper's form: resize every tap, concatenate all channels and the noise encoding, one MLP per pixel."""
    config = predictor.config
    pictures: list[Tensor] = []
    for path in config.taps:
        value = features[path]
        if value.ndim == 3:
            stride = round((size[0] * size[1] / value.shape[1]) ** 0.5)
            value = value.permute(0, 2, 1).reshape(len(value), -1, size[0] // stride, size[1] // stride)
        if config.normalize_taps:
            mean = value.mean(dim=(1, 2, 3), keepdim=True)
            value = (value - mean) / (value.var(dim=(1, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        pictures.append(F.interpolate(value, size=size, mode="bilinear", align_corners=False))
    bands = torch.sin(2 * torch.pi * time * 2.0 ** -torch.arange(1.0, 11.0))
    pixels = torch.cat(pictures, dim=1).permute(0, 2, 3, 1)
    pixels = torch.cat([pixels, bands.expand(*pixels.shape[:3], 10)], dim=3)
    weight = torch.cat([layer.weight.flatten(1) for layer in predictor.first] + [predictor.noise.weight], dim=1)
    pixels = pixels @ weight.T + predictor.noise.bias
    for layer in predictor.rest:
        match layer:
            case nn.ReLU():
                pixels = pixels.clamp_min(0)
            case nn.Conv2d():
                pixels = pixels @ layer.weight.flatten(1).T + layer.bias
            case nn.BatchNorm2d():
                pixels = (pixels - layer.running_mean) / (layer.running_var + layer.eps).sqrt()
                pixels = pixels * layer.weight + layer.bias
            case _:
                pytest.fail(f"the paper has no {layer}")
    return pixels.permute(0, 3, 1, 2)


@pytest.mark.parametrize("grid", [(16, 16), (16, 24)], ids=["square", "wide"])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "as-is"])
def test_law_08_the_fused_predictor_equals_concatenate_then_mlp(
    tiny: Tiny, make_predictor: MakePredictor, grid: tuple[int, int], normalize: bool
) -> None:
    backbone = tiny()
    taps = {tap.path: tap.channels for tap in backbone.taps}
    tokens = (QUERY, "down_blocks.0.attentions.0.transformer_blocks.0")
    paths = (*make_predictor().config.taps, *tokens)
    predictor = make_predictor(
        taps=paths, channels=tuple(taps[path] for path in paths), normalize_taps=normalize, widths=(32, 16, 8)
    )
    level = backbone.level(0.3)
    with torch.no_grad(), tapped(backbone.network, paths) as features:
        backbone.predict(target(2, grid), level, backbone.describe(["a cat", "two dogs"]))
    ours = predictor(features, level, grid)
    assert ours.shape == (2, 4, *grid)
    assert relative(ours, naive(predictor, features, level.time, grid)) < 1e-4


# ---------------------------------------------------------------------------------------------------------- law 9


def minus_log_likelihood(latent: Tensor) -> Tensor:
    """-log p(y = 2 | x_t) of a random linear classifier with five classes."""
    weight = torch.randn(5, latent[0].numel(), generator=torch.Generator().manual_seed(2)) * 0.05
    return -F.log_softmax(latent.flatten(1) @ weight.T, dim=1)[:, 2]


@pytest.mark.parametrize("scale", [1.0, 5.0], ids=["plain", "with-cfg"])
@KINDS
def test_law_09_classifier_guidance_is_the_epsilon_shift_of_its_paper(
    tiny: Tiny, kind: Mapping[str, Any], scale: float
) -> None:
    backbone = tiny(**kind)
    ours = walk(
        backbone, scale=scale, guides=[Pull(lambda step: minus_log_likelihood(step.latent), strength=Score(20.0))]
    )

    condition, negative = backbone.describe(["a cat", "two dogs"]), backbone.describe(["", ""])
    latent = noise(generators([3, 4]), (4, *GRID))
    for now, to in pairwise(backbone.levels(STEPS)):
        with torch.no_grad():
            output = backbone.run(latent, torch.tensor([now.time]), condition)
            plain = backbone.run(latent, torch.tensor([now.time]), negative)
        output = plain + scale * (output - plain)
        epsilon = output if kind is EPSILON else now.sigma * latent + now.alpha * output
        seen = latent.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(-minus_log_likelihood(seen).sum(), seen)
        epsilon = epsilon - 20.0 * (1 - now.alpha**2) ** 0.5 * gradient  # Dhariwal & Nichol 2021, algorithm 2
        clean = (latent - now.sigma * epsilon) / now.alpha
        latent = to.alpha * clean + to.sigma * epsilon
    assert relative(ours, latent) < 1e-4
    assert relative(ours, walk(backbone, scale=scale)) > 1e-2


@EVERY_SOLVER
def test_law_09_the_shift_is_that_of_epsilon_under_every_solver(tiny: Tiny, solver: str) -> None:
    backbone, rule, scale = tiny(), SOLVERS[solver].solver, 20.0
    now, to = backbone.levels(STEPS, solver)[1:3]
    told, latent = backbone.describe(["a cat", "two dogs"]), noise(generators([3, 4]), (4, *GRID))
    pull = Pull(lambda step: minus_log_likelihood(step.latent), strength=Score(scale))
    walked = [
        next(sample(backbone, told, latent, [now, to], guides=guides, solver=rule, generators=generators([5, 6])))
        for guides in ([pull], [])
    ]
    seen = latent.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(minus_log_likelihood(seen).sum(), seen)
    shift = scale * now.sigma * gradient
    with torch.no_grad():
        clean, epsilon = backbone.predict(latent, now, told)
    drawn = generators([5, 6])
    shifted = Prediction(clean - now.sigma / now.alpha * shift, epsilon + shift)
    expected = rule(latent, shifted, now, to, previous=None, noise=lambda: noise(drawn, (4, *GRID)))
    assert relative(walked[0].latent, expected) < 1e-4
    assert relative(walked[1].latent, expected) > 1e-2


@dataclass(frozen=True)
class FromRecord:
    """Puts in what another pass had at the same level (Plug-and-Play: record, then rewrite)."""

    record: Mapping[float, Mapping[str, Tensor]]  # level.time -> tap path -> output
    window: Window = (0.0, 1.0)

    def rewrites(self, level: Level) -> Mapping[str, Rewrite]:
        recorded = self.record[level.time]
        return {path: lambda value, path=path: recorded[path].expand_as(value) for path in recorded}


@KINDS
def test_law_09_record_and_rewrite_is_side_by_side_injection(tiny: Tiny, kind: Mapping[str, Any]) -> None:
    backbone, levels = tiny(**kind), tiny(**kind).levels(STEPS)
    source, goal = noise(generators([3, 4]), (4, *GRID)).split(1)
    told = [backbone.describe(["a cat"]), backbone.describe(["two dogs"])]

    def copy_first_row(value: Tensor) -> Tensor:
        return value[:1].expand_as(value)

    *_, beside = sample(
        backbone,
        Condition(torch.cat([one.embedding for one in told])),
        torch.cat([source, goal]),
        levels,
        injections=[Rewriting(dict.fromkeys([QUERY, KEY, FEATURE], copy_first_row))],
    )

    record: dict[float, Mapping[str, Tensor]] = {}
    latent = source
    for now, to in pairwise(levels):
        with torch.no_grad(), tapped(backbone.network, [QUERY, KEY, FEATURE]) as outputs:
            prediction = backbone.predict(latent, now, told[0])
        record[now.time] = outputs
        latent = to.alpha * prediction.clean + to.sigma * prediction.noise
    *_, rewritten = sample(backbone, told[1], goal, levels, injections=[FromRecord(record)])
    *_, untouched = sample(backbone, told[1], goal, levels)
    assert relative(latent, beside.latent[:1]) < 1e-4
    assert relative(rewritten.latent, beside.latent[1:]) < 1e-4
    assert relative(untouched.latent, beside.latent[1:]) > 1e-3


# --------------------------------------------------------------------------------------------------------- law 10


def test_law_10_a_saved_predictor_guides_bit_for_bit_like_the_original(
    tiny: Tiny, predictor: LatentPredictor, tmp_path: Path
) -> None:
    predictor.save_pretrained(tmp_path)
    loaded = LatentPredictor.from_pretrained(tmp_path)
    assert loaded.config == predictor.config
    latents = [walk(tiny(), guides=[LatentGuide(one, target())]) for one in (predictor, loaded)]
    assert torch.equal(*latents)


def test_law_10_the_file_says_what_it_is(make_predictor: MakePredictor, tmp_path: Path) -> None:
    predictor = make_predictor(map_kind="saliency", window=(0.1, 0.7), normalize_taps=True)
    with safe_open(predictor.save_pretrained(tmp_path), framework="pt") as file:
        header: dict[str, Any] = json.loads(file.metadata()["sketchguide"])
    expected = {"backbone": "tiny", "family": "unet", "map_kind": "saliency", "latent_channels": 4}
    assert header["window"] == [0.1, 0.7]
    assert expected.items() <= header.items()
    assert header["taps"] == list(predictor.config.taps)
    assert header["channels"] == list(predictor.config.channels)
    assert header["normalize_taps"] is True


def differing(config: Any) -> Iterable[Any]:
    yield replace(config, channels=(*config.channels[:-1], 33))
    yield replace(config, taps=("up_blocks.7", *config.taps[1:]))
    yield replace(config, family="transformer")
    yield replace(config, latent_channels=16)


@pytest.mark.parametrize("case", range(4), ids=["channels", "taps", "family", "latent-channels"])
def test_law_10_a_backbone_that_does_not_fit_is_refused_naming_both(
    tiny: Tiny, predictor: LatentPredictor, case: int
) -> None:
    predictor.check_fits(tiny())
    config = replace(list(differing(predictor.config))[case], backbone="some-other-model")
    with pytest.raises(MismatchError, match=r"some-other-model.*'tiny'"):
        LatentPredictor(config).check_fits(tiny())
