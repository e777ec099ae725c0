"""ControlNets of transformers: Stable Diffusion 3 and Flux."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    AutoencoderKL,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
)
from torch import Tensor, nn

from sketchguide.backbones.tiny import tiny_flux, tiny_stable_diffusion_3
from sketchguide.backbones.wrapped import with_controlnet
from sketchguide.building import build_method
from sketchguide.errors import MismatchError, UsageError
from sketchguide.extractors import EXTRACTORS
from sketchguide.loading import from_pipe
from sketchguide.methods import Batch
from sketchguide.request import Request
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from sketchguide.sketch import Sketch
from sketchguide.training.data import Pictures, find_examples
from sketchguide.training.told import ToldRun, ToldTraining
from support import relative

WIDTH, HEIGHT, STEPS = 48, 32, 4
SD3: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 16,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 48,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 48,
    "pos_embed_max_size": 32,
}
FLUX: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 3,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 24,
    "axes_dims_rope": (2, 2, 4),
}


def telling(kind: type[nn.Module], settings: dict[str, Any], *, seed: int = 5) -> Any:
    """A ControlNet that says something: as they come, their last layers are 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        control: Any = kind(**settings)
        for parameter in control.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return control.eval()


def certain(pipeline: Any) -> Any:
    """One whose autoencoder is sure of every latent: diffusers draws those of images for ControlNets."""
    quant = pipeline.vae.quant_conv
    half = quant.out_channels // 2
    with torch.no_grad():
        quant.weight[half:] = 0
        quant.bias[half:] = -30
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def sd3() -> Any:
    return certain(tiny_stable_diffusion_3())


@pytest.fixture(scope="module")
def flux() -> Any:
    return certain(tiny_flux())


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def latent() -> Tensor:
    return noise(generators([3]), (16, HEIGHT // 2, WIDTH // 2))


def walked(backbone: Any, latent: Tensor, *, scale: float) -> Tensor:
    told, against = backbone.describe(["a cat"]), backbone.describe([""])
    levels = backbone.levels(STEPS, size=(WIDTH, HEIGHT))
    *_, last = sample(backbone, told, latent, levels, negative=against, scale=scale)
    return last.latent


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"force_zeros_for_pooled_projection": False},
        {"use_pos_embed": False, "joint_attention_dim": None, "num_layers": 4},  # as those of SD 3.5 large
    ],
    ids=["InstantX", "told the pooled prompt", "3.5 large"],
)
def test_law_01_sd3_is_told_as_by_diffusers(sd3: Any, image: Tensor, latent: Tensor, more: dict[str, Any]) -> None:
    control = telling(SD3ControlNetModel, SD3 | more)
    theirs = StableDiffusion3ControlNetPipeline(**sd3.components, controlnet=control)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        "a cat",
        control_image=2 * image - 1,  # as these pipelines make of pictures; tensors they take as they are
        controlnet_conditioning_scale=0.7,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        latents=latent,
        output_type="latent",
    ).images
    if not more.get("use_pos_embed", True):
        control.pos_embed = None  # as it was before that pipeline lent it the network's
    told = with_controlnet(from_pipe(sd3), control, image, scale=0.7)
    found = walked(told, latent, scale=4.0)
    assert relative(found, expected) < 1e-4
    assert relative(walked(from_pipe(sd3), latent, scale=4.0), expected) > 1e-2


@pytest.mark.parametrize(
    ("more", "mode"),
    [({}, None), ({"guidance_embeds": True, "num_single_layers": 0}, None), ({"num_mode": 4}, 2)],
    ids=["InstantX", "told the scale", "Union"],
)
def test_law_01_flux_is_told_as_by_diffusers(
    flux: Any, image: Tensor, latent: Tensor, more: dict[str, Any], mode: int | None
) -> None:
    control = telling(FluxControlNetModel, FLUX | more)
    theirs = FluxControlNetPipeline(**flux.components, controlnet=control)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        "a cat",
        control_image=2 * image - 1,
        control_mode=mode,
        controlnet_conditioning_scale=0.7,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=theirs._pack_latents(latent, *latent.shape),
        output_type="latent",
    ).images
    expected = theirs._unpack_latents(expected, HEIGHT, WIDTH, 2)
    told = with_controlnet(from_pipe(flux), control, image, scale=0.7, mode=mode)
    assert relative(walked(told, latent, scale=3.0), expected) < 1e-4
    assert relative(walked(from_pipe(flux), latent, scale=3.0), expected) > 1e-2


def test_law_01_one_of_flux_may_read_the_image_itself(flux: Any, image: Tensor, latent: Tensor) -> None:
    """As those of XLabs do, at an eighth of the picture's size; their samples join the blocks in turn."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL.from_config(flux.vae.config, block_out_channels=(8,) * 4, **blocks)
    parts = flux.components | {"vae": vae.eval()}
    settings = FLUX | {"conditioning_embedding_channels": 16, "num_layers": 2, "num_single_layers": 0, "patch_size": 2}
    control = telling(FluxControlNetModel, settings)
    theirs = FluxControlNetPipeline(**parts, controlnet=control)
    theirs.set_progress_bar_config(disable=True)
    large = torch.nn.functional.interpolate(image, scale_factor=4)
    expected = theirs(
        "a cat",
        control_image=2 * large - 1,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=theirs._pack_latents(latent, *latent.shape),
        output_type="latent",
    ).images
    expected = theirs._unpack_latents(expected, 4 * HEIGHT, 4 * WIDTH, 8)
    backbone = with_controlnet(from_pipe(FluxPipeline(**parts)), control, large)
    told = backbone.describe(["a cat"])
    *_, last = sample(backbone, told, latent, backbone.levels(STEPS, size=(4 * WIDTH, 4 * HEIGHT)), scale=3.0)
    assert relative(last.latent, expected) < 1e-4


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_pictures_of_a_batch_are_told_alone(
    family: str, image: Tensor, latent: Tensor, request: pytest.FixtureRequest
) -> None:
    kind, settings = (SD3ControlNetModel, SD3) if family == "sd3" else (FluxControlNetModel, FLUX)
    plain, control = from_pipe(request.getfixturevalue(family)), telling(kind, settings)
    images, latents = torch.cat([image, image.flip(-1)]), torch.cat([latent, latent.flip(-1)])

    def first(image: Tensor, latent: Tensor) -> Tensor:
        backbone = with_controlnet(plain, control, image)
        return backbone.predict(latent, backbone.level(0.3), backbone.describe(["a cat"] * len(latent))).clean

    with torch.no_grad():
        together, shared = first(images, latents), first(image, latents)
        for row in (0, 1):
            assert relative(first(images[row : row + 1], latents[row : row + 1]), together[row : row + 1]) < 1e-4
            assert relative(first(image, latents[row : row + 1]), shared[row : row + 1]) < 1e-4


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_two_act_together_and_one_of_scale_0_not_at_all(
    family: str, image: Tensor, latent: Tensor, request: pytest.FixtureRequest
) -> None:
    kind, settings = (SD3ControlNetModel, SD3) if family == "sd3" else (FluxControlNetModel, FLUX)
    plain = from_pipe(request.getfixturevalue(family))
    one, other = telling(kind, settings), telling(kind, {**settings, "num_layers": 2}, seed=6)
    alone = with_controlnet(plain, one, image)
    silent = with_controlnet(alone, other, image, scale=0)
    both = with_controlnet(alone, other, image)
    assert torch.equal(walked(alone, latent, scale=1.0), walked(silent, latent, scale=1.0))
    swapped = with_controlnet(with_controlnet(plain, other, image), one, image)
    assert relative(walked(both, latent, scale=1.0), walked(swapped, latent, scale=1.0)) < 1e-4
    assert relative(walked(both, latent, scale=1.0), walked(alone, latent, scale=1.0)) > 1e-3


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_benchmarks_take_them_from_a_folder(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kind, settings = (SD3ControlNetModel, SD3) if family == "sd3" else (FluxControlNetModel, FLUX)
    more = {"num_mode": 4} if family == "flux" else {}
    telling(kind, settings | more).save_pretrained(tmp_path)
    backbone = from_pipe(request.getfixturevalue(family))
    cross = Sketch.from_strokes([[[0.2, 0.2], [0.8, 0.8]], [[0.8, 0.2], [0.2, 0.8]]])
    maps = [cross.rasterize(size=(WIDTH, HEIGHT))]
    asked = Request.checked(prompt="", seed=0, steps=2, size=(WIDTH, HEIGHT))
    latents: list[Tensor] = []
    for weight in (1, 0):
        mode = ",mode=2" if family == "flux" else ""
        built = build_method(f"controlnet:path={tmp_path},weight={weight}{mode}", backbone)
        assert isinstance(built.networks[0].network, kind)
        *_, last = built.method(Batch(backbone, asked, ["a cat"], maps, [7]))
        latents.append(last.latent)
    assert relative(*latents) > 1e-3


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_one_can_be_trained(family: str, boxes: Path, request: pytest.FixtureRequest) -> None:
    kind, settings = (SD3ControlNetModel, SD3) if family == "sd3" else (FluxControlNetModel, FLUX)
    backbone = from_pipe(request.getfixturevalue(family))
    told = with_controlnet(backbone, telling(kind, settings), torch.zeros(1, 3, 32, 32))
    run = ToldRun(
        told,
        Pictures(find_examples(boxes), size=(32, 32)),
        EXTRACTORS["edges"],
        ToldTraining(rate=3e-3, drop=0.5, steps=8, batch=2, warmup=1),
    )
    scored = run.pictures.fixed(2)
    before = run.score(*scored)
    list(run)
    assert run.score(*scored) < before - 1e-3
    assert not any(parameter.requires_grad for parameter in backbone.network.parameters())


def test_what_does_not_fit_is_refused(sd3: Any, flux: Any, image: Tensor) -> None:
    ours, theirs = telling(SD3ControlNetModel, SD3), telling(FluxControlNetModel, FLUX)
    with pytest.raises(MismatchError, match="is for Stable Diffusion 3's transformers and does not fit"):
        with_controlnet(from_pipe(flux), ours, image)
    with pytest.raises(MismatchError, match="is for Flux's transformers and does not fit"):
        with_controlnet(from_pipe(sd3), theirs, image)
    wide = telling(SD3ControlNetModel, SD3 | {"pooled_projection_dim": 64})
    with pytest.raises(MismatchError, match=r"pooled_projection_dim 64 and does not fit .*, which has 48"):
        with_controlnet(from_pipe(sd3), wide, image)
    with pytest.raises(MismatchError, match="reads a mask"):
        with_controlnet(from_pipe(sd3), telling(SD3ControlNetModel, SD3 | {"extra_conditioning_channels": 1}), image)
    with pytest.raises(UsageError, match="has 1 channels"):
        with_controlnet(from_pipe(sd3), ours, image[:, :1])
    with pytest.raises(UsageError, match="knows one kind of image"):
        with_controlnet(from_pipe(flux), theirs, image, mode=0)
    with pytest.raises(UsageError, match="knows one kind of image"):
        with_controlnet(from_pipe(sd3), ours, image, mode=0)
    union = telling(FluxControlNetModel, FLUX | {"num_mode": 4})
    for mode in (None, 4):
        with pytest.raises(UsageError, match=rf"mode is {mode}; .* 0 to 3"):
            with_controlnet(from_pipe(flux), union, image, mode=mode)
    hinted = telling(FluxControlNetModel, FLUX | {"conditioning_embedding_channels": 16})
    with pytest.raises(MismatchError, match="shrinks its image by 8"):
        with_controlnet(from_pipe(flux), hinted, image)


@pytest.mark.parametrize(
    ("network", "kind", "settings"),
    [(tiny_stable_diffusion_3, SD3ControlNetModel, SD3), (tiny_flux, FluxControlNetModel, FLUX)],
    ids=["sd3", "flux"],
)
def test_a_control_of_full_precision_serves_a_network_of_half(
    network: Callable[[], Any], kind: type[nn.Module], settings: dict[str, Any], image: Tensor, latent: Tensor
) -> None:
    half = from_pipe(network().to(torch.bfloat16))
    told = with_controlnet(half, telling(kind, settings), image)
    level, shown = half.level(0.3), half.describe(["a cat"])
    apart = relative(told.predict(latent, level, shown).clean, half.predict(latent, level, shown).clean)
    assert 0.01 < apart < math.inf


def test_a_layer_that_is_borrowed_must_be_at_hand(image: Tensor) -> None:
    pipeline = tiny_stable_diffusion_3()
    cpu_offload(pipeline.transformer, execution_device=torch.device("cpu"))
    control = telling(SD3ControlNetModel, SD3 | {"use_pos_embed": False, "joint_attention_dim": None, "num_layers": 4})
    with pytest.raises(UsageError, match="weights sequential offloading keeps away"):
        with_controlnet(from_pipe(pipeline), control, image)
