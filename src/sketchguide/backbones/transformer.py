"""Transformer pipelines that walk by flow: Stable Diffusion 3 and 3.5, Flux."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor
from torch.nn import functional as F

from sketchguide.backbones.base import GUIDANCE, Condition
from sketchguide.backbones.pipeline import Noise, PipelineBackbone, is_same_device, text_encoders
from sketchguide.errors import UsageError
from sketchguide.levels import Level, levels_of
from sketchguide.solvers import DDIM, SolverChoice

POOLED = "pooled_projections"  # of a Condition's extras: what is told beside the tokens, (B, width)
_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
_OTHERWISE = ("stochastic_sampling", "invert_sigmas")
_T5_TOKENS, _FLUX_TOKENS = 256, 512  # that the pipelines read
_PACKED = 2  # latent pixels on each side of one of Flux's tokens


class FlowBackbone(PipelineBackbone):
    """What walks in straight lines from noise to a picture, on the levels of one scheduler."""

    part = "transformer"
    _even = False  # whether the pipeline tells its scheduler of even steps from pure noise down, in place of its own

    @property
    @abstractmethod
    def _patch(self) -> int:
        """Latent pixels on each side of a token."""

    @property
    def multiple(self) -> int:
        return self.stride * self._patch

    @property
    def solvers(self) -> Mapping[str, SolverChoice]:
        """Euler's rule under both of its names: on a straight path DDIM's is the same."""
        rule = SolverChoice(DDIM(), _SCHEDULER)
        return {"euler": rule, "ddim": rule}

    def levels(self, steps: int, solver: str | None = None, size: tuple[int, int] | None = None) -> list[Level]:
        """`steps + 1` levels, noisiest first, as the pipeline's scheduler spaces them: some shift them by the size."""
        if solver is not None and solver not in self.solvers:
            raise UsageError(
                f"{self.name} walks by flow, for which there is no solver {solver!r} here.",
                hint=f"Choose one of: {', '.join(self.solvers)}.",
                field="solver",
            )
        scheduler = deepcopy(self._scheduler)  # diffusers schedulers keep state between calls
        spacing = self._shift(scheduler, size or self.default_size)
        if self._even:
            spacing["sigmas"] = torch.linspace(1, 1 / max(1, steps), max(0, steps)).tolist()
        return levels_of(scheduler, steps, **spacing)

    def _shift(self, scheduler: Any, size: tuple[int, int]) -> dict[str, Any]:
        """How far levels are shifted for a picture of `size`: a line through two numbers of tokens (`calculate_shift`
        of diffusers)."""
        config = scheduler.config
        if not config.use_dynamic_shifting:
            return {}
        tokens = (size[0] // self.multiple) * (size[1] // self.multiple)
        share = (tokens - config.base_image_seq_len) / (config.max_image_seq_len - config.base_image_seq_len)
        return {"mu": config.base_shift + share * (config.max_shift - config.base_shift)}

    def _read_scheduler(self) -> Noise:
        """The levels of training: where they depend on the size, those of the size that the model was made for."""
        found = self._scheduler
        scheduler = type(found).from_config(found.config, shift=found.shift)
        if shift := self._shift(scheduler, self.default_size):
            scheduler.set_timesteps(scheduler.config.num_train_timesteps, **shift)
        sigmas = [float(sigma) for sigma in scheduler.sigmas.flip(0) if sigma > 0]
        times, alphas = [sigma * len(sigmas) for sigma in sigmas], [1 - sigma for sigma in sigmas]
        return Noise(self._settings, "flow", times, alphas, sigmas)

    @property
    def _scheduler(self) -> Any:
        """The pipeline's own; UsageError for one that is not offered."""
        found = self.pipeline.scheduler
        if type(found).__name__ != _SCHEDULER:
            raise UsageError(
                f"{self.name} has the scheduler {type(found).__name__}, which is not offered for a model that walks by "
                "flow.",
                hint=f"Set pipeline.scheduler to a {_SCHEDULER}.",
                field="model",
            )
        if otherwise := [name for name in _OTHERWISE if found.config.get(name)]:
            raise UsageError(
                f"The scheduler of {self.name} has {otherwise[0]}, which is not supported.",
                hint=f"Set it to False: {_SCHEDULER}.from_config(pipeline.scheduler.config, {otherwise[0]}=False).",
                field="model",
            )
        return found


class TransformerBackbone(FlowBackbone):
    """`StableDiffusion3Pipeline` and its like, with two text encoders or all three."""

    family = "transformer"
    network_class = "SD3Transformer2DModel"
    encoders = (2, 3)

    def _more_than_a_prompt(self) -> str | None:
        return "image_proj" if getattr(self.network, "image_proj", None) is not None else None

    @property
    def _patch(self) -> int:
        return self.network.config.patch_size

    @property
    def largest(self) -> int | None:
        places = self.network.config.pos_embed_max_size
        return None if places is None else places * self.multiple

    @property
    def _reader(self) -> tuple[Any, int]:
        if "text_encoder_3" in text_encoders(self.pipeline):
            return self.pipeline.tokenizer_3, _T5_TOKENS
        return super()._reader

    def _encode_prompts(self, prompts: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        encoders = text_encoders(self.pipeline)
        devices = [get_module_execution_device(encoder) for encoder in encoders.values()]
        if not all(is_same_device(devices[0], other) for other in devices):
            places = ", ".join(f"{name} on {device}" for name, device in zip(encoders, devices, strict=True))
            raise UsageError(
                f"The text encoders of {self.name} are on several devices ({places}), where they must be on one.",
                hint="Move them together, to that of the network or to another.",
                field="model",
            )
        embedding, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device=devices[0], do_classifier_free_guidance=False
        )
        return embedding, {POOLED: pooled}

    def _forward(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        told = _told(condition, latent)
        return self.network(latent, timestep=times.expand(len(latent)), **told, return_dict=False)[0]


class FluxBackbone(FlowBackbone):
    """`FluxPipeline`: tokens of 2 x 2 latent pixels, and the scale of guidance told to the network where it was
    distilled (Meng et al. 2023, 2210.03142), as that of FLUX.1-dev was.
    """

    family = "flux"
    network_class = "FluxTransformer2DModel"
    encoders = (2,)
    _even = True

    def _more_than_a_prompt(self) -> str | None:
        return "encoder_hid_proj" if getattr(self.network, "encoder_hid_proj", None) is not None else None

    @property
    def distilled(self) -> bool:
        return self.network.config.guidance_embeds

    @property
    def _patch(self) -> int:
        return _PACKED

    @staticmethod
    def _channels_of(config: Mapping[str, Any]) -> tuple[int, int]:
        taken, made = PipelineBackbone._channels_of(config)
        return taken // _PACKED**2, made // _PACKED**2

    @property
    def _side(self) -> Any:
        return self.pipeline.default_sample_size

    @property
    def _reader(self) -> tuple[Any, int]:
        return self.pipeline.tokenizer_2, _FLUX_TOKENS

    def _encode_prompts(self, prompts: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        embedding, pooled, _ = self.pipeline.encode_prompt(prompts, None, device=self.device)
        return embedding, {POOLED: pooled}

    def _forward(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        told = arguments_of_flux(latent, times, condition, told_scale=self.distilled)
        output = self.network(**told, return_dict=False)[0]
        return F.pixel_shuffle(output.mT.unflatten(2, _grid(latent)), _PACKED)


def packed(latent: Tensor) -> Tensor:
    """Flux's tokens (B, h/2 * w/2, 4 C) of a latent (B, C, h, w)."""
    return F.pixel_unshuffle(latent, _PACKED).flatten(2).mT


def arguments_of_flux(latent: Tensor, times: Tensor, condition: Condition, *, told_scale: bool) -> dict[str, Any]:
    """What Flux's network or a ControlNet is given, in the dtype of the latent (B, C, h, w)."""
    told = _told(condition, latent)
    scale = told.pop(GUIDANCE, None)
    if told_scale:
        told["guidance"] = latent.new_ones(len(latent)) if scale is None else scale
    rows, columns = _grid(latent)
    places = (torch.arange(side, device=latent.device) for side in (1, rows, columns))
    image = torch.cartesian_prod(*places).to(latent)
    text = latent.new_zeros(condition.embedding.shape[1], 3)
    time = times.expand(len(latent)) / 1000
    return {"hidden_states": packed(latent), "timestep": time, "img_ids": image, "txt_ids": text, **told}


def _grid(latent: Tensor) -> tuple[int, int]:
    return latent.shape[-2] // _PACKED, latent.shape[-1] // _PACKED


def _told(condition: Condition, latent: Tensor) -> dict[str, Any]:
    told: dict[str, Any] = {**condition.extras, "encoder_hidden_states": condition.embedding}
    return {
        name: [one.to(latent) for one in value] if isinstance(value, list) else value.to(latent)
        for name, value in told.items()
    }
