"""UNet pipelines: Stable Diffusion 1.x and 2.x with one text encoder, SDXL with two, and everything of their shape."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from sketchguide.backbones.base import GUIDANCE, Condition
from sketchguide.backbones.pipeline import Noise, PipelineBackbone, text_encoders
from sketchguide.errors import UsageError, warn
from sketchguide.levels import Level, levels_of
from sketchguide.solvers import OF_SCHEDULER, SOLVERS, SolverChoice, choose_solver

_DRAWING = ("DDPMScheduler", "DDPMParallelScheduler")
_CLIPPING = ("DDIMScheduler", "DDIMParallelScheduler", *_DRAWING, "LCMScheduler")
_PLAIN_2M = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "thresholding": False,
    "final_sigmas_type": "zero",
    "euler_at_final": False,
}
_POOLED = "text_embeds"  # of a Condition's extras: what SDXL is told beside the tokens, (B, width)
_SIZES = 6  # numbers that SDXL is told of a picture


class UNetBackbone(PipelineBackbone):
    """`StableDiffusionPipeline`, that of SDXL, and their like."""

    family = "unet"
    part = "unet"
    network_class = "UNet2DConditionModel"
    encoders = (1, 2)

    @property
    def distilled(self) -> bool:
        """As latent consistency models are."""
        return self.network.config.time_cond_proj_dim is not None

    def _more_than_a_prompt(self) -> str | None:
        """Pictures by an IP-Adapter, a class, how beautiful it should be or the like."""
        for part in ("encoder_hid_proj", "class_embedding"):
            if getattr(self.network, part, None) is not None:
                return part
        config = self.network.config
        kind = config.get("addition_embed_type")
        second: Any = text_encoders(self.pipeline).get("text_encoder_2")
        if kind == "text_time" and second is not None:
            width = second.config.projection_dim + _SIZES * config.addition_time_embed_dim
            return None if config.projection_class_embeddings_input_dim == width else "a score beside the sizes"
        return None if kind in (None, "text") else f"addition_embed_type {kind}"

    @staticmethod
    def _more_in(config: Mapping[str, Any]) -> str | None:
        if config.get("encoder_hid_dim_type") or config.get("encoder_hid_dim"):
            return "encoder_hid_proj"
        if config.get("class_embed_type") or config.get("num_class_embeds"):
            return "class_embedding"
        kind = config.get("addition_embed_type")
        return None if kind in (None, "text", "text_time") else f"addition_embed_type {kind}"

    @property
    def multiple(self) -> int:
        return self.stride * 2 ** (len(self.network.config.block_out_channels) - 1)

    @property
    def _overflows(self) -> bool:
        return self.autoencoder.config.force_upcast and "text_encoder_2" in text_encoders(self.pipeline)

    def _encode_prompts(self, prompts: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        first = next(iter(text_encoders(self.pipeline).values()))  # which may lie elsewhere than the network
        device = get_module_execution_device(first)
        embedding, *more = self.pipeline.encode_prompt(
            prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return embedding, {_POOLED: more[1]} if len(more) == 3 else {}  # two encoders give the pooled text as well

    def _forward(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        told = arguments(condition, latent, stride=self.stride, dtype=latent.dtype)
        scale = told.pop(GUIDANCE, None)
        if self.distilled:
            more = (torch.ones(len(latent)) if scale is None else scale.cpu()) - 1  # diffusers computes it there
            width = self.network.config.time_cond_proj_dim
            told["timestep_cond"] = self.pipeline.get_guidance_scale_embedding(more, width).to(latent)
        return self.network(latent, times, **told, return_dict=False)[0]

    def _read_scheduler(self) -> Noise:
        scheduler = self.pipeline.scheduler
        kind, name = scheduler.config.get("prediction_type", "epsilon"), type(scheduler).__name__
        preserving = hasattr(scheduler, "alphas_cumprod") and not scheduler.config.get("use_flow_sigmas")
        if not preserving or kind not in ("epsilon", "sample", "v_prediction"):
            raise UsageError(
                f"{self.name} has the scheduler {name} with {kind}: only networks that predict epsilon, sample or "
                "v_prediction at variance-preserving noise can be walked.",
                hint="Set pipeline.scheduler to the kind that the model was trained with, such as a DDIMScheduler.",
                field="model",
            )
        if scheduler.config.get("timestep_type") == "continuous" and kind == "v_prediction":
            raise UsageError(
                f"{self.name} has the scheduler {name} with continuous time steps: networks that are told the "
                "logarithm of the noise (EDM) cannot be walked.",
                field="model",
            )
        if differing := _differing(name, scheduler.config):
            told = f"The scheduler of {self.name} {differing}, and pictures differ from diffusers'."
            warn(told)
        products = [float(product) for product in self._scheduler("DDIMScheduler").alphas_cumprod]
        alphas, sigmas = [p**0.5 for p in products], [(1 - p) ** 0.5 for p in products]
        return Noise(self._settings, kind, [float(time) for time in range(len(products))], alphas, sigmas)

    @property
    def solvers(self) -> Mapping[str, SolverChoice]:
        """Those of Euler begin at less than plain noise, as in diffusers, where steps are not spaced from the end."""
        scheduler = self.pipeline.scheduler
        try:
            spacing = self._scheduler("EulerDiscreteScheduler").config.timestep_spacing
        except UsageError:
            spacing = "leading"  # they are refused
        choices = {
            name: choice._replace(scaled=choice.settings.get("timestep_spacing", spacing) != "leading")
            if choice.scheduler.startswith("Euler")
            else choice
            for name, choice in SOLVERS.items()
        }
        own = OF_SCHEDULER.get(type(scheduler).__name__, "ddim")
        return {own: choices[own], **choices}

    def levels(self, steps: int, solver: str | None = None, size: tuple[int, int] | None = None) -> list[Level]:
        """`steps + 1` levels, noisiest first, as the scheduler behind `solver` spaces them for this model, whatever the
        size."""
        del size
        choice = choose_solver(solver or next(iter(self.solvers)))
        return levels_of(self._scheduler(choice.scheduler, choice.settings), steps)

    def _scheduler(self, name: str, settings: Mapping[str, Any] = MappingProxyType({})) -> Any:
        # One of its own each time: diffusers schedulers keep state between calls.
        own = self.pipeline.scheduler
        if type(own).__name__ == name and not settings:
            return deepcopy(own)  # with what was set on it and is not in its config
        try:
            return getattr(diffusers, name).from_config(own.config, **settings)
        except NotImplementedError as error:
            schedule = own.config.get("beta_schedule")
            raise UsageError(f"{self.name} has noise ({schedule}) that no {name} makes.", field="solver") from error


def arguments(condition: Condition, latent: Tensor, *, stride: int, dtype: torch.dtype) -> dict[str, Any]:
    """What a UNet or ControlNet is given besides latent and time. One of SDXL is told sizes too, before and after
    cropping: those of a picture of its own that nobody has cropped.
    """
    told: dict[str, Any] = {**condition.extras, "encoder_hidden_states": condition.embedding.to(latent.device, dtype)}
    if (pooled := told.pop(_POOLED, None)) is not None:
        height, width = (side * stride for side in latent.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=latent.device, dtype=dtype)
        pooled = pooled.to(latent.device, dtype)
        told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes.expand(len(latent), -1)}
    return told


def _differing(name: str, config: Any) -> str | None:
    """In what a scheduler of diffusers goes another way than the solver that stands for it."""
    if name not in OF_SCHEDULER:
        return f"is a {name}, which is not offered: DDIM takes its place"
    if name == "DPMSolverMultistepScheduler" and not _is_plain(config, _PLAIN_2M):
        return "is a variant of DPM-Solver that is not offered: its levels are walked by DPM-Solver++(2M)"
    if name in _CLIPPING and any(config.get(one) for one in ("clip_sample", "thresholding")):
        return "clips what the network predicts (clip_sample or thresholding), which is not done"
    if name in _DRAWING and not config["variance_type"].startswith("fixed_small"):  # its logarithm draws as much
        return f"draws noise otherwise (variance_type {config['variance_type']}): as much is drawn as by fixed_small"
    if name == "LCMScheduler" and not _is_plain(config, {"timestep_scaling": 10.0}):
        return f"has timestep_scaling {config['timestep_scaling']:g}, where 10 is taken"
    return None


def _is_plain(config: Any, wanted: Mapping[str, object]) -> bool:
    return all(config.get(name, value) == value for name, value in wanted.items())
