"""Backbones told by a ControlNet of diffusers: for UNets, Stable Diffusion 3 and Flux."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sketchguide.backbones.base import GUIDANCE, Condition
from sketchguide.backbones.pipeline import precision_of
from sketchguide.backbones.told import Told
from sketchguide.backbones.transformer import POOLED, arguments_of_flux, packed
from sketchguide.backbones.unet import arguments
from sketchguide.errors import MismatchError, UsageError
from sketchguide.weights import as_tuples

# What diffusers' networks call that which is added to them.
SKIPS = "down_block_additional_residuals"
MIDDLE = "mid_block_additional_residual"
BLOCKS = "down_intrablock_additional_residuals"
_STREAM = "block_controlnet_hidden_states"
_DOUBLE = "controlnet_block_samples"
_SINGLE = "controlnet_single_block_samples"
_HINT_STRIDE = 8  # by which a ControlNet that reads the image itself shrinks it


class ControlNetBackbone(Told):
    """Made by `with_controlnet`: a copy of the encoder reads latent, prompt and image; its outputs join the skips."""

    def _check_fits(self) -> None:
        ours: Any = self.control.config
        if ours.get("global_pool_conditions"):
            raise MismatchError(
                "This ControlNet pools what it sees over the whole picture (global_pool_conditions), which is not "
                "supported.",
                hint="Use one that reads lines, poses, depth or the like.",
                field="controlnet",
            )
        keys = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")
        hint = "Use one made for this model: `ControlNetModel.from_unet`, then train it."
        _check_alike(self, keys, hint=hint)
        stride = 2 ** (len(ours["conditioning_embedding_out_channels"]) - 1)
        hint = "`conditioning_embedding_out_channels` has one entry more than there are halvings."
        _check_stride(self, stride, hint=hint)
        _check_channels(self, ours["conditioning_channels"])

    def _added(self, latent: Tensor, times: Tensor, condition: Condition) -> Mapping[str, Any]:
        dtype = precision_of(self.control)
        shared = {k: v for k, v in condition.extras.items() if k not in (SKIPS, MIDDLE, BLOCKS, GUIDANCE)}
        skips, middle = self.control(
            latent.to(dtype),
            times,
            controlnet_cond=self.image,
            conditioning_scale=self.scale,
            **arguments(replace(condition, extras=shared), latent, stride=self.inner.stride, dtype=dtype),
            return_dict=False,
        )
        return {SKIPS: list(skips), MIDDLE: middle}


@dataclass(frozen=True, eq=False)
class StreamControlNetBackbone(Told):
    """Made by `with_controlnet` of an `SD3ControlNetModel`: blocks of its own read latent, prompt and the image's
    latent; what they make of it joins the picture's tokens after every block.
    """

    made_for: ClassVar[str] = "transformer"
    seen: Tensor = field(init=False)  # (B or 1, C, h, w): the image's latent
    embed: nn.Module | None = field(init=False)  # latents into tokens, where the ControlNet has none of its own

    def _check_fits(self) -> None:
        ours: Any = self.control.config
        if ours.extra_conditioning_channels:
            raise MismatchError(
                "This ControlNet reads a mask beside its image (extra_conditioning_channels), which is not supported.",
                hint="Use one that reads lines, poses, depth or the like; `SD3ControlNetModel.from_transformer` makes "
                "such a one with num_extra_conditioning_channels=0.",
                field="controlnet",
            )
        keys = ["in_channels", "patch_size", "attention_head_dim", "num_attention_heads", "pooled_projection_dim"]
        keys += [] if ours.joint_attention_dim is None else ["joint_attention_dim"]
        made = "SD3ControlNetModel.from_transformer(…, num_extra_conditioning_channels=0)"
        hint = f"Use one made for this model: `{made}`, then train it."
        _check_alike(self, keys, hint=hint)
        seen = _latent_of(self)
        if ours.force_zeros_for_pooled_projection:  # such were trained on latents that are not shifted
            config: Any = self.networks["autoencoder"].config
            seen = seen + (config.shift_factor or 0.0) * config.scaling_factor
        object.__setattr__(self, "seen", seen)
        embed: Any = None
        if self.control.pos_embed is None:
            lent: Any = self.network.pos_embed
            if any(weight.is_meta for weight in lent.parameters()):
                raise UsageError(
                    f"{type(self.control).__name__} borrows a layer of the model, whose weights sequential offloading "
                    "keeps away.",
                    hint="Take enable_model_cpu_offload() instead.",
                    field="model",
                )
            embed = deepcopy(lent).to(self.control.device, self.control.dtype)  # offloading moves the other
        object.__setattr__(self, "embed", embed)

    def _added(self, latent: Tensor, times: Tensor, condition: Condition) -> Mapping[str, Any]:
        dtype = precision_of(self.control)
        pooled: Any = condition.extras[POOLED]
        pooled = pooled.to(latent.device, dtype)
        if self.control.config.force_zeros_for_pooled_projection:
            pooled = torch.zeros_like(pooled)
        network: Any = self.network
        alone = self.control.context_embedder is None
        (made,) = self.control(
            latent.to(dtype) if self.embed is None else self.embed(latent.to(dtype)),
            controlnet_cond=self.seen.to(dtype),
            conditioning_scale=self.scale,
            encoder_hidden_states=None if alone else condition.embedding.to(latent.device, dtype),
            pooled_projections=pooled,
            timestep=times.expand(len(latent)),
            return_dict=False,
        )
        blocks = len(network.transformer_blocks)
        return {_STREAM: [made[int(i / (blocks / len(made)))] for i in range(blocks)]}


@dataclass(frozen=True, eq=False)
class FluxControlNetBackbone(Told):
    """Made by `with_controlnet` of a `FluxControlNetModel`; `mode` is what one that knows several kinds of images
    (Union) is to take its image for.
    """

    mode: int | None = None
    made_for: ClassVar[str] = "flux"
    seen: Tensor = field(init=False)  # (B or 1, tokens, 4 C) of the image's latent, or the image where that is read

    def _check_fits(self) -> None:
        ours: Any = self.control.config
        keys = (
            "in_channels",
            "attention_head_dim",
            "num_attention_heads",
            "joint_attention_dim",
            "pooled_projection_dim",
        )
        hint = "Use one made for this model: `FluxControlNetModel.from_transformer`, then train it."
        _check_alike(self, keys, hint=hint)
        known = ours.num_mode or 0
        if known and self.mode not in range(known):
            raise UsageError(
                f"mode is {self.mode}; this ControlNet knows several kinds of images, 0 to {known - 1}.",
                hint="Its card says which number is which: edges are 0 in those of InstantX and Shakker Labs.",
                field="mode",
            )
        if not known and self.mode is not None:
            raise UsageError(f"mode is {self.mode}, but this ControlNet knows one kind of image.", field="mode")
        if self.control.input_hint_block is None:
            seen = packed(_latent_of(self))
        else:
            _check_stride(self, _HINT_STRIDE)
            _check_channels(self, 3)
            seen = self.image * 2 - 1
        object.__setattr__(self, "seen", seen)

    def _added(self, latent: Tensor, times: Tensor, condition: Condition) -> Mapping[str, Any]:
        control, dtype = self.control, precision_of(self.control)
        extras = {name: value for name, value in condition.extras.items() if name not in (_DOUBLE, _SINGLE)}
        plain = replace(condition, extras=extras)
        seen, mode = self.seen.to(dtype).expand(len(latent), *self.seen.shape[1:]), self.mode
        made = control(
            controlnet_cond=seen,
            controlnet_mode=None if mode is None else torch.full((len(latent), 1), mode, device=latent.device),
            conditioning_scale=self.scale,
            **arguments_of_flux(latent.to(dtype), times, plain, told_scale=control.config.guidance_embeds),
            return_dict=False,
        )
        added: dict[str, Any] = {}
        network: Any = self.network
        every = (network.transformer_blocks, network.single_transformer_blocks)
        for name, samples, blocks in zip((_DOUBLE, _SINGLE), made, every, strict=True):
            if samples:
                added[name] = [samples[i] for i in self._places(len(samples), len(blocks))]
        return added

    def _places(self, samples: int, blocks: int) -> Sequence[int]:
        """Which sample joins after each block: in turn after those that read the image itself, else in equal runs."""
        if self.control.input_hint_block is not None:
            return [i % samples for i in range(blocks)]
        return [i // -(-blocks // samples) for i in range(blocks)]


def _check_alike(told: Told, keys: Sequence[str], *, hint: str) -> None:
    """MismatchError unless the ControlNet has of `keys` what the network has."""
    ours: Any = told.control.config
    theirs: Any = getattr(told.network, "config", {})
    for key in keys:
        if as_tuples(ours[key]) != as_tuples(theirs.get(key)):
            raise MismatchError(
                f"This ControlNet has {key} {as_tuples(ours[key])} and does not fit {told.name!r}, which has "
                f"{as_tuples(theirs.get(key))}.",
                hint=hint,
                field="controlnet",
            )


def _check_stride(told: Told, stride: int, *, hint: str = "") -> None:
    if stride != told.stride:
        raise MismatchError(
            f"This ControlNet shrinks its image by {stride} and does not fit {told.name!r}, whose latents are smaller "
            f"than pictures by {told.stride}.",
            hint=hint,
            field="controlnet",
        )


def _check_channels(told: Told, channels: int) -> None:
    if told.image.shape[1] != channels:
        raise UsageError(
            f"The image has {told.image.shape[1]} channels; this ControlNet takes {channels}.", field="image"
        )


def _latent_of(told: Told) -> Tensor:
    """The latent (B or 1, C, h, w) of the image, as ControlNets of transformers take it."""
    _check_channels(told, 3)
    return told.inner.encode(told.image * 2 - 1)
