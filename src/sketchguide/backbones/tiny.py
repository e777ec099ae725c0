"""Small random pipelines of the true architectures: every test, ours and users', runs on them without weights."""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


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
        "attention_head_dim": 4,
        "cross_attention_dim": 24,
    }
    vae: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16),
        "norm_num_groups": 8,
        "latent_channels": 4,
        "sample_size": 64,
    }
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    settings: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction_type,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet),
            "vae": AutoencoderKL(**vae),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text)),
            "tokenizer": tokenizer,
            "scheduler": DDIMScheduler(**(settings | scheduler)),
        }
    parts |= dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def _letters() -> CLIPTokenizer:
    """A tokenizer of single letters: no merges to learn, and long prompts still reach the 77-token limit."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,-'"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=77)
