"""SDXL: two text encoders, pooled text, and sizes that the network is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from sketchguide.attention import SketchAttention, describe_attention
from sketchguide.backbones.tiny import tiny_stable_diffusion_xl
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.backbones.wrapped import with_controlnet, with_sketch_attention, with_t2i_adapter
from sketchguide.classifiers import IconClassifier
from sketchguide.controls.base import Step
from sketchguide.controls.features import choose_places
from sketchguide.controls.strengths import Proportional
from sketchguide.errors import UsageError
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.generation import generate
from sketchguide.loading import from_pipe, load_backbone
from sketchguide.lora import LORA_FILE, load_lora, unload_lora
from sketchguide.perception import Features
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from sketchguide.sketch import Sketch
from sketchguide.sketchers import Sketcher, SketcherConfig
from sketchguide.training.finetune import FineTuneRun, FineTuning, Judges
from sketchguide.translation import translate
from support import relative, trained

CROSS = Sketch.from_strokes([[[0.2, 0.2], [0.8, 0.8]], [[0.8, 0.2], [0.2, 0.8]]])
SIZE = (48, 32)
QUICK: dict[str, Any] = {"seed": 7, "steps": 2, "size": SIZE}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    pipeline = tiny_stable_diffusion_xl()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def xl(pipeline: StableDiffusionXLPipeline) -> UNetBackbone:
    backbone = from_pipe(pipeline, name="xl")
    assert isinstance(backbone, UNetBackbone)
    return backbone


def walk(backbone: Any, negative: str, latent: Tensor) -> Tensor:
    levels = backbone.levels(3, "ddim")
    told, against = backbone.describe(["a cat"]), backbone.describe([negative])
    *_, last = sample(backbone, told, latent, levels, negative=against, scale=4.0)
    return last.latent


def theirs(pipeline: Any, latent: Tensor, **more: Any) -> Tensor:
    from diffusers import DDIMScheduler

    before = pipeline.scheduler
    pipeline.scheduler = DDIMScheduler.from_config(before.config)
    try:
        return pipeline(
            "a cat",
            num_inference_steps=3,
            guidance_scale=4.0,
            latents=latent,
            output_type="latent",
            height=latent.shape[-2] * 2,
            width=latent.shape[-1] * 2,
            **more,
        ).images
    finally:
        pipeline.scheduler = before


@pytest.mark.parametrize("negative", [None, "a dog"])
def test_it_draws_what_the_pipeline_draws(pipeline: Any, xl: UNetBackbone, negative: str | None) -> None:
    latent = noise(generators([3]), (4, 16, 24))
    assert relative(walk(xl, negative or "", latent), theirs(pipeline, latent, negative_prompt=negative)) < 1e-4


def test_sizes_and_the_second_encoder_are_heard(xl: UNetBackbone) -> None:
    told, level = xl.describe(["a cat"]), xl.level(0.5)
    latent = noise(generators([3]), (4, 16, 16))
    assert tuple(told.extras["text_embeds"].shape) == (1, 24)  # type: ignore[union-attr]
    prediction = xl.predict(latent, level, told).noise
    silent = type(told)(told.embedding, {"text_embeds": torch.zeros(1, 24)})
    assert relative(xl.predict(latent, level, silent).noise, prediction) > 1e-4
    given: dict[str, Any] = {}
    hook = xl.network.register_forward_pre_hook(lambda _, __, kwargs: given.update(kwargs), with_kwargs=True)
    xl.predict(torch.zeros(2, 4, 16, 24), level, xl.describe(["a", "b"]))
    hook.remove()
    assert given["added_cond_kwargs"]["time_ids"].tolist() == [[32, 48, 0, 0, 32, 48]] * 2


def test_an_empty_prompt_is_nothing_beside_others(xl: UNetBackbone) -> None:
    both, alone = xl.describe(["a cat", ""]), xl.describe(["a cat"])
    assert torch.allclose(both.embedding[:1], alone.embedding, atol=1e-6)
    assert both.embedding[1].abs().max() == 0
    assert both.extras["text_embeds"][1].abs().max() == 0  # type: ignore[union-attr]


def test_a_predictor_is_trained_and_pulls(xl: UNetBackbone, tmp_path: Path) -> None:
    predictor = trained(xl, tmp_path)
    assert len(predictor.config.taps) == 9  # one per stage, three of them in the middle
    (plain,) = generate("a cat", backbone=xl, **QUICK)
    (pulled,) = generate("a cat", backbone=xl, sketch=CROSS, predictor=predictor, **QUICK)
    assert np.abs(np.asarray(plain.image).astype(int) - np.asarray(pulled.image)).max() > 5


def test_layout_is_borrowed_where_ctrl_x_does(xl: UNetBackbone) -> None:
    places = choose_places(xl.taps)
    assert places.features == ("up_blocks.0.resnets.0",)
    assert all(path.startswith("up_blocks.0.attentions.") for path in places.attention)
    settings = {**QUICK, "size": (64, 64)}
    (plain,) = generate("a cat", backbone=xl, **settings)
    (again,) = translate(CROSS, "a cat", backbone=xl, source="noised", **settings)
    assert np.abs(np.asarray(plain.image).astype(int) - np.asarray(again.image)).max() > 5


def test_a_controlnet_is_told_as_much(pipeline: StableDiffusionXLPipeline, xl: UNetBackbone) -> None:
    control = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 12)).eval()
    with torch.no_grad():
        for index, parameter in enumerate(control.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    image, latent = torch.rand(1, 3, 32, 48), noise(generators([3]), (4, 16, 24))
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    whole = StableDiffusionXLControlNetPipeline(**parts, controlnet=control, add_watermarker=False)
    whole.set_progress_bar_config(disable=True)
    expected = theirs(whole, latent, image=image)
    assert relative(walk(with_controlnet(xl, control, image), "", latent), expected) < 1e-4
    assert relative(walk(xl, "", latent), expected) > 1e-3


def test_an_adapter_is_heard(pipeline: StableDiffusionXLPipeline, xl: UNetBackbone) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        adapter = T2IAdapter(
            channels=[16, 32, 32], num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter_xl"
        ).eval()
    image, latent = torch.rand(1, 3, 32, 48), noise(generators([3]), (4, 16, 24))
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    whole = StableDiffusionXLAdapterPipeline(**parts, adapter=adapter)
    whole.set_progress_bar_config(disable=True)
    expected = theirs(whole, latent, image=image)
    assert relative(walk(with_t2i_adapter(xl, adapter, image), "", latent), expected) < 1e-4
    assert relative(walk(xl, "", latent), expected) > 1e-3


def test_sketch_attention_is_heard(xl: UNetBackbone) -> None:
    attention = SketchAttention(describe_attention(xl.taps, backbone="xl", pixels=xl.stride))
    with torch.no_grad():
        for layer in attention.parameters():
            layer.add_(0.1)
    ink, latent = torch.tensor(CROSS.rasterize(size=(48, 32)).ink)[None, None], noise(generators([3]), (4, 16, 24))
    told = with_sketch_attention(xl, attention, ink)
    assert relative(walk(told, "", latent), walk(xl, "", latent)) > 1e-3
    assert relative(walk(with_sketch_attention(xl, attention, ink, scale=0), "", latent), walk(xl, "", latent)) == 0


def test_it_is_tuned_and_plain_diffusers_takes_the_lora(tmp_path: Path) -> None:
    backbone = UNetBackbone(tiny_stable_diffusion_xl(seed=2), name="xl")
    sketcher = Sketcher(SketcherConfig(width=8, blocks=1)).eval().requires_grad_(False)
    judges = Judges(sketcher, *(Features(IconClassifier(("a", "b"), size=32, channels=(8, 16))) for _ in range(2)))
    ink = torch.zeros(1, 1, 32, 32)
    ink[:, :, 8, 4:28] = 1
    settings = FineTuning(steps=2, levels=2, rank=2, targets=("attn1.to_q",), refine=1, rate=1e-2, unseen=1)
    photo = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latent = noise(generators([3]), (4, 16, 16))
    before = walk(backbone, "", latent)
    run = FineTuneRun(backbone, photo, ink, judges, settings, prompt="a cat")
    list(run)
    run.save(tmp_path)
    with run.averaged():
        tuned = walk(backbone, "", latent)
    plain = tiny_stable_diffusion_xl(seed=2)
    plain.load_lora_weights(str(tmp_path), weight_name=LORA_FILE)
    found = walk(UNetBackbone(plain, name="xl"), "", latent)
    assert relative(found, tuned) < 0.05 * relative(found, before)


def test_a_lora_goes_on_and_off(tmp_path: Path) -> None:
    backbone = from_pipe(tiny_stable_diffusion_xl(seed=1), name="xl")
    assert isinstance(backbone, UNetBackbone)
    other = tiny_stable_diffusion_xl(seed=1)
    other.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    weights = {f"unet.{name}": value.contiguous() for name, value in get_peft_model_state_dict(other.unet).items()}
    save_file(weights, tmp_path / LORA_FILE)
    (before,) = generate("a cat", backbone=backbone, **QUICK)
    load_lora(tmp_path, backbone)
    (tuned,) = generate("a cat", backbone=backbone, **QUICK)
    unload_lora(backbone)
    (after,) = generate("a cat", backbone=backbone, **QUICK)
    assert np.asarray(tuned.image).tolist() != np.asarray(before.image).tolist()
    assert np.asarray(after.image).tolist() == np.asarray(before.image).tolist()


def test_a_folder_is_loaded_and_known_by_both_encoders(tmp_path: Path) -> None:
    pipeline = tiny_stable_diffusion_xl()
    pipeline.save_pretrained(tmp_path / "xl")
    backbone = load_backbone(tmp_path / "xl", device="cpu")
    assert list(backbone.networks) == ["network", "autoencoder", "text_encoder", "text_encoder_2"]
    before = fingerprint_of_model(backbone)
    with torch.no_grad():
        backbone.networks["text_encoder_2"].text_projection.weight.mul_(2)  # type: ignore[union-attr]
    assert fingerprint_of_model(backbone) != before


def test_half_of_it_and_more_are_refused(pipeline: StableDiffusionXLPipeline) -> None:
    from diffusers import UNet2DConditionModel

    config = dict(pipeline.unet.config) | {"projection_class_embeddings_input_dim": 24 + 5 * 8}
    refiner = UNet2DConditionModel.from_config(config)
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    with pytest.raises(UsageError, match="a score beside the sizes"):
        from_pipe(StableDiffusionXLPipeline(**parts | {"unet": refiner}, add_watermarker=False))
    moved = tiny_stable_diffusion_xl()
    moved.vae.register_to_config(latents_mean=[0.0] * 4)
    with pytest.raises(UsageError, match="latents_mean"):
        from_pipe(moved)


def test_an_autoencoder_that_overflows_in_half_precision_is_used_in_full() -> None:
    pipeline = tiny_stable_diffusion_xl().to(torch.float16)
    backbone = UNetBackbone(pipeline, name="xl")
    seen: list[torch.dtype] = []
    for part in (pipeline.vae.encoder, pipeline.vae.decoder):
        part.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    latent = backbone.encode(torch.zeros(1, 3, 16, 16))
    backbone.decode(latent)
    assert seen == [torch.float32] * 2
    assert pipeline.vae.dtype == torch.float16
    pulled = backbone.decode(latent.requires_grad_())
    assert pipeline.vae.dtype == torch.float16
    gradients = [torch.autograd.grad(pulled.sum(), latent, retain_graph=True)[0] for _ in range(2)]
    pipeline.vae.to(torch.float32)
    (wanted,) = torch.autograd.grad(backbone.decode(latent).sum(), latent)
    for gradient in gradients:
        assert torch.equal(gradient, wanted)
    pipeline.vae.to(torch.float16).register_to_config(force_upcast=False)
    seen.clear()
    backbone.decode(latent.detach())
    assert seen == [torch.float16]


@pytest.mark.parametrize("end", ["closed", "raised"])
def test_law_06_a_walk_that_ends_early_leaves_the_autoencoder_as_it_was(end: str) -> None:
    pipeline = tiny_stable_diffusion_xl().to(torch.float16)
    backbone = UNetBackbone(pipeline, name="xl")

    class Bright:
        reads, window, strength, every = (), (0.0, 1.0), Proportional(1.0), 1

        def loss(self, step: Step) -> Tensor:
            brightness = backbone.decode(step.prediction.clean).mean(dim=(1, 2, 3))
            if end == "raised":
                raise RuntimeError("of a user")
            return brightness

    told, latent = backbone.describe(["a cat"]), noise(generators([3]), (4, 16, 16))
    steps = sample(backbone, told, latent, backbone.levels(3), guides=[Bright()])
    if end == "raised":
        with pytest.raises(RuntimeError, match="of a user"):
            next(steps)
    else:
        next(steps)
        steps.close()  # type: ignore[attr-defined]
    assert {p.dtype for p in pipeline.vae.parameters()} == {torch.float16}


def test_an_autoencoder_that_comes_back_in_half_precision_is_refused(tmp_path: Path) -> None:
    pipeline, cpu = tiny_stable_diffusion_xl().to(torch.float16), torch.device("cpu")
    backbone = UNetBackbone(pipeline)
    pipeline.vae.enable_group_offload(cpu, cpu, offload_type="leaf_level", offload_to_disk_path=str(tmp_path))
    for refused in (lambda: UNetBackbone(pipeline), lambda: backbone.decode(torch.zeros(1, 4, 8, 8))):
        with pytest.raises(UsageError, match="must work in float32, and group offloading"):
            refused()
    pipeline.vae.register_to_config(force_upcast=False)  # as that which was made for float16
    UNetBackbone(pipeline)
