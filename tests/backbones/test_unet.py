from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload
from diffusers import (
    ControlNetModel,
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PyramidAttentionBroadcastConfig,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    apply_pyramid_attention_broadcast,
)
from peft import LoraConfig

from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.backbones.wrapped import with_controlnet
from sketchguide.errors import SketchguideWarning, UsageError
from sketchguide.request import Request
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from sketchguide.walking import walk
from support import Tiny, relative


def test_sizes(tiny: Tiny) -> None:
    backbone = tiny()
    assert (backbone.stride, backbone.multiple, backbone.default_size) == (2, 16, (64, 64))
    assert (backbone.latent_channels, backbone.family, backbone.name) == (4, "unet", "tiny")
    assert backbone.dtype == torch.float32
    assert backbone.device.type == "cpu"


def test_pictures_go_in_and_out(tiny: Tiny) -> None:
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = tiny().encode(images)
    assert latents.shape == (2, 4, 16, 24)
    assert torch.equal(latents, tiny().encode(images))  # the mode, not a sample
    assert tiny().decode(latents).shape == (2, 3, 32, 48)
    scaling = tiny().autoencoder.config.scaling_factor
    with torch.no_grad():
        theirs = tiny().autoencoder.decode(latents / scaling).sample
    assert torch.equal(tiny().decode(latents), theirs)


def test_everything_is_frozen_and_in_eval_mode(tiny: Tiny) -> None:
    pipeline = tiny().pipeline
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_predictions_rebuild_the_latent(tiny: Tiny, kind: str) -> None:
    backbone = tiny(prediction_type=kind)
    latent, level = noise(generators([1, 2]), (4, 16, 16)), backbone.level(0.3)
    with torch.no_grad():
        read = backbone.predict(latent, level, backbone.describe(["a cat", "a dog"]))
    assert torch.allclose(level.alpha * read.clean + level.sigma * read.noise, latent, atol=1e-4)


@pytest.mark.parametrize(("progress", "time"), [(0.0, 999), (0.5, 500), (1.0, 0), (-1.0, 999), (2.0, 0)])
def test_training_levels(tiny: Tiny, progress: float, time: int) -> None:
    level = tiny().level(progress)
    assert level.time == pytest.approx(time, abs=1)
    product = float(tiny().pipeline.scheduler.alphas_cumprod[int(level.time)])
    assert level.alpha**2 == pytest.approx(product)
    assert level.sigma**2 == pytest.approx(1 - product)


def test_descriptions_are_the_pipelines_own(tiny: Tiny) -> None:
    condition = tiny().describe(["a cat", ""])
    assert len(condition) == 2
    assert condition.embedding.shape == (2, 77, 24)
    assert not condition.embedding.requires_grad
    assert torch.allclose(condition.embedding[:1], tiny().describe(["a cat"]).embedding, atol=1e-5)


def test_words_beyond_the_limit_are_reported(tiny: Tiny) -> None:
    fits, one_more = " ".join("a" * 75), " ".join("a" * 75 + "b")
    assert tiny().unread([fits, one_more, fits + " the end"]) == ["", "b", "the end"]


def test_taps_are_where_they_say(tiny: Tiny) -> None:
    taps = {tap.path: tap for tap in tiny().taps}
    assert taps["conv_in"] == ("conv_in", 16, 1)
    assert taps["mid_block.resnets.0"] == ("mid_block.resnets.0", 32, 8)
    query = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert taps[query] == (query, 32, 2)
    text = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    assert taps[text] == (text, 32, None)
    assert "down_blocks.0" not in taps  # a tuple


def test_law_01_a_network_that_is_told_the_scale_takes_no_negative_pass() -> None:
    plain = tiny_stable_diffusion()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel.from_config(plain.unet.config, time_cond_proj_dim=256)
    parts = plain.components | {"unet": unet, "scheduler": LCMScheduler.from_config(plain.scheduler.config)}
    pipeline = LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    latent = noise(generators([3]), (4, 16, 24))
    backbone = UNetBackbone(pipeline, name="lcm")
    for scale in (1.0, 8.0):
        size = {"height": 32, "width": 48}
        settings: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": scale, "output_type": "latent", **size}
        theirs = pipeline("a cat", latents=latent, **settings).images
        (last,) = sample(
            backbone,
            backbone.describe(["a cat"]),
            latent,
            backbone.levels(1),
            scale=scale,
            solver=backbone.solvers["lcm"].solver,
        )
        assert last.evaluations[:2] == (1, 0)
        assert relative(last.latent, theirs) < 1e-4
    control = ControlNetModel.from_unet(plain.unet, conditioning_embedding_out_channels=(8, 16))
    told = with_controlnet(backbone, control, torch.rand(1, 3, 32, 48))  # not told the scale: it has no place for it
    (again,) = sample(
        told, told.describe(["a cat"]), latent, told.levels(1), scale=8.0, solver=told.solvers["lcm"].solver
    )
    assert relative(again.latent, last.latent) < 1e-4  # a new ControlNet adds nothing


def test_an_inpainting_network_is_refused(tiny: Tiny) -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=9,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(8,),
        norm_num_groups=8,
        cross_attention_dim=24,
        attention_head_dim=4,
    )
    parts = tiny().pipeline.components | {"unet": unet}
    with pytest.raises(UsageError, match="9 channels") as caught:
        UNetBackbone(StableDiffusionPipeline(**parts, requires_safety_checker=False), name="inpainting")
    assert caught.value.field == "model"


@pytest.mark.parametrize("part", ["encoder_hid_proj", "class_embedding", "text_time"])
def test_a_network_that_is_told_more_than_a_prompt_is_refused(part: str) -> None:
    pipeline = tiny_stable_diffusion()
    if part == "text_time":  # sizes, without the second encoder of SDXL
        pipeline.unet.register_to_config(addition_embed_type=part)
    else:
        setattr(pipeline.unet, part, torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match=part) as caught:
        UNetBackbone(pipeline)
    assert ("unload_ip_adapter" in caught.value.hint) == (part == "encoder_hid_proj")


def test_an_autoencoder_of_more_than_colours_is_refused() -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.vae.register_to_config(in_channels=6, out_channels=6)
    with pytest.raises(UsageError, match=r"no RGB pictures \(in_channels 6, out_channels 6\)"):
        UNetBackbone(pipeline)


def test_a_network_without_a_size_of_its_own_is_refused() -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.unet.register_to_config(sample_size=None)
    with pytest.raises(UsageError, match="does not say for which size"):
        UNetBackbone(pipeline)


@pytest.mark.parametrize(
    "variant",
    [
        {"algorithm_type": "sde-dpmsolver++"},
        {"solver_order": 1},
        {"solver_type": "heun"},
        {"final_sigmas_type": "sigma_min"},
        {"euler_at_final": True},
    ],
)
def test_a_variant_of_dpm_solver_is_told_of(variant: dict[str, object]) -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, **variant)
    with pytest.warns(SketchguideWarning, match="a variant of DPM-Solver that is not offered"):
        assert next(iter(UNetBackbone(pipeline).solvers)) == "dpm++2m"


@pytest.mark.parametrize(
    ("kind", "settings", "told", "own"),
    [
        (UniPCMultistepScheduler, {}, "is a UniPCMultistepScheduler, which is not offered: DDIM", "ddim"),
        (HeunDiscreteScheduler, {}, "is a HeunDiscreteScheduler, which is not offered: DDIM", "ddim"),
        (DDPMScheduler, {"clip_sample": False, "variance_type": "fixed_large"}, "draws noise otherwise", "ddpm"),
        (LCMScheduler, {"timestep_scaling": 5.0}, "timestep_scaling 5, where 10 is taken", "lcm"),
    ],
)
def test_a_scheduler_that_goes_another_way_is_told_of(
    kind: Any, settings: dict[str, object], told: str, own: str
) -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **settings)
    with pytest.warns(SketchguideWarning, match=told):
        assert next(iter(UNetBackbone(pipeline).solvers)) == own


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("kind", "settings", "own"),
    [
        (DDIMParallelScheduler, {}, "ddim"),
        (DDPMParallelScheduler, {}, "ddpm"),
        (DDPMScheduler, {"variance_type": "fixed_small_log"}, "ddpm"),
    ],
)
def test_schedulers_that_only_have_another_name_are_not_told_of(
    kind: Any, settings: dict[str, object], own: str
) -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, clip_sample=False, **settings)
    assert next(iter(UNetBackbone(pipeline).solvers)) == own


def test_a_scheduler_that_is_exchanged_is_followed() -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    before = backbone.level(0.5)
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, prediction_type="v_prediction", beta_end=0.03
    )
    anew = UNetBackbone(pipeline)
    assert backbone.prediction_kind == anew.prediction_kind == "v_prediction"
    assert backbone.level(0.5) == anew.level(0.5) != before


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (EDMEulerScheduler, {}),
        (EulerDiscreteScheduler, {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
        (FlowMatchEulerDiscreteScheduler, {}),
        (DPMSolverMultistepScheduler, {"use_flow_sigmas": True}),
        (DPMSolverMultistepScheduler, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ],
)
def test_noise_of_another_kind_is_refused(kind: Any, settings: dict[str, object]) -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = kind(**settings)
    with pytest.raises(UsageError, match=kind.__name__):
        UNetBackbone(pipeline)


def test_levels_that_cannot_be_walked_are_refused() -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    pipeline.scheduler = DDPMScheduler(beta_schedule="sigmoid", clip_sample=False)
    with pytest.raises(UsageError, match="sigmoid"):
        backbone.level(0.5)
    pipeline.scheduler = EulerDiscreteScheduler(interpolation_type="log_linear")
    with pytest.raises(UsageError, match="levels of 4 steps"):
        backbone.levels(4)
    pipeline.scheduler = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False)
    (first, *_), told = backbone.levels(4), backbone.describe(["a"])
    with pytest.raises(UsageError, match="zero terminal SNR"):
        backbone.predict(torch.zeros(1, 4, 16, 16), first, told)


@pytest.mark.parametrize("setting", ["clip_sample", "thresholding"])
def test_clipping_that_is_not_done_is_told_of(setting: str) -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = DDIMScheduler(**{"clip_sample": False, setting: True})
    with pytest.warns(SketchguideWarning, match="clips what the network predicts"):
        UNetBackbone(pipeline)


def test_a_network_that_predicts_its_variance_too_is_refused() -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.unet.register_to_config(out_channels=8)
    with pytest.raises(UsageError, match="variance"):
        UNetBackbone(pipeline)


def test_words_behind_a_token_of_many_vectors_are_told_to_be_cut() -> None:
    pipeline = tiny_stable_diffusion()
    vectors = torch.zeros(70, pipeline.text_encoder.config.hidden_size)
    pipeline.load_textual_inversion({"<cat>": vectors}, token="<cat>")
    (cut,) = UNetBackbone(pipeline).unread(["<cat> on a red mat with a blue bird, far away"])
    assert cut


def test_a_text_in_place_of_a_list_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="list of prompts"):
        tiny().describe("a red apple")


@pytest.mark.parametrize("swapping", ["group_offloading", "layerwise_casting"])
def test_weights_that_change_behind_a_pass_are_refused_where_something_pulls(swapping: str) -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    if swapping == "group_offloading":
        cpu = torch.device("cpu")
        pipeline.unet.enable_group_offload(cpu, cpu, offload_type="leaf_level")
    else:
        pipeline.unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    latent = torch.zeros(1, 4, 8, 8)
    condition, level = backbone.describe(["a cat"]), backbone.level(0.5)
    with torch.no_grad():
        assert backbone.predict(latent, level, condition).clean.isfinite().all()
    with pytest.raises(UsageError, match=f"with {swapping}: its weights change"):
        backbone.predict(latent.requires_grad_(), level, condition)


def test_a_decoder_whose_weights_change_behind_a_pass_is_refused_where_something_pulls() -> None:
    backbone, cpu = UNetBackbone(tiny_stable_diffusion()), torch.device("cpu")
    backbone.autoencoder.enable_group_offload(cpu, cpu, offload_type="leaf_level")
    latent = torch.zeros(1, 4, 8, 8)
    assert backbone.decode(latent).isfinite().all()
    with pytest.raises(UsageError, match="through this AutoencoderKL with group_offloading: its weights change"):
        backbone.decode(latent.requires_grad_())


def test_a_gradient_through_the_decoder_leaves_the_network_where_it_is() -> None:
    """Model offloading sends the network away when the decoder is called."""
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    calls: list[object] = []

    class Hook(CpuOffload):
        def pre_forward(self, module: torch.nn.Module, *args: object, **kwargs: object) -> tuple[object, object]:
            calls.append(module)
            return args, kwargs

    pipeline.vae._hf_hook = Hook("cpu")
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = backbone.decode(latent)
    assert len(calls) == 1
    pulled = backbone.decode(latent.requires_grad_())
    assert len(calls) == 1
    assert torch.equal(pulled, plain)
    (gradient,) = torch.autograd.grad(pulled.sum(), latent)
    assert gradient.abs().sum() > 0


def test_a_gradient_goes_through_a_decoder_whose_layers_come_one_by_one() -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = torch.autograd.grad(backbone.decode(latent).sum(), latent)
    cpu_offload(pipeline.vae, execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in pipeline.vae.parameters())
    assert torch.allclose(torch.autograd.grad(backbone.decode(latent).sum(), latent)[0], wanted[0])


def test_many_pictures_go_through_the_autoencoder_in_parts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()
    images = torch.rand(5, 3, 32, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = backbone.encode(images)
    pictures = backbone.decode(whole)
    monkeypatch.setattr("sketchguide.backbones.pipeline._AT_ONCE", 2 * 32 * 16)
    seen: list[int] = []
    encode = backbone.autoencoder.encode
    monkeypatch.setattr(backbone.autoencoder, "encode", lambda part: (seen.append(len(part)), encode(part))[1])
    torch.testing.assert_close(backbone.encode(images), whole)
    torch.testing.assert_close(backbone.decode(whole), pictures)
    assert seen == [2, 2, 1]


def test_no_prompts_are_refused(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="given no prompts"):
        tiny().describe([])


def test_taps_are_found_anew_where_projections_are_fused_or_not() -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    pipeline.unet.fuse_qkv_projections()
    fused = {tap.path for tap in backbone.taps}
    pipeline.unet.unfuse_qkv_projections()
    plain = {tap.path for tap in backbone.taps}
    assert {path for path in plain if path.endswith("attn1.to_q")}
    assert not {path for path in fused if path.endswith("attn1.to_q")}


def test_taps_are_found_anew_where_a_lora_comes_or_goes() -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    plain = backbone.taps
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    wrapped = {tap.path for tap in backbone.taps} - {tap.path for tap in plain}
    assert "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.base_layer" in wrapped
    pipeline.unet.unload_lora()
    assert backbone.taps == plain


def test_a_lora_that_is_put_on_later_is_frozen_and_what_is_trained_is_not() -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_dropout=0.5, target_modules=["to_k"]))
    assert any(p.requires_grad for p in pipeline.unet.parameters())
    backbone.describe(["a cat"])
    assert not any(p.requires_grad for p in pipeline.unet.parameters())
    assert not any(module.training for module in pipeline.unet.modules())
    trained = pipeline.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.default")
    trained.requires_grad_(True)
    backbone.describe(["a cat"])
    assert all(p.requires_grad for p in trained.parameters())


def test_the_dtype_is_that_of_the_network_it_took() -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    pipeline.unet = tiny_stable_diffusion().unet.to(torch.bfloat16)
    assert backbone.dtype == torch.float32


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 4])
def test_walks_of_requests_begin_where_eulers_do(spacing: str, steps: int) -> None:
    backbone = UNetBackbone(tiny_stable_diffusion(), name="tiny")
    scheduler = EulerDiscreteScheduler.from_config(backbone.pipeline.scheduler.config, timestep_spacing=spacing)
    backbone.pipeline.scheduler = scheduler
    request = Request.checked(prompt="a cat", steps=steps, scale=3, seed=7, size=(64, 64))
    *_, last = walk(request, backbone, prompts=["a cat"], seeds=[7])
    theirs = backbone.pipeline(
        "a cat",
        height=64,
        width=64,
        num_inference_steps=steps,
        guidance_scale=3,
        latents=noise(generators([7]), (4, 32, 32)),
        output_type="latent",
    ).images
    assert relative(last.latent, theirs) < 1e-4


def test_prompts_are_encoded_when_offloaded_networks_have_left() -> None:
    """Else a transformer that has just been asked stays on the GPU beside a text encoder."""
    backbone = UNetBackbone(tiny_stable_diffusion(), name="tiny")
    left: list[str] = []
    backbone.pipeline._all_hooks = [
        SimpleNamespace(model=getattr(backbone.pipeline, part), offload=partial(left.append, part))
        for part in ("text_encoder", "unet", "vae")
    ]
    backbone.describe(["a cat"])
    assert left == ["unet", "vae"]


def test_a_text_encoder_may_lie_elsewhere(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny().describe(["a cat"])
    monkeypatch.setattr(UNetBackbone, "device", property(lambda _: torch.device("meta")))
    assert torch.equal(tiny().describe(["a cat"]).embedding, plain.embedding)


def test_an_autoencoder_may_lie_elsewhere(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()
    elsewhere = torch.device("meta")
    monkeypatch.setattr(UNetBackbone, "device", property(lambda _: elsewhere))
    latents = backbone.encode(torch.zeros(1, 3, 32, 32))
    assert latents.device == elsewhere
    assert backbone.decode(torch.zeros(1, 4, 16, 16)).device == elsewhere


def test_a_network_that_repeats_itself_is_refused() -> None:
    backbone = UNetBackbone(tiny_stable_diffusion())
    condition = backbone.describe(["a cat"])
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("blocks",),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(backbone.network, config)
    with pytest.raises(UsageError, match=r"repeats what its blocks said .*\(pyramid_attention_broadcast\)") as refused:
        backbone.predict(torch.zeros(1, 4, 16, 16), backbone.level(0.5), condition)
    assert "pipeline.unet.disable_cache()" in refused.value.hint


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_law_01_what_is_set_on_a_scheduler_itself_is_followed(kind: Any) -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, timestep_spacing="leading")
    backbone = UNetBackbone(pipeline)
    before = backbone.levels(4)
    pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod**0.8
    levels, latent = backbone.levels(4), noise(generators([7]), (4, 16, 24))
    assert levels[2].alpha > before[2].alpha
    size = {"height": 32, "width": 48}
    settings: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 1, "output_type": "latent", **size}
    theirs = pipeline("a cat", latents=latent, **settings).images
    own = next(iter(backbone.solvers.values())).solver
    *_, last = sample(backbone, backbone.describe(["a cat"]), latent, levels, solver=own)
    assert relative(last.latent, theirs) < 1e-4


def test_training_levels_are_those_of_the_scheduler_as_it_is_now() -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    before = backbone.level(0.5)
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    assert backbone.prediction_kind == "v_prediction"
    pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod**2
    assert backbone.level(0.5).alpha == pytest.approx(before.alpha**2)


def test_an_ip_adapter_that_is_put_on_later_is_refused() -> None:
    backbone = UNetBackbone(tiny_stable_diffusion())
    backbone.network.encoder_hid_proj = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match="encoder_hid_proj") as caught:
        backbone.describe(["a cat"])
    assert "unload_ip_adapter" in caught.value.hint
