"""Small random pipelines of the true architectures: every test, ours and users', runs on them without weights."""

from __future__ import annotations

from typing import Any, Literal

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from sketchguide.seeds import seeded

_WIDTH = 24  # of the text encoders
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-'"
_NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def tiny_stable_diffusion(
    *, prediction_type: Literal["epsilon", "v_prediction"] = "epsilon", seed: int = 0, **scheduler: Any
) -> StableDiffusionPipeline:
    """A `StableDiffusionPipeline` with all of SD 1.x's block types and submodule names, and about 1 M random weights.

    Pictures are 64 px (latents 32 x 32, stride 2). `scheduler` overrides settings of its `DDIMScheduler`.
    """
    tokenizer = _letters()
    unet: dict[str, Any] = {
        "sample_size": 32,
        "block_out_channels": (16, 32, 32, 32),
        "norm_num_groups": 8,
        "attention_head_dim": (1, 4, 4, 4),  # one at full size: four there take longer than all the rest
        "cross_attention_dim": _WIDTH,
    }
    own: dict[str, Any] = {"clip_sample": False, "set_alpha_to_one": False, "prediction_type": prediction_type}
    with seeded(seed):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet),
            "vae": _autoencoder(),
            "text_encoder": CLIPTextModel(_text(tokenizer)),
            "tokenizer": tokenizer,
            "scheduler": DDIMScheduler(**(_NOISE | own | scheduler)),
        }
    parts |= dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def tiny_stable_diffusion_xl(*, seed: int = 0) -> StableDiffusionXLPipeline:
    """A `StableDiffusionXLPipeline` with SDXL's block types, submodule names, two text encoders and sizes that it is
    told, and about 1 M random weights. Pictures are 64 px (latents 32 x 32, stride 2).
    """
    tokenizer = _letters()
    unet: dict[str, Any] = {
        "sample_size": 32,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (16, 32, 32),
        "transformer_layers_per_block": (1, 1, 2),
        "norm_num_groups": 8,
        "attention_head_dim": (2, 4, 4),
        "use_linear_projection": True,
        "cross_attention_dim": 2 * _WIDTH,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": _WIDTH + 6 * 8,
    }
    scheduler = EulerDiscreteScheduler(**_NOISE)
    scheduler.register_to_config(clip_sample=False, set_alpha_to_one=False)  # as SDXL's file says, for others
    with seeded(seed):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet),
            "vae": _autoencoder(),
            "text_encoder": CLIPTextModel(_text(tokenizer)),
            "text_encoder_2": CLIPTextModelWithProjection(_text(tokenizer, projection_dim=_WIDTH)),
            "tokenizer": tokenizer,
            "tokenizer_2": _letters(),
            "scheduler": scheduler,
        }
    return StableDiffusionXLPipeline(**parts, add_watermarker=False)


def tiny_stable_diffusion_3(*, seed: int = 0, t5: bool = False, **scheduler: Any) -> StableDiffusion3Pipeline:
    """A `StableDiffusion3Pipeline` with SD 3's blocks and submodule names, with or without its T5, and about 1 M random
    weights. Pictures are 64 px (latents 32 x 32, stride 2, 16 channels). `scheduler` overrides settings of its
    `FlowMatchEulerDiscreteScheduler`.
    """
    tokenizer = _letters()
    transformer: dict[str, Any] = {
        "sample_size": 32,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 10,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "joint_attention_dim": 2 * _WIDTH,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 2 * _WIDTH,
        "pos_embed_max_size": 32,
    }
    noise: dict[str, Any] = {"shift": 3.0, **scheduler}
    with seeded(seed):
        parts: dict[str, Any] = {
            "transformer": SD3Transformer2DModel(**transformer),
            "vae": _autoencoder(latent_channels=16, shift_factor=0.1, scaling_factor=1.5),
            "text_encoder": CLIPTextModelWithProjection(_text(tokenizer, projection_dim=_WIDTH)),
            "text_encoder_2": CLIPTextModelWithProjection(_text(tokenizer, projection_dim=_WIDTH)),
            "tokenizer": tokenizer,
            "tokenizer_2": _letters(),
            "scheduler": FlowMatchEulerDiscreteScheduler(**noise),
        }
        if t5:
            parts |= {"text_encoder_3": T5EncoderModel(_t5_config(2 * _WIDTH)).eval(), "tokenizer_3": _characters()}
    parts |= dict.fromkeys({"text_encoder_3", "tokenizer_3"} - parts.keys())
    return StableDiffusion3Pipeline(**parts)


def tiny_flux(*, seed: int = 0, guidance_embeds: bool = True, **scheduler: Any) -> FluxPipeline:
    """A `FluxPipeline` with FLUX.1's blocks and submodule names, a CLIP and a T5, and about 1 M random weights: told
    the scale of guidance like FLUX.1-dev, or with `guidance_embeds` False like FLUX.1-schnell, which has
    `use_dynamic_shifting` False too. Pictures are 64 px (latents 32 x 32, stride 2, 16 channels). `scheduler` overrides
    settings of its `FlowMatchEulerDiscreteScheduler`.
    """
    tokenizer = _letters()
    transformer: dict[str, Any] = {
        "in_channels": 4 * 16,
        "num_layers": 4,
        "num_single_layers": 8,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "joint_attention_dim": _WIDTH,
        "pooled_projection_dim": _WIDTH,
        "guidance_embeds": guidance_embeds,
        "axes_dims_rope": (2, 2, 4),
    }
    noise: dict[str, Any] = {"use_dynamic_shifting": True, "shift": 3.0, **scheduler}
    with seeded(seed):
        parts: dict[str, Any] = {
            "transformer": FluxTransformer2DModel(**transformer),
            "vae": _autoencoder(latent_channels=16, shift_factor=0.1, scaling_factor=1.5),
            "text_encoder": CLIPTextModel(_text(tokenizer)),
            "text_encoder_2": T5EncoderModel(_t5_config(_WIDTH)).eval(),
            "tokenizer": tokenizer,
            "tokenizer_2": _characters(),
            "scheduler": FlowMatchEulerDiscreteScheduler(**noise),
        }
    pipeline = FluxPipeline(**parts)
    pipeline.default_sample_size = 32  # of a FluxPipeline of any network 128
    return pipeline


def _autoencoder(**more: Any) -> AutoencoderKL:
    settings: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16),
        "norm_num_groups": 8,
        "sample_size": 64,
    }
    return AutoencoderKL(**settings, **more)


def _text(tokenizer: CLIPTokenizer, **more: Any) -> CLIPTextConfig:
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(**settings, **more)


def _t5_config(width: int) -> T5Config:
    return T5Config(vocab_size=len(_characters()), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2)


def _characters() -> T5Tokenizer:
    """A T5's tokenizer of single letters."""
    special = ("<pad>", "</s>", "<unk>")
    return T5Tokenizer(
        vocab=[(piece, -float(i > 2)) for i, piece in enumerate((*special, "\u2581", *_LETTERS))], extra_ids=0
    )


def _letters() -> CLIPTokenizer:
    """A tokenizer of single letters: no merges to learn, and long prompts still reach the 77-token limit."""
    pieces = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=77)
