"""Flux: packed tokens, levels that shift with the size, and a scale of guidance that the network is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    FluxPipeline,
    MagCacheConfig,
    TaylorSeerCacheConfig,
    apply_first_block_cache,
    apply_mag_cache,
    apply_taylorseer_cache,
)
from safetensors.torch import save_file
from torch import Tensor

from sketchguide.backbones.tiny import tiny_flux
from sketchguide.backbones.transformer import FluxBackbone
from sketchguide.editing import edit
from sketchguide.errors import MismatchError, SketchguideWarning, TapError, UsageError
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.generation import generate
from sketchguide.loading import from_pipe
from sketchguide.lora import LORA_FILE, load_lora, unload_lora
from sketchguide.predictors import LatentPredictor
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from sketchguide.sketch import Sketch
from sketchguide.taps import tapped
from sketchguide.training.told import begin_sketch_attention
from support import changed, relative, trained

CROSS = Sketch.from_strokes([[[0.2, 0.2], [0.8, 0.8]], [[0.8, 0.2], [0.2, 0.8]]])
QUICK: dict[str, Any] = {"seed": 7, "steps": 3, "size": (48, 32)}
SCHNELL: dict[str, Any] = {"guidance_embeds": False, "use_dynamic_shifting": False, "shift": 1.0}


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    pipeline = tiny_flux()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def flux(pipeline: FluxPipeline) -> FluxBackbone:
    backbone = from_pipe(pipeline, name="flux")
    assert isinstance(backbone, FluxBackbone)
    return backbone


@pytest.fixture(scope="module")
def predictor(flux: FluxBackbone, tmp_path_factory: pytest.TempPathFactory) -> LatentPredictor:
    return trained(flux, tmp_path_factory.mktemp("pictures"))


def theirs(pipeline: Any, latent: Tensor, **settings: Any) -> Tensor:
    """What diffusers makes of `latent` (B, C, h, w)."""
    height, width = latent.shape[-2:]
    packed = pipeline._pack_latents(latent, *latent.shape)
    size = {"height": 2 * height, "width": 2 * width}
    made = pipeline("a cat", num_inference_steps=5, latents=packed, output_type="latent", **size, **settings).images
    return pipeline._unpack_latents(made, 2 * height, 2 * width, 2)


@pytest.mark.parametrize("size", [(48, 32), (64, 64)], ids=str)
@pytest.mark.parametrize("scheduler", [{}, SCHNELL, {"base_shift": 0.1, "max_image_seq_len": 400}], ids=str)
def test_law_01_it_draws_what_the_pipeline_draws(scheduler: dict[str, Any], size: tuple[int, int]) -> None:
    pipeline = tiny_flux(**scheduler)
    pipeline.set_progress_bar_config(disable=True)
    width, height = size
    latent = noise(generators([3]), (16, height // 2, width // 2))
    backbone = FluxBackbone(pipeline)
    told = backbone.describe(["a cat"])
    scale = 3.0 if backbone.distilled else 1.0  # without a negative prompt the pipeline takes no negative pass
    *_, last = sample(backbone, told, latent, backbone.levels(5, size=size), scale=scale)
    assert last.evaluations[:2] == (5, 0)
    assert relative(last.latent, theirs(pipeline, latent, guidance_scale=scale)) < 1e-4


def test_law_01_a_negative_pass_is_that_of_the_pipeline() -> None:
    pipeline = tiny_flux(**SCHNELL)
    pipeline.set_progress_bar_config(disable=True)
    latent = noise(generators([3]), (16, 16, 24))
    backbone = FluxBackbone(pipeline)
    told, against = backbone.describe(["a cat"]), backbone.describe(["a dog"])
    *_, last = sample(backbone, told, latent, backbone.levels(5, size=(48, 32)), negative=against, scale=4.0)
    expected = theirs(pipeline, latent, negative_prompt="a dog", true_cfg_scale=4.0)
    assert relative(last.latent, expected) < 1e-4


def test_the_scale_is_told(flux: FluxBackbone) -> None:
    (weak,) = generate("a cat", backbone=flux, scale=2, **QUICK)
    (strong,) = generate("a cat", backbone=flux, scale=8, **QUICK)
    assert changed(weak, strong) > 0
    assert strong.evaluations.negative == 0
    with pytest.warns(SketchguideWarning, match="negative prompt is not read: flux is told"):
        (same,) = generate("a cat", backbone=flux, scale=8, negative="a dog", **QUICK)
    assert changed(strong, same) == 0
    told = flux.describe(["a cat"])
    assert told.guided(8.3).extras["guidance"].dtype == torch.float32
    with pytest.raises(UsageError, match="scale is nan"):
        next(sample(flux, told, noise(generators([3]), (16, 16, 24)), flux.levels(2), scale=float("nan")))
    with pytest.warns(SketchguideWarning, match="negative_time changes nothing without a negative pass"):
        generate("a cat", backbone=flux, negative_time=0.5, **QUICK)


def test_levels_shift_with_the_size(flux: FluxBackbone) -> None:
    small, usual, large = (flux.levels(4, size=size)[2].sigma for size in ((32, 32), (64, 64), (1024, 1024)))
    assert small < usual < large
    assert flux.levels(4) == flux.levels(4, size=flux.default_size)
    assert usual == pytest.approx(np.exp(0.5) / (np.exp(0.5) + 1), abs=0.01)  # half way; 256 tokens
    assert flux.level(0.5).sigma == pytest.approx(usual, abs=1e-2)
    assert flux.level(0)[:3] == (1000, 0, 1)
    with pytest.raises(UsageError, match="steps is -1"):
        flux.levels(-1)


def test_nine_blocks_are_read(flux: FluxBackbone, predictor: LatentPredictor) -> None:
    kinds = [path.split(".")[0] for path in predictor.config.taps]
    assert kinds == ["transformer_blocks"] * 3 + ["single_transformer_blocks"] * 6  # of four and eight
    assert predictor.config.taps[0] == "transformer_blocks.0"
    assert predictor.config.taps[-1] == "single_transformer_blocks.7"
    assert set(predictor.config.channels) == {32}
    assert predictor.config.family == "flux"
    attention = "transformer_blocks.0.attn"  # whose pairs have the text last
    assert attention not in {tap.path for tap in flux.taps}
    with (
        torch.no_grad(),
        pytest.raises(TapError, match="yields a tuple"),
        tapped(flux.network, [attention]),
    ):
        flux.predict(noise(generators([3]), (16, 16, 24)), flux.level(0.5), flux.describe(["a cat"]))
    assert {tap.stride for tap in flux.taps if tap.path in predictor.config.taps} == {2}


def test_a_size_that_is_not_the_pictures_own_is_told(
    flux: FluxBackbone, predictor: LatentPredictor, tmp_path: Path
) -> None:
    (picture,) = generate("a cat", backbone=flux, seed=1, steps=2)
    picture.save(tmp_path / "cat.png")
    settings: dict[str, Any] = {"source": "generated", "predictor": predictor, "size": (64, 48), "steps": 2, "seed": 1}
    cut, small = (pytest.warns(SketchguideWarning, match=words) for words in ("6% of what would", "was trained for"))
    with small, cut, pytest.raises(UsageError, match="was made in 64 × 64"):
        edit(tmp_path / "cat.png", "a cat", sketch=CROSS, backbone=flux, **settings)


def test_a_long_prompt_is_read_as_far_as_the_t5_reads(flux: FluxBackbone) -> None:
    short, long = flux.unread(["a" * 500, "b" * 600])
    assert short == ""
    assert set(long) == {"b"}
    assert len(long) == pytest.approx(600 - 512, abs=2)


def test_what_it_cannot_do_is_refused(flux: FluxBackbone, pipeline: Any) -> None:
    with pytest.raises(TapError, match="that sketch attention could be added to"):
        begin_sketch_attention(flux, seed=0)
    with pytest.raises(UsageError, match="needs multiples of 4 pixels"):
        generate("a cat", backbone=flux, seed=1, steps=2, size=(50, 32))
    parts = {name: part for name, part in pipeline.components.items() if name not in ("text_encoder_2", "tokenizer_2")}
    with pytest.raises(UsageError, match="not supported yet"):
        from_pipe(FluxPipeline(**parts, text_encoder_2=None, tokenizer_2=None))


@pytest.mark.parametrize("way", ["enable_cache", "apply"])
@pytest.mark.parametrize(
    ("apply", "config"),
    [
        (apply_first_block_cache, FirstBlockCacheConfig(threshold=5.0)),
        (apply_taylorseer_cache, TaylorSeerCacheConfig()),
        (apply_mag_cache, MagCacheConfig(num_inference_steps=3, mag_ratios=[1.0] * 3)),
    ],
    ids=["first block", "taylorseer", "mag"],
)
def test_a_network_that_repeats_itself_is_refused(apply: Any, config: Any, way: str) -> None:
    pipeline = tiny_flux()
    if way == "apply":
        apply(pipeline.transformer, config)
    else:
        pipeline.transformer.enable_cache(config)
    with pytest.raises(UsageError, match="repeats what its blocks said at an earlier step") as caught:
        generate("a cat", backbone=from_pipe(pipeline), **QUICK)
    assert "pipeline.transformer.disable_cache()" in caught.value.hint


CHANGING = {
    "it replaces weights of the model": {"transformer_blocks.0.attn.norm_q.weight": torch.ones(8)},
    "lora_A of x_embedder is for 128 values, not 64": {
        "x_embedder.lora_A.weight": torch.ones(2, 128),
        "x_embedder.lora_B.weight": torch.ones(32, 2),
    },
    "lora_B of proj_out is for 96 values, not 64": {
        "proj_out.lora_A.weight": torch.ones(2, 32),
        "proj_out.lora_B.weight": torch.ones(96, 2),
    },
}


@pytest.mark.parametrize("reason", CHANGING)
def test_a_lora_that_would_change_the_model_for_good_is_refused(reason: str, tmp_path: Path) -> None:
    """As those of FLUX.1-Canny and -Depth would."""
    backbone = from_pipe(tiny_flux(), name="flux")
    query = "transformer_blocks.0.attn.to_q"
    plain = {f"{query}.lora_A.weight": torch.ones(2, 32), f"{query}.lora_B.weight": torch.ones(32, 2)}
    for name, weights in (("plain", plain), ("changing", plain | CHANGING[reason])):
        (tmp_path / name).mkdir()
        save_file({f"transformer.{path}": t for path, t in weights.items()}, tmp_path / name / LORA_FILE)
    before = fingerprint_of_model(backbone)
    load_lora(tmp_path / "plain", backbone)
    tuned = fingerprint_of_model(backbone)
    assert tuned != before
    with pytest.raises(MismatchError, match=f"does not fit 'flux': .*{reason}"):
        load_lora(tmp_path / "changing", backbone)
    assert fingerprint_of_model(backbone) == tuned
    unload_lora(backbone)
    assert fingerprint_of_model(backbone) == before
    assert backbone.network.config.in_channels == 64  # type: ignore[union-attr]


def test_a_lora_of_another_flux_is_said_not_to_fit(tmp_path: Path) -> None:
    """diffusers knows the layers of both under one name, and holds the sizes of those of FLUX.2 to FLUX.1's."""
    name = "lora_unet_single_blocks_0_linear1"
    made = {f"{name}.lora_down.weight": torch.ones(2, 32), f"{name}.lora_up.weight": torch.ones(288, 2)}
    save_file(made, tmp_path / LORA_FILE)
    with pytest.raises(MismatchError, match="does not fit 'flux'"):
        load_lora(tmp_path, from_pipe(tiny_flux(), name="flux"))
