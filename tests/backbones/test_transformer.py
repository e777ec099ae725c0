"""Stable Diffusion 3: a transformer that walks by flow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, EulerDiscreteScheduler, StableDiffusion3Pipeline
from torch import Tensor

from sketchguide.backbones.tiny import tiny_stable_diffusion_3
from sketchguide.backbones.transformer import TransformerBackbone
from sketchguide.backbones.wrapped import with_controlnet
from sketchguide.errors import MismatchError, TapError, UsageError
from sketchguide.generation import generate
from sketchguide.loading import from_pipe, load_backbone
from sketchguide.predictors import LatentPredictor
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from sketchguide.sketch import Sketch
from sketchguide.training.told import begin_sketch_attention
from support import relative, trained

CROSS = Sketch.from_strokes([[[0.2, 0.2], [0.8, 0.8]], [[0.8, 0.2], [0.2, 0.8]]])
QUICK: dict[str, Any] = {"seed": 7, "steps": 3, "size": (48, 32)}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusion3Pipeline:
    pipeline = tiny_stable_diffusion_3()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def flowing(pipeline: StableDiffusion3Pipeline) -> TransformerBackbone:
    backbone = from_pipe(pipeline, name="flowing")
    assert isinstance(backbone, TransformerBackbone)
    return backbone


@pytest.fixture(scope="module")
def predictor(flowing: TransformerBackbone, tmp_path_factory: pytest.TempPathFactory) -> LatentPredictor:
    return trained(flowing, tmp_path_factory.mktemp("pictures"))


def walk(backbone: Any, latent: Tensor, *, negative: str = "", steps: int = 5, **controls: Any) -> Tensor:
    told, against = backbone.describe(["a cat"]), backbone.describe([negative])
    levels = backbone.levels(steps, size=(2 * latent.shape[-1], 2 * latent.shape[-2]))
    *_, last = sample(backbone, told, latent, levels, negative=against, scale=4.0, **controls)
    return last.latent


@pytest.mark.parametrize(
    "schedule", [{}, {"shift": 1.0}, {"use_karras_sigmas": True}, {"use_dynamic_shifting": True}], ids=str
)
@pytest.mark.parametrize("negative", [None, "a dog"])
def test_law_01_it_draws_what_the_pipeline_draws(schedule: dict[str, Any], negative: str | None) -> None:
    pipeline = tiny_stable_diffusion_3(**schedule)
    pipeline.set_progress_bar_config(disable=True)
    latent = noise(generators([3]), (16, 16, 24))
    theirs = pipeline(
        "a cat",
        negative_prompt=negative,
        num_inference_steps=5,
        guidance_scale=4.0,
        latents=latent,
        output_type="latent",
        height=32,
        width=48,
    ).images
    assert relative(walk(TransformerBackbone(pipeline), latent, negative=negative or ""), theirs) < 1e-4


def test_pictures_come_out_as_from_the_pipeline(pipeline: Any, flowing: TransformerBackbone) -> None:
    begin = torch.stack([noise(generators([7]), (16, 16, 24))[0]])
    theirs = pipeline("a cat", num_inference_steps=3, guidance_scale=4.0, latents=begin, height=32, width=48).images[0]
    (ours,) = generate("a cat", backbone=flowing, scale=4, **QUICK)
    assert np.abs(np.asarray(ours.image).astype(int) - np.asarray(theirs)).max() <= 1
    assert ours.made_with["solver"] == "euler"


def test_levels_of_training_are_those_of_the_scheduler(flowing: TransformerBackbone) -> None:
    first, middle, last = (flowing.level(progress) for progress in (0, 0.5, 1))
    assert (first.alpha, first.sigma, first.time) == (0, 1, 1000)
    assert middle.sigma == pytest.approx(0.75, abs=1e-3)  # half way, shifted by 3
    assert 0 < last.sigma < 0.01
    assert all(level.time == pytest.approx(1000 * level.sigma) for level in (middle, last))


def test_law_01_a_shift_that_is_set_on_the_scheduler_is_followed() -> None:
    pipeline = tiny_stable_diffusion_3(shift=3.0)
    pipeline.set_progress_bar_config(disable=True)
    backbone, latent = TransformerBackbone(pipeline), noise(generators([3]), (16, 16, 24))
    assert backbone.level(0.5).sigma == pytest.approx(0.75, abs=1e-3)
    pipeline.scheduler.set_shift(6.0)
    size = {"height": 32, "width": 48}
    settings: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 4.0, "output_type": "latent", **size}
    for _ in range(2):  # the pipeline leaves the levels of its walk on the scheduler
        assert relative(walk(backbone, latent), pipeline("a cat", latents=latent, **settings).images) < 1e-4
    assert backbone.level(0.5).sigma == pytest.approx(6 / 7, abs=1e-3)


def test_nine_blocks_are_read(flowing: TransformerBackbone, predictor: LatentPredictor) -> None:
    blocks = [int(path.split(".")[1]) for path in predictor.config.taps]
    assert blocks == [0, 1, 2, 3, 4, 6, 7, 8, 9]  # of ten
    assert predictor.config.taps[0] == "transformer_blocks.0"
    assert set(predictor.config.channels) == {32}
    assert predictor.config.family == "transformer"
    assert {tap.stride for tap in flowing.taps if tap.path in predictor.config.taps} == {2}


def test_a_t5_reads_the_prompt_too(tmp_path: Path) -> None:
    tiny_stable_diffusion_3(t5=True).save_pretrained(tmp_path / "sd3")
    backbone = load_backbone(tmp_path / "sd3", device="cpu")
    assert list(backbone.networks)[2:] == ["text_encoder", "text_encoder_2", "text_encoder_3"]
    prompts = ["a" * 200, "b" * 300]
    assert backbone.describe(prompts).embedding.shape[1] == 77 + 256
    short, long = backbone.unread(prompts)
    assert short == ""
    assert set(long) == {"b"}
    assert len(long) == pytest.approx(300 - 256, abs=2)
    (picture,) = generate("a cat", backbone=backbone, **QUICK)
    assert picture.image.size == (48, 32)


def test_what_it_cannot_do_is_refused(pipeline: Any, flowing: TransformerBackbone) -> None:
    with pytest.raises(UsageError, match="walks by flow, for which there is no solver 'dpm"):
        generate("a cat", backbone=flowing, solver="dpm++2m", **QUICK)
    with pytest.raises(TapError, match="that sketch attention could be added to"):
        begin_sketch_attention(flowing, seed=0)
    tiny = ControlNetModel(block_out_channels=(8,), down_block_types=("DownBlock2D",), norm_num_groups=8)
    with pytest.raises(MismatchError, match="for UNets"):
        with_controlnet(flowing, tiny, torch.zeros(1, 3, 32, 32))
    with pytest.raises(UsageError, match="stochastic_sampling"):
        TransformerBackbone(tiny_stable_diffusion_3(stochastic_sampling=True))
    other = tiny_stable_diffusion_3()
    other.scheduler = EulerDiscreteScheduler()
    with pytest.raises(UsageError, match="EulerDiscreteScheduler, which is not offered"):
        TransformerBackbone(other)
    parts = {name: part for name, part in pipeline.components.items() if name not in ("text_encoder_2", "tokenizer_2")}
    half = StableDiffusion3Pipeline(**parts, text_encoder_2=None, tokenizer_2=None)
    with pytest.raises(UsageError, match="not supported yet"):
        from_pipe(half)


def test_what_is_read_of_a_unet_does_not_fit(flowing: TransformerBackbone, make_predictor: Any) -> None:
    with pytest.raises(MismatchError):
        make_predictor().check_fits(flowing)


def test_a_size_without_places_is_refused(flowing: TransformerBackbone) -> None:
    assert flowing.largest == 128
    with pytest.raises(UsageError, match="192x64; flowing has places for 128 pixels a side"):
        generate("a cat", backbone=flowing, seed=1, steps=1, size=(192, 64))


def test_the_text_encoders_may_lie_elsewhere_together(
    flowing: TransformerBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = flowing.describe(["a cat"])
    monkeypatch.setattr(TransformerBackbone, "device", property(lambda _: torch.device("meta")))
    assert torch.equal(flowing.describe(["a cat"]).embedding, plain.embedding)
    alone = TransformerBackbone(tiny_stable_diffusion_3(), name="alone")
    alone.pipeline.text_encoder_2.to("meta")
    with pytest.raises(UsageError, match=r"on several devices \(text_encoder on cpu, text_encoder_2 on meta\)"):
        alone.describe(["a cat"])
