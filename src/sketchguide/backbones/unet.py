"""UNet pipelines: Stable Diffusion 1.x and 2.x with one text encoder, SDXL with two, and everything of their shape."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
from accelerate.hooks import CpuOffload
from torch import Tensor, nn

from sketchguide.backbones.base import Condition
from sketchguide.errors import SketchguideWarning, UsageError
from sketchguide.levels import Level, Prediction, PredictionKind, levels_of
from sketchguide.solvers import OF_SCHEDULER, SOLVERS, SolverChoice, choose_solver
from sketchguide.taps import TapInfo, survey

_AT_ONCE = 2**20  # pixels that the autoencoder sees at once where no graph is kept: four pictures of 512
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
_SWAPPING = ("group_offloading", "layerwise_casting")  # hooks of diffusers that change weights behind a pass


class Lora(NamedTuple):
    """One that is on a pipeline."""

    name: str
    file: Path
    scale: float


class _Noise(NamedTuple):
    """What a scheduler says of the network: what it predicts, and the noise at each level that it was trained on."""

    scheduler: Any
    kind: PredictionKind
    alphas: Sequence[float]
    sigmas: Sequence[float]


class UNetBackbone:
    """A loaded diffusers pipeline (`StableDiffusionPipeline`, that of SDXL and their like), used as it is: LoRA, dtype
    and offloading stay as the user set them, and a scheduler that is exchanged is followed. The networks are those that
    it had at first; they are put into eval mode and frozen.
    """

    family = "unet"

    def __init__(self, pipeline: Any, *, name: str = "") -> None:
        self.pipeline = pipeline
        self.lora: Lora | None = None  # what `load_lora` loaded
        self.name = str(name or pipeline.config.get("_name_or_path") or type(pipeline).__name__)
        self.network: Any = pipeline.unet
        self.autoencoder: Any = pipeline.vae
        if more := _more_than_a_prompt(pipeline):
            raise UsageError(
                f"{self.name} is told more than a prompt ({more}), which is not supported.",
                hint="Of an IP-Adapter: call `unload_ip_adapter()` on the pipeline first.",
                field="model",
            )
        for module in (pipeline.unet, pipeline.vae, *text_encoders(pipeline).values()):
            module.eval().requires_grad_(False)
        self.latent_channels: int = pipeline.unet.config.in_channels
        if self.latent_channels != pipeline.vae.config.latent_channels:
            raise UsageError(
                f"{self.name} takes {self.latent_channels} channels where its autoencoder makes "
                f"{pipeline.vae.config.latent_channels}: an inpainting or depth variant.",
                hint="Use the plain text-to-image model.",
                field="model",
            )
        if pipeline.unet.config.out_channels != self.latent_channels:
            raise UsageError(
                f"{self.name} predicts {pipeline.unet.config.out_channels} channels of {self.latent_channels}: its "
                "variance too, which is not supported.",
                field="model",
            )
        if pipeline.vae.config.get("latents_mean") is not None:
            raise UsageError(
                f"{self.name} shifts its latents (latents_mean of its autoencoder), which is not supported.",
                field="model",
            )
        if pipeline.unet.config.get("time_cond_proj_dim") is not None:
            raise UsageError(
                f"{self.name} is distilled for being told the scale, which is not supported.",
                hint="Use the ordinary model with an LCM-LoRA.",
                field="model",
            )
        self.stride: int = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        self.multiple: int = self.stride * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
        side = pipeline.unet.config.sample_size
        if side is None:
            raise UsageError(
                f"The configuration of {self.name} does not say for which size the model is.",
                hint="Set it: pipeline.unet.register_to_config(sample_size=64) for 512 pixels.",
                field="model",
            )
        grid = (side, side) if isinstance(side, int) else tuple(reversed(side))
        self.default_size: tuple[int, int] = (grid[0] * self.stride, grid[1] * self.stride)
        self._taps: tuple[object, Sequence[TapInfo]] | None = None  # what they were found with, and they
        self._read = self._read_scheduler()

    @property
    def _noise(self) -> _Noise:
        if self._read.scheduler is not self.pipeline.scheduler:
            self._read = self._read_scheduler()
        return self._read

    def _read_scheduler(self) -> _Noise:
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
        if differing := _differing(name, scheduler.config):
            told = f"The scheduler of {self.name} {differing}, and pictures differ from diffusers'."
            warnings.warn(told, SketchguideWarning, stacklevel=2)
        products = [float(product) for product in self._scheduler("DDIMScheduler").alphas_cumprod]
        return _Noise(scheduler, kind, [p**0.5 for p in products], [(1 - p) ** 0.5 for p in products])

    @property
    def prediction_kind(self) -> PredictionKind:
        return self._noise.kind

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"network": self.network, "autoencoder": self.autoencoder, **text_encoders(self.pipeline)}

    @property
    def device(self) -> torch.device:
        return self.pipeline._execution_device  # knows about offloading, which `.device` of a module does not

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def solvers(self) -> Mapping[str, SolverChoice]:
        own = OF_SCHEDULER.get(type(self.pipeline.scheduler).__name__, "ddim")
        return {own: SOLVERS[own], **SOLVERS}

    def levels(self, steps: int, solver: str | None = None) -> list[Level]:
        """`steps + 1` levels, noisiest first, as the scheduler behind `solver` spaces them for this model."""
        choice = choose_solver(solver or next(iter(self.solvers)))
        return levels_of(self._scheduler(choice.scheduler), steps)

    def level(self, progress: float) -> Level:
        """The training level at `progress` (0: pure noise, 1: almost clean)."""
        noise = self._noise
        last = len(noise.alphas) - 1
        time = min(last, max(0, round((1 - progress) * last)))
        return Level(float(time), noise.alphas[time], noise.sigmas[time], progress)

    def _scheduler(self, name: str) -> Any:
        # A fresh one each time: diffusers schedulers keep state between calls.
        config = self.pipeline.scheduler.config
        try:
            return getattr(diffusers, name).from_config(config)
        except NotImplementedError as error:
            schedule = config.get("beta_schedule")
            raise UsageError(f"{self.name} has noise ({schedule}) that no {name} makes.", field="solver") from error

    def describe(self, prompts: Sequence[str]) -> Condition:
        """Text conditions, one row per prompt, made by the pipeline's own `encode_prompt`. An empty prompt is all zeros
        where the pipeline takes it so (`force_zeros_for_empty_prompt`, as SDXL was trained).
        """
        tokenizer = self.pipeline.tokenizer
        limit: int = tokenizer.model_max_length
        dropped: list[str] = []
        if isinstance(prompts, str):
            raise UsageError("describe takes a list of prompts.", hint="Give [prompt].", field="prompt")
        if not prompts:
            raise UsageError("describe was given no prompts.", hint='Give at least one; [""] is none.', field="prompt")
        for prompt in prompts:
            if hasattr(self.pipeline, "maybe_convert_prompt"):  # textual inversion: one word, several vectors
                prompt = self.pipeline.maybe_convert_prompt(prompt, tokenizer)
            ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
            dropped.append(tokenizer.decode(ids[limit - 1 : -1]).strip() if len(ids) > limit else "")
        with torch.no_grad():
            embedding, *more = self.pipeline.encode_prompt(
                list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            told = [embedding, more[1]] if len(more) == 3 else [embedding]  # two encoders: the pooled text as well
            if self.pipeline.config.get("force_zeros_for_empty_prompt"):
                rows = [row for row, prompt in enumerate(prompts) if not prompt]
                told = [one.index_fill(0, torch.tensor(rows, device=one.device), 0) if rows else one for one in told]
        return Condition(told[0], dict(zip((_POOLED,), told[1:], strict=False)), dropped=tuple(dropped))

    def predict(self, latent: Tensor, level: Level, condition: Condition) -> Prediction:
        """The network's opinion of `latent` (B, C, h, w) at `level`; latent and prediction in float32."""
        output = self.run(latent, torch.tensor([level.time], device=latent.device), condition)
        return Prediction.read(self.prediction_kind, output, latent, level)

    def run(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """The network's raw float32 output (B, C, h, w); `times` is (1,), or (B,) as training needs it."""
        if latent.requires_grad and torch.is_grad_enabled() and (hook := _swapping(self.network)):
            raise UsageError(
                f"Nothing can be pulled through a network with {hook}: its weights change before the gradient is "
                "computed.",
                hint="Take enable_model_cpu_offload() or enable_sequential_cpu_offload() instead.",
                field="model",
            )
        dtype = self.dtype  # diffusers looks through the parameters for it
        return self.network(
            latent.to(dtype), times, **arguments(condition, latent, stride=self.stride, dtype=dtype), return_dict=False
        )[0].float()

    @contextmanager
    def _in_range(self, *, keep: bool = False) -> Generator[None]:
        """Within the block the autoencoder is in float32 where half precision would overflow, as that of SDXL does
        (`force_upcast`); with `keep`, since a graph needs its weights, for good."""
        vae = self.autoencoder
        upcast = vae.dtype == torch.float16 and vae.config.force_upcast and len(text_encoders(self.pipeline)) > 1
        if upcast:
            vae.to(torch.float32)
        try:
            yield
        finally:
            if upcast and not keep:
                vae.to(torch.float16)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> float32 latents (B, C, h, w), the mode of the posterior."""
        made: list[Tensor] = []
        with self._in_range():
            for part in images.split(max(1, _AT_ONCE // (images.shape[-2] * images.shape[-1]))):
                posterior = self.autoencoder.encode(part.to(self.device, self.autoencoder.dtype)).latent_dist
                made.append(posterior.mode().float() * self.autoencoder.config.scaling_factor)
        return torch.cat(made)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> float32 images (B, 3, H, W), about [-1, 1]; the graph of latents is kept."""
        pulled = latents.requires_grad and torch.is_grad_enabled()
        with self._in_range(keep=pulled):
            scaled = (latents / self.autoencoder.config.scaling_factor).to(self.device, self.autoencoder.dtype)
            decode = self.autoencoder.decode
            if pulled and isinstance(getattr(self.autoencoder, "_hf_hook", None), CpuOffload):
                # As it comes it would send the network away, whose gradient is still to be taken.
                decode = partial(inspect.unwrap(type(self.autoencoder).decode), self.autoencoder.to(self.device))
            parts = scaled.split(max(1, _AT_ONCE // (scaled.shape[-2] * scaled.shape[-1] * self.stride**2)))
            return torch.cat([decode(part, return_dict=False)[0].float() for part in parts])

    @property
    def taps(self) -> Sequence[TapInfo]:
        """Found by one pass over a small latent, once for the same processors of attention: fused they reach others."""
        processors = {path: type(one) for path, one in self.network.attn_processors.items()}
        if self._taps is None or self._taps[0] != processors:
            self._taps = (processors, self._survey())
        return self._taps[1]

    def _survey(self) -> Sequence[TapInfo]:
        deepest = self.multiple // self.stride
        grid = (2 * deepest, 3 * deepest)
        latent = torch.zeros(1, self.latent_channels, *grid, device=self.device)
        told = self.describe(["a"])
        condition = replace(told, embedding=told.embedding[:, :7])
        with torch.no_grad():
            return survey(self.network, lambda: self.predict(latent, self.level(0.5), condition), grid=grid)


def text_encoders(pipeline: Any) -> Mapping[str, nn.Module]:
    """Those that a pipeline has: one, or the two of SDXL."""
    named = {name: pipeline.components.get(name) for name in ("text_encoder", "text_encoder_2")}
    return {name: encoder for name, encoder in named.items() if encoder is not None}


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


def _more_than_a_prompt(pipeline: Any) -> str | None:
    """What else the network is told: pictures by an IP-Adapter, a class, how beautiful it should be or the like."""
    unet, config = pipeline.unet, pipeline.unet.config
    for part in ("encoder_hid_proj", "class_embedding"):
        if getattr(unet, part, None) is not None:
            return part
    kind = config.get("addition_embed_type")
    if kind == "text_time" and (second := text_encoders(pipeline).get("text_encoder_2")) is not None:
        pooled: Any = second.config
        width = pooled.projection_dim + _SIZES * config.addition_time_embed_dim
        return None if config.projection_class_embeddings_input_dim == width else "a score beside the sizes"
    return None if kind in (None, "text") else f"addition_embed_type {kind}"


def _differing(name: str, config: Any) -> str | None:
    """In what a scheduler of diffusers goes another way than the solver that stands for it."""
    if name not in OF_SCHEDULER:
        return f"is a {name}, which is not offered: DDIM takes its place"
    if name == "DPMSolverMultistepScheduler" and not _is_plain(config, _PLAIN_2M):
        return "is a variant of DPM-Solver that is not offered: its levels are walked by DPM-Solver++(2M)"
    if name in _CLIPPING and any(config.get(one) for one in ("clip_sample", "thresholding")):
        return "clips what the network predicts (clip_sample or thresholding), which is not done"
    if name in _DRAWING and not _is_plain(config, {"variance_type": "fixed_small"}):
        return f"draws noise otherwise (variance_type {config['variance_type']}): as much is drawn as by fixed_small"
    if name == "LCMScheduler" and not _is_plain(config, {"timestep_scaling": 10.0}):
        return f"has timestep_scaling {config['timestep_scaling']:g}, where 10 is taken"
    return None


def _is_plain(config: Any, wanted: Mapping[str, object]) -> bool:
    return all(config.get(name, value) == value for name, value in wanted.items())


def _swapping(network: nn.Module) -> str | None:
    """The name of a hook of diffusers on the network that exchanges its weights, if there is one."""
    registries = [hooks for module in network.modules() if (hooks := getattr(module, "_diffusers_hook", None))]
    return next((name for name in _SWAPPING for hooks in registries if hooks.get_hook(name)), None)
