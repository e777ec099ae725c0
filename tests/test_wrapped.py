"""ControlNet and T2I-Adapter around a backbone, against diffusers' own pipelines for them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    MultiAdapter,
    MultiControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from torch import Tensor, nn

from sketchguide.attention import SketchAttention, describe_attention
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.backbones.wrapped import with_controlnet, with_sketch_attention, with_t2i_adapter
from sketchguide.controls.base import Strength
from sketchguide.controls.edges import LatentGuide
from sketchguide.controls.strengths import Proportional
from sketchguide.errors import MismatchError, UsageError
from sketchguide.images import to_grey, to_images, to_tensor
from sketchguide.levels import Level
from sketchguide.predictors import LatentPredictor
from sketchguide.sampling import sample
from sketchguide.sketch import Sketch
from sketchguide.solvers import Carried
from sketchguide.taps import tapped
from support import Tiny, relative

STEPS = 2
PROMPTS = ("a cat", "two dogs")
V = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
Wrap = Callable[..., Backbone]


def loud(module: nn.Module, *, seed: int) -> Any:
    """Random weights everywhere: a new ControlNet adds zero, which would prove nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            deviation = 1.0 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.add_(deviation * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def new_controlnet(unet: Any, *, seed: int = 1, halvings: int = 1) -> ControlNetModel:
    channels = (8, 12, 16)[: halvings + 1]
    return loud(ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels), seed=seed)


def new_adapter(*, seed: int = 1, **config: Any) -> T2IAdapter:
    settings = {"channels": [16, 32, 32, 32], "num_res_blocks": 1, "downscale_factor": 2} | config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return loud(T2IAdapter(**settings), seed=seed)


@pytest.fixture(scope="module")
def controlnet(tiny: Tiny) -> ControlNetModel:
    return new_controlnet(tiny().network)


@pytest.fixture(scope="module")
def adapter() -> T2IAdapter:
    return new_adapter()


@pytest.fixture(scope="module")
def attention(tiny: Tiny) -> SketchAttention:
    config = describe_attention(tiny().taps, backbone="tiny", pixels=tiny().stride)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return loud(SketchAttention(config), seed=1)


@pytest.fixture(params=["controlnet", "t2i-adapter", "sketch-attention"])
def wrap(
    request: pytest.FixtureRequest, controlnet: ControlNetModel, adapter: T2IAdapter, attention: SketchAttention
) -> Wrap:
    if request.param == "sketch-attention":

        def attend(backbone: Backbone, image: Tensor, **settings: Any) -> Backbone:
            if image.ndim == 4:  # what others take, three channels, is one here, and what they refuse is refused here
                image = image[:, :1] if image.shape[1] == 3 else image.expand(-1, 3, -1, -1)
            return with_sketch_attention(backbone, attention, image, **settings)

        return attend
    if request.param == "controlnet":
        return lambda backbone, *args, **settings: with_controlnet(backbone, controlnet, *args, **settings)
    return lambda backbone, *args, **settings: with_t2i_adapter(backbone, adapter, *args, **settings)


def pictures(count: int = 1, size: tuple[int, int] = (32, 32), *, seed: int = 5) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def beginnings(count: int = 2) -> Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(6))


def walk(
    backbone: Backbone, latent: Tensor, *, prompts: tuple[str, ...] = PROMPTS, scale: float = 1.0, **controls: Any
):
    *_, last = sample(
        backbone,
        backbone.describe(prompts),
        latent,
        backbone.levels(STEPS),
        negative=backbone.describe([""] * len(prompts)),
        scale=scale,
        **controls,
    )
    return last.latent


def look(backbone: Backbone, latent: Tensor, prompts: tuple[str, ...] = PROMPTS) -> Tensor:
    with torch.no_grad():
        return backbone.predict(latent, backbone.level(0.5), backbone.describe(prompts)).noise


def pipe(kind: Any, backbone: UNetBackbone, latent: Tensor, *, scale: float, **settings: Any) -> Tensor:
    own = {name: settings.pop(name) for name in ("controlnet", "adapter") if name in settings}
    parts = {name: part for name, part in backbone.pipeline.components.items() if name != "image_encoder"}
    pipeline = kind(**parts, **own, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 32, "num_inference_steps": STEPS, "guidance_scale": scale, "output_type": "latent"}
    return pipeline(list(PROMPTS), latents=latent, **call, **settings).images


@pytest.mark.parametrize(
    ("schedule", "guidance", "window"), [(V, 5.0, (0.0, 0.5)), ({}, 1.0, (0.5, 1.0))], ids=["v-cfg", "epsilon-plain"]
)
def test_controlnet_equals_the_pipeline(
    tiny: Tiny, controlnet: ControlNetModel, schedule: dict[str, Any], guidance: float, window: tuple[float, float]
) -> None:
    backbone, latent, image = tiny(**schedule), beginnings(), pictures(2)
    theirs = pipe(
        StableDiffusionControlNetPipeline,
        backbone,
        latent,
        scale=guidance,
        controlnet=controlnet,
        image=image,
        controlnet_conditioning_scale=0.7,
        control_guidance_start=window[0],
        control_guidance_end=window[1],
    )
    told = with_controlnet(backbone, controlnet, image, scale=0.7, window=window)
    assert relative(walk(told, latent, scale=guidance), theirs) < 1e-4
    assert relative(walk(backbone, latent, scale=guidance), theirs) > 1e-3


@pytest.mark.parametrize(("schedule", "guidance"), [(V, 5.0), ({}, 1.0)], ids=["v-cfg", "epsilon-plain"])
def test_t2i_adapter_equals_the_pipeline(
    tiny: Tiny, adapter: T2IAdapter, schedule: dict[str, Any], guidance: float
) -> None:
    backbone, latent, image = tiny(**schedule), beginnings(), pictures(2)
    theirs = pipe(
        StableDiffusionAdapterPipeline,
        backbone,
        latent,
        scale=guidance,
        adapter=adapter,
        image=image,
        adapter_conditioning_scale=0.7,
    )
    told = with_t2i_adapter(backbone, adapter, image, scale=0.7)
    assert relative(walk(told, latent, scale=guidance), theirs) < 1e-4
    assert relative(walk(backbone, latent, scale=guidance), theirs) > 1e-3


def test_two_controlnets_equal_the_pipeline_of_two(tiny: Tiny, controlnet: ControlNetModel) -> None:
    backbone, latent, images = tiny(), beginnings(), [pictures(2), pictures(2, seed=8)]
    other = new_controlnet(backbone.network, seed=2)
    theirs = pipe(
        StableDiffusionControlNetPipeline,
        backbone,
        latent,
        scale=1.0,
        controlnet=[controlnet, other],
        image=images,
        controlnet_conditioning_scale=[0.7, 0.4],
    )
    once = with_controlnet(backbone, controlnet, images[0], scale=0.7)
    twice = with_controlnet(once, other, images[1], scale=0.4)
    assert relative(walk(twice, latent), theirs) < 1e-4
    assert relative(walk(once, latent), theirs) > 1e-3


def test_two_adapters_equal_the_pipeline_of_two(tiny: Tiny, adapter: T2IAdapter) -> None:
    backbone, latent, images = tiny(), beginnings(), [pictures(2), pictures(2, seed=8)]
    other = new_adapter(seed=2)
    theirs = pipe(
        StableDiffusionAdapterPipeline,
        backbone,
        latent,
        scale=1.0,
        adapter=MultiAdapter([adapter, other]),
        image=images,
        adapter_conditioning_scale=[0.7, 0.4],
    )
    twice = with_t2i_adapter(with_t2i_adapter(backbone, adapter, images[0], scale=0.7), other, images[1], scale=0.4)
    assert relative(walk(twice, latent), theirs) < 1e-4


def test_a_controlnet_and_an_adapter_act_together_in_any_order(
    tiny: Tiny, controlnet: ControlNetModel, adapter: T2IAdapter
) -> None:
    backbone, latent, image = tiny(), beginnings(), pictures()
    only = look(with_controlnet(backbone, controlnet, image), latent)
    one = look(with_t2i_adapter(with_controlnet(backbone, controlnet, image), adapter, image), latent)
    other = look(with_controlnet(with_t2i_adapter(backbone, adapter, image), controlnet, image), latent)
    assert torch.equal(one, other)
    assert relative(only, one) > 1e-3


def test_pictures_and_drawings_are_shown_as_they_are(tiny: Tiny, controlnet: ControlNetModel, tmp_path: Path) -> None:
    backbone, latent, image = tiny(), beginnings(), pictures()
    (picture,) = to_images(image * 2 - 1)
    shown = (to_tensor([picture]) + 1) / 2
    expected = look(with_controlnet(backbone, controlnet, shown), latent)
    assert relative(look(with_controlnet(backbone, controlnet, image), latent), expected) < 0.02  # in 256 levels
    picture.save(tmp_path / "picture.png")
    for one in (picture, picture.convert("RGBA"), tmp_path / "picture.png", str(tmp_path / "picture.png")):
        assert torch.equal(look(with_controlnet(backbone, controlnet, one), latent), expected)
    grey = torch.tensor(to_grey(picture))[None, None]
    reads_grey = new_adapter(in_channels=1)
    expected = look(with_t2i_adapter(backbone, reads_grey, grey), latent)
    assert torch.equal(look(with_t2i_adapter(backbone, reads_grey, picture), latent), expected)
    drawing = Sketch.from_strokes([[(0.2, 0.3), (0.8, 0.7)]])
    for given, message in ((drawing, "has no size"), (np.zeros((32, 32)), "not a ndarray")):
        with pytest.raises(UsageError, match=message):
            with_controlnet(backbone, controlnet, given)  # type: ignore[arg-type]
    lines = drawing.rasterize(size=(32, 32))
    ink = torch.tensor(lines.ink)[None, None]
    expected = look(with_controlnet(backbone, controlnet, ink.expand(1, 3, -1, -1)), latent)
    assert torch.equal(look(with_controlnet(backbone, controlnet, lines), latent), expected)
    expected = look(with_t2i_adapter(backbone, reads_grey, ink), latent)
    assert torch.equal(look(with_t2i_adapter(backbone, reads_grey, lines), latent), expected)


def test_what_does_nothing_changes_no_bit(tiny: Tiny, wrap: Wrap) -> None:
    backbone, latent, image = tiny(), beginnings(), pictures()
    plain = look(backbone, latent)
    assert torch.equal(look(wrap(backbone, image, scale=0.0), latent), plain)
    assert torch.equal(look(wrap(backbone, image, window=(0.5, 0.5)), latent), plain)
    assert not torch.equal(look(wrap(backbone, image), latent), plain)


def test_the_window_closes_on_time(tiny: Tiny, wrap: Wrap) -> None:
    backbone, image = tiny(), pictures()
    levels, condition = backbone.levels(4), backbone.describe(["a cat"])
    told, latent = wrap(backbone, image, window=(0.25, 0.75)), beginnings(1)
    with torch.no_grad():
        same = [
            torch.equal(told.predict(latent, level, condition).clean, backbone.predict(latent, level, condition).clean)
            for level in levels[:-1]
        ]
    assert same == [True, False, False, True]


def test_a_batch_of_two_is_two_of_one(tiny: Tiny, wrap: Wrap) -> None:
    backbone, latent, images = tiny(), beginnings(), pictures(2)
    both = look(wrap(backbone, images), latent)
    for i, prompt in enumerate(PROMPTS):
        row = slice(i, i + 1)
        alone = look(wrap(backbone, images[row]), latent[row], (prompt,))
        assert relative(both[row], alone) < 1e-4
    assert relative(both[:1], look(wrap(backbone, images[1:]), latent[:1], PROMPTS[:1])) > 1e-3


def test_one_image_serves_all_rows(tiny: Tiny, wrap: Wrap) -> None:
    backbone, latent, image = tiny(), beginnings(), pictures()
    repeated = look(wrap(backbone, image.expand(2, -1, -1, -1)), latent)
    assert relative(look(wrap(backbone, image), latent), repeated) < 1e-5


@dataclass(frozen=True)
class Keeping:
    """A strength that keeps the gradients that it is given."""

    inner: Strength
    gradients: list[Tensor] = field(default_factory=list[Tensor])

    def __call__(self, gradient: Tensor, move: Tensor, now: Level, carried: Carried) -> Tensor:
        self.gradients.append(gradient)
        return self.inner(gradient, move, now, carried)


def test_guides_pull_through_the_wrapper(tiny: Tiny, wrap: Wrap, predictor: LatentPredictor) -> None:
    backbone, latent = tiny(), beginnings()
    told = wrap(backbone, pictures())
    predictor.check_fits(told)
    target = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(9))
    inside, outside = Keeping(Proportional(1.0)), Keeping(Proportional(1.0))
    guided = walk(told, latent, guides=[LatentGuide(predictor, target, window=(0.0, 1.0), strength=inside)])
    walk(backbone, latent, guides=[LatentGuide(predictor, target, window=(0.0, 1.0), strength=outside)])
    assert relative(guided, walk(told, latent)) > 1e-2
    assert len(inside.gradients) == STEPS
    for seen, without in zip(inside.gradients, outside.gradients, strict=True):
        assert 0 < float(seen.norm()) < float("inf")
        assert relative(seen, without) > 1e-3


def test_the_gradient_of_the_latent_is_that_of_the_whole(tiny: Tiny, wrap: Wrap) -> None:
    """Against a finite difference: a ControlNet reads the latent too, and must not be cut off."""
    told = wrap(tiny(), pictures())
    level, condition = told.level(0.5), told.describe(["a cat"])
    generator = torch.Generator().manual_seed(3)
    latent, direction = torch.randn(2, 1, 4, 16, 16, generator=generator)
    weight = torch.randn(latent.shape, generator=generator)

    def value(at: Tensor) -> Tensor:
        return (told.predict(at, level, condition).noise * weight).sum()

    seen = latent.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(seen), seen)
    with torch.no_grad():
        slope = (value(latent + 5e-3 * direction) - value(latent - 5e-3 * direction)) / 1e-2
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=2e-2)


def test_rewrites_and_reads_reach_the_network(tiny: Tiny, wrap: Wrap) -> None:
    told, latent = wrap(tiny(), pictures()), beginnings(1)
    condition = told.describe(["a cat"])
    with torch.no_grad(), tapped(told.network, ("mid_block",), {"mid_block": torch.zeros_like}) as record:
        changed = told.predict(latent, told.level(0.5), condition).noise
        with tapped(told.network):
            plain = told.predict(latent, told.level(0.5), condition).noise
    assert not record["mid_block"].any()
    assert torch.equal(changed, plain)  # the inner block lies within the outer one
    with torch.no_grad():
        assert not torch.equal(told.predict(latent, told.level(0.5), condition).noise, plain)


def test_training_reaches_the_control_alone(tiny: Tiny, wrap: Wrap) -> None:
    backbone = tiny()
    told: Any = wrap(backbone, pictures())
    assert not any(p.requires_grad for p in told.control.parameters())
    told.control.requires_grad_(True)
    try:
        run = replace(told, image=pictures(2)[:, : told.image.shape[1]]).run(
            beginnings(), torch.tensor([10, 900]), backbone.describe(PROMPTS)
        )
        run.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in told.control.parameters())
        assert all(p.grad is None for p in backbone.network.parameters())
    finally:
        told.control.zero_grad()
        told.control.requires_grad_(False)


def test_run_takes_a_time_per_row(tiny: Tiny, wrap: Wrap) -> None:
    told, latent, times = wrap(tiny(), pictures(2)), beginnings(), torch.tensor([10, 900])
    with torch.no_grad():
        both = told.run(latent, times, told.describe(PROMPTS))
        first: Any = replace(told, image=pictures(2)[:1, : told.image.shape[1]])  # pyright: ignore[reportArgumentType]
        assert relative(first.run(latent[:1], times[:1], told.describe(PROMPTS[:1])), both[:1]) < 1e-4


def test_a_networks_own_extras_stay(tiny: Tiny, controlnet: ControlNetModel, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()
    told = with_controlnet(backbone, controlnet, pictures())
    heard: dict[str, Any] = {}

    def forward(*_: Tensor, **extras: Any) -> tuple[Tensor]:
        heard.update(extras)
        return (beginnings(1),)

    network: Any = torch.nn.Module()
    network.forward, network.dtype, network.config = forward, torch.float32, backbone.network.config
    monkeypatch.setattr(backbone, "network", network)
    condition = replace(told.describe(["a cat"]), extras={"class_labels": torch.zeros(1)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controlnet, "forward", lambda *_, **extras: ([torch.ones(1)], extras["class_labels"] + 2))
        told.run(beginnings(1), torch.tensor([500]), condition)
    assert heard["class_labels"].item() == 0
    assert heard["mid_block_additional_residual"].item() == 2
    assert set(condition.extras) == {"class_labels"}


def test_everything_else_is_the_backbones_own(tiny: Tiny, wrap: Wrap) -> None:
    backbone = tiny(**V)
    told = wrap(backbone, pictures())
    for name in ("name", "family", "network", "device", "dtype", "latent_channels", "stride", "multiple"):
        assert getattr(told, name) == getattr(backbone, name)
    assert told.taps is backbone.taps
    assert told.default_size == backbone.default_size
    assert list(told.solvers) == list(backbone.solvers)
    assert told.levels(3, "dpm++2m") == backbone.levels(3, "dpm++2m")
    image = pictures() * 2 - 1
    latents = backbone.encode(image)
    assert torch.equal(told.encode(image), latents)
    assert torch.equal(told.decode(latents), backbone.decode(latents))


@pytest.mark.parametrize("wrap", ["controlnet", "t2i-adapter"], indirect=True)
def test_a_control_of_full_precision_serves_a_network_of_half(wrap: Wrap) -> None:
    half = UNetBackbone(tiny_stable_diffusion().to(torch.bfloat16))
    told = wrap(wrap(half, pictures()), pictures(), scale=0.5)
    apart = relative(look(told, beginnings()), look(half, beginnings()))
    assert 0.05 < apart < math.inf


# ------------------------------------------------------------------------------- a first block without attention


@pytest.fixture(scope="module")
def icons_like(tiny: Tiny) -> UNetBackbone:
    """A network of the shape of icons-64: its first block has no attention, so an adapter acts after it has shrunk."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        unet = UNet2DConditionModel(
            sample_size=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 24, 32),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=24,
        )
    parts = tiny().pipeline.components | {"unet": unet}
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return UNetBackbone(pipeline, name="icons-like")


XL = {"channels": [16, 24, 32, 32], "downscale_factor": 4, "adapter_type": "full_adapter_xl"}


@pytest.mark.parametrize("channels", [[16, 24, 32], [16, 24, 32, 32]], ids=["blocks", "blocks-and-middle"])
def test_an_adapter_for_a_first_block_without_attention(icons_like: UNetBackbone, channels: list[int]) -> None:
    adapter = new_adapter(**XL | {"channels": channels})
    latent, image = beginnings(), pictures(2)
    theirs = pipe(StableDiffusionAdapterPipeline, icons_like, latent, scale=1.0, adapter=adapter, image=image)
    assert relative(walk(with_t2i_adapter(icons_like, adapter, image), latent), theirs) < 1e-4


def test_the_middle_is_told_where_one_image_serves_all_rows(icons_like: UNetBackbone) -> None:
    """The UNet silently leaves out a middle feature with another number of rows."""
    adapter, image, latent = new_adapter(**XL), pictures(), beginnings()
    one = look(with_t2i_adapter(icons_like, adapter, image), latent)
    assert relative(one, look(with_t2i_adapter(icons_like, adapter, image.repeat(2, 1, 1, 1)), latent)) < 1e-5


# --------------------------------------------------------------------------------------- what does not fit


def test_a_controlnet_of_another_network_is_refused(tiny: Tiny, icons_like: UNetBackbone) -> None:
    with pytest.raises(MismatchError) as caught:
        with_controlnet(tiny(), new_controlnet(icons_like.network), pictures())
    assert "(16, 24, 32)" in caught.value.message
    assert "'tiny'" in caught.value.message
    assert "(16, 32, 32, 32)" in caught.value.message
    assert caught.value.field == "controlnet"


def test_a_controlnet_of_another_stride_is_refused(tiny: Tiny) -> None:
    with pytest.raises(MismatchError, match=r"by 4 .* by 2"):
        with_controlnet(tiny(), new_controlnet(tiny().network, halvings=2), pictures())


def test_a_controlnet_that_pools_over_the_picture_is_refused(tiny: Tiny) -> None:
    controlnet = new_controlnet(tiny().network)
    controlnet.register_to_config(global_pool_conditions=True)
    with pytest.raises(MismatchError, match="global_pool_conditions"):
        with_controlnet(tiny(), controlnet, pictures())


def test_several_in_one_are_refused_with_the_way_to_combine_them(tiny: Tiny, controlnet: ControlNetModel) -> None:
    with pytest.raises(MismatchError, match="MultiControlNetModel; with_controlnet takes a ControlNetModel") as caught:
        with_controlnet(tiny(), MultiControlNetModel([controlnet, controlnet]), pictures())
    assert "with_controlnet of what with_controlnet gives" in caught.value.hint
    with pytest.raises(MismatchError, match="MultiAdapter; with_t2i_adapter takes a T2IAdapter") as caught:
        with_t2i_adapter(tiny(), MultiAdapter([new_adapter(), new_adapter()]), pictures())
    assert caught.value.field == "adapter"


@pytest.mark.parametrize(
    "config", [{"channels": [16, 24, 32, 32]}, {"downscale_factor": 4}, {"channels": [16, 32, 32]}, XL], ids=str
)
def test_an_adapter_that_does_not_fit_is_refused(tiny: Tiny, config: dict[str, Any]) -> None:
    with pytest.raises(MismatchError, match=r"does not fit 'tiny'.*16x16x16, 32x8x8") as caught:
        with_t2i_adapter(tiny(), new_adapter(**config), pictures())
    assert caught.value.field == "adapter"


@pytest.mark.parametrize(
    ("image", "settings", "field"),
    [
        (pictures() * 2 - 1, {}, "image"),
        (pictures()[:, :1], {}, "image"),
        (pictures()[0], {}, "image"),
        (pictures(size=(24, 32)), {}, "image"),
        (pictures(), {"scale": float("nan")}, "scale"),
        (pictures(), {"window": (0.8, 0.2)}, "window"),
    ],
    ids=["range", "channels", "rank", "multiple", "scale", "window"],
)
def test_bad_input_is_refused(tiny: Tiny, wrap: Wrap, image: Tensor, settings: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        wrap(tiny(), image, **settings)
    assert caught.value.field == field


def test_an_image_that_is_not_the_pictures_is_refused(tiny: Tiny, wrap: Wrap) -> None:
    with pytest.raises(UsageError, match="48x32, the picture 32x32"):
        look(wrap(tiny(), pictures(size=(32, 48))), beginnings())
    with pytest.raises(UsageError, match="3 images for 2 pictures"):
        look(wrap(tiny(), pictures(3)), beginnings())


def test_a_control_that_lies_elsewhere_is_refused(tiny: Tiny, controlnet: ControlNetModel) -> None:
    elsewhere = new_controlnet(tiny().network).to("meta")
    with pytest.raises(UsageError, match="ControlNetModel is on meta, the model computes on cpu") as caught:
        with_controlnet(tiny(), elsewhere, torch.zeros(1, 3, 64, 64))
    assert caught.value.hint == "Move it there: .to('cpu')."
    with_controlnet(tiny(), controlnet, torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(("device", "fits"), [("cpu:0", True), ("cpu:1", False)])
def test_of_several_devices_of_a_kind_it_must_be_the_same(
    tiny: Tiny, controlnet: ControlNetModel, monkeypatch: pytest.MonkeyPatch, device: str, fits: bool
) -> None:
    monkeypatch.setattr(UNetBackbone, "device", property(lambda _: torch.device(device)))
    if fits:
        with_controlnet(tiny(), controlnet, torch.zeros(1, 3, 64, 64))
    else:
        with pytest.raises(UsageError, match="is on cpu, the model computes on cpu:1"):
            with_controlnet(tiny(), controlnet, torch.zeros(1, 3, 64, 64))


def test_a_control_whose_weights_change_behind_a_pass_is_refused_where_something_pulls(tiny: Tiny) -> None:
    control, cpu = new_controlnet(tiny().network), torch.device("cpu")
    told = with_controlnet(tiny(), control, torch.zeros(1, 3, 64, 64))
    control.enable_group_offload(cpu, cpu, offload_type="leaf_level")
    latent, condition, level = torch.zeros(1, 4, 32, 32), told.describe(["a cat"]), told.level(0.5)
    with torch.no_grad():
        assert told.predict(latent, level, condition).clean.isfinite().all()
    with pytest.raises(UsageError, match="through this ControlNetModel with group_offloading: its weights change"):
        told.predict(latent.requires_grad_(), level, condition)
