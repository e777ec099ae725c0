"""What every diffusers pipeline has alike, whatever its network: prompts, an autoencoder, taps."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from accelerate.hooks import CpuOffload
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sketchguide.backbones.base import Condition
from sketchguide.errors import UsageError
from sketchguide.levels import Level, Prediction, PredictionKind
from sketchguide.solvers import SolverChoice
from sketchguide.taps import TapInfo, survey

_AT_ONCE = 2**20  # pixels that the autoencoder sees at once where no graph is kept: four pictures of 512
_SWAPPING = ("group_offloading", "layerwise_casting")  # hooks of diffusers that change weights behind a pass


class Noise(NamedTuple):
    """What a scheduler says of the network: what it predicts, and the levels that it was trained on, cleanest first."""

    settings: tuple[Any, ...]  # the scheduler and all that it was read from
    kind: PredictionKind
    times: Sequence[float]
    alphas: Sequence[float]
    sigmas: Sequence[float]


class PipelineBackbone(ABC):
    """A loaded diffusers pipeline, used as it is: LoRA, dtype and offloading stay as the user set them, and a scheduler
    that is exchanged or set otherwise is followed. The networks are those that it had at first; they are put into eval
    mode and frozen.
    """

    family: str
    part: str  # what the pipeline calls its network
    network_class: str  # of diffusers
    encoders: tuple[int, ...]  # how many of text it may have

    def __init__(self, pipeline: Any, *, name: str = "") -> None:
        self.pipeline = pipeline
        self.name = str(name or pipeline.config.get("_name_or_path") or type(pipeline).__name__)
        self.network: Any = uncompiled(getattr(pipeline, self.part))
        self.autoencoder: Any = uncompiled(pipeline.vae)
        self._check_hears_prompts_alone()
        config = self.autoencoder.config
        self.check_channels(self.name, self.network.config, config)
        self.latent_channels: int = config.latent_channels
        self.stride: int = 2 ** (len(config.block_out_channels) - 1)
        side = self._side
        if side is None:
            raise UsageError(
                f"The configuration of {self.name} does not say for which size the model is.",
                hint=f"Set it: pipeline.{self.part}.register_to_config(sample_size=64) for 512 pixels.",
                field="model",
            )
        grid = (side, side) if isinstance(side, int) else tuple(reversed(side))
        self.default_size: tuple[int, int] = (grid[0] * self.stride, grid[1] * self.stride)
        self._taps: tuple[object, Sequence[TapInfo]] | None = None  # what they were found with, and they
        self._read = self._read_scheduler()
        self._check_can_be_widened()
        setattr(pipeline, self.part, self.network)
        pipeline.vae = self.autoencoder
        for part in (self.network, self.autoencoder):
            _undo_compile(part)
        for module in self.networks.values():
            module.eval().requires_grad_(False)

    @classmethod
    def check_channels(cls, name: str, network: Mapping[str, Any], autoencoder: Mapping[str, Any]) -> None:
        """UsageError where the configurations of a network and its autoencoder say that they are for something else
        than pictures of a prompt.
        """
        taken, made = cls._channels_of(network)
        if taken != autoencoder["latent_channels"]:
            raise UsageError(
                f"{name} takes {taken} channels where its autoencoder makes {autoencoder['latent_channels']}: an "
                "inpainting or depth variant.",
                hint="Use the plain text-to-image model.",
                field="model",
            )
        if made != taken:
            raise UsageError(
                f"{name} predicts {made} channels of {taken}: its variance too, which is not supported.", field="model"
            )
        if autoencoder.get("latents_mean") is not None:
            raise UsageError(
                f"{name} shifts its latents (latents_mean of its autoencoder), which is not supported.", field="model"
            )
        sides = {side: autoencoder[side] for side in ("in_channels", "out_channels")}
        if other := [f"{side} {number}" for side, number in sides.items() if number != 3]:
            raise UsageError(
                f"The autoencoder of {name} is of no RGB pictures ({', '.join(other)}), which is not supported.",
                field="model",
            )

    @staticmethod
    def _channels_of(config: Mapping[str, Any]) -> tuple[int, int]:
        """Of the latents that a network takes, and of what it makes of them."""
        return config["in_channels"], config.get("out_channels") or config["in_channels"]

    @classmethod
    def check_told(cls, name: str, network: Mapping[str, Any]) -> None:
        """UsageError where the configuration of a network says that it is told more than a prompt."""
        if more := cls._more_in(network):
            raise _told_more(name, more)

    @staticmethod
    def _more_in(config: Mapping[str, Any]) -> str | None:
        """What else a network of this configuration is told, as far as that says it."""
        del config
        return None

    def _check_hears_prompts_alone(self) -> None:
        if more := self._more_than_a_prompt():
            adapter = more.endswith("_proj") and self.network.config.get("encoder_hid_dim_type") != "text_proj"
            hint = "Of an IP-Adapter: call `unload_ip_adapter()` on the pipeline first." if adapter else ""
            raise _told_more(self.name, more, hint=hint)

    @abstractmethod
    def _more_than_a_prompt(self) -> str | None:
        """What else the network is told, and we do not know."""

    @abstractmethod
    def _encode_prompts(self, prompts: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The embedding (B, tokens, width), and what else the network is told of the prompts, (B, …) each."""

    @abstractmethod
    def _forward(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """What the network says of the latent (B, C, h, w) at `times`, (1,) or (B,)."""

    @property
    def distilled(self) -> bool:
        return False

    @property
    def _side(self) -> Any:
        """Of the latent that the model is for, (height, width) where it is no square; None where that is not said."""
        return self.network.config.sample_size

    @property
    @abstractmethod
    def solvers(self) -> Mapping[str, SolverChoice]: ...

    @abstractmethod
    def levels(self, steps: int, solver: str | None = None, size: tuple[int, int] | None = None) -> list[Level]: ...

    @abstractmethod
    def _read_scheduler(self) -> Noise:
        """Of the pipeline's scheduler; UsageError for one that cannot be walked."""

    @property
    @abstractmethod
    def multiple(self) -> int: ...

    @property
    def largest(self) -> int | None:
        return None

    @property
    def _noise(self) -> Noise:
        if self._read.settings != self._settings:
            self._read = self._read_scheduler()
        return self._read

    @property
    def _settings(self) -> tuple[Any, ...]:
        """What the training levels depend on: a scheduler may be exchanged, or set otherwise."""
        scheduler = self.pipeline.scheduler
        alphas = getattr(scheduler, "alphas_cumprod", None)
        shift = getattr(scheduler, "shift", None)
        return scheduler, scheduler.config, shift, None if alphas is None else alphas.tolist()

    @property
    def prediction_kind(self) -> PredictionKind:
        return self._noise.kind

    def level(self, progress: float) -> Level:
        """The training level at `progress` (0: pure noise, 1: almost clean)."""
        noise = self._noise
        last = len(noise.times) - 1
        place = min(last, max(0, round((1 - progress) * last)))
        return Level(noise.times[place], noise.alphas[place], noise.sigmas[place], progress)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"network": self.network, "autoencoder": self.autoencoder, **text_encoders(self.pipeline)}

    @property
    def device(self) -> torch.device:
        return get_module_execution_device(self.network)  # knows about offloading, which `.device` of it does not

    @property
    def dtype(self) -> torch.dtype:
        return precision_of(self.network)

    def describe(self, prompts: Sequence[str]) -> Condition:
        """Text conditions, one row per prompt, made by the pipeline's own `encode_prompt`, of equal prompts once. An
        empty prompt is all zeros where the pipeline takes it so (`force_zeros_for_empty_prompt`, as SDXL was trained).
        """
        if isinstance(prompts, str):
            raise UsageError("describe takes a list of prompts.", hint="Give [prompt].", field="prompt")
        if not prompts:
            raise UsageError("describe was given no prompts.", hint='Give at least one; [""] is none.', field="prompt")
        self._check_hears_prompts_alone()
        for module in chain.from_iterable(network.modules() for network in self.networks.values()):
            if module.training:  # of a LoRA that was loaded since; what a fine-tuning trains is in eval mode
                module.eval().requires_grad_(False)
        for hook in getattr(self.pipeline, "_all_hooks", ()):  # offloaded encoders send away each other alone
            if hook.model in (self.network, self.autoencoder):
                hook.offload()
        texts = list(dict.fromkeys(prompts))
        with torch.no_grad():
            embedding, extras = self._encode_prompts(texts)
        if "" in texts and self.pipeline.config.get("force_zeros_for_empty_prompt"):
            for told in (embedding, *extras.values()):
                told[texts.index("")] = 0
        return Condition(embedding, extras).rows([texts.index(prompt) for prompt in prompts])

    def unread(self, prompts: Sequence[str]) -> list[str]:
        """Of each prompt, the words beyond the text encoder's limit; "" where it reads all. No encoder runs."""
        tokenizer, limit = self._reader
        cut: list[str] = []
        for prompt in prompts:
            if hasattr(self.pipeline, "maybe_convert_prompt"):  # textual inversion: one word, several vectors
                prompt = self.pipeline.maybe_convert_prompt(prompt, tokenizer)
            ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
            cut.append(tokenizer.decode(ids[limit - 1 : -1]).strip() if len(ids) > limit else "")
        return cut

    @property
    def _reader(self) -> tuple[Any, int]:
        """The tokenizer that reads most of a prompt, and how many tokens it reads."""
        return self.pipeline.tokenizer, self.pipeline.tokenizer.model_max_length

    def predict(self, latent: Tensor, level: Level, condition: Condition) -> Prediction:
        """The network's opinion of `latent` (B, C, h, w) at `level`; latent and prediction in float32."""
        output = self.run(latent, torch.tensor([level.time], device=latent.device), condition)
        return Prediction.read(self.prediction_kind, output, latent, level)

    def run(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """The network's raw float32 output (B, C, h, w); `times` is (1,), or (B,) as training needs it."""
        check_keeps_weights(self.network, latent)
        if cache := next((name for name, hook in hooks_of(self.network) if hook._is_stateful), None):
            raise UsageError(
                f"The network repeats what its blocks said at an earlier step ({cache}), where it must be read.",
                hint=f"Call pipeline.{self.part}.disable_cache(), or load the pipeline anew if `apply_…` put it on.",
                field="model",
            )
        return self._forward(latent.to(self.dtype), times, condition).float()

    @property
    def _overflows(self) -> bool:
        """Whether the autoencoder makes infinities in half precision."""
        return False

    @property
    def _too_narrow(self) -> bool:
        """Whether it would make them now."""
        return self._overflows and self.autoencoder.dtype == torch.float16

    def _check_can_be_widened(self) -> None:
        groups = [hook.group for name, hook in hooks_of(self.autoencoder) if name == "group_offloading"]
        if self._too_narrow and any(one.stream is not None or one.offload_to_disk_path is not None for one in groups):
            raise UsageError(
                f"The autoencoder of {self.name} must work in float32, and group offloading with streams or to a disk "
                "fetches it in float16.",
                hint="Leave the autoencoder out of it, load the pipeline in bfloat16, or take an autoencoder that was "
                "made for float16.",
                field="model",
            )

    @contextmanager
    def _in_range(self) -> Generator[None]:
        """Within the block an autoencoder that half precision overflows is in float32."""
        if not self._too_narrow:
            yield
            return
        self._check_can_be_widened()
        self.autoencoder.to(torch.float32)
        try:
            # A graph keeps its weights itself: the autoencoder's are in half precision again when it is asked.
            with saved_tensors_hooks(Tensor.detach, lambda kept: kept):
                yield
        finally:
            self.autoencoder.to(torch.float16)

    @property
    def _scaling(self) -> tuple[float, float]:
        """What latents are less than the autoencoder's, and by how much they are multiplied then."""
        config = self.autoencoder.config
        return config.get("shift_factor") or 0.0, config.scaling_factor

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> float32 latents (B, C, h, w), the mode of the posterior."""
        made: list[Tensor] = []
        shift, scale = self._scaling
        with self._in_range():
            for part in images.split(max(1, _AT_ONCE // (images.shape[-2] * images.shape[-1]))):
                own = part.to(get_module_execution_device(self.autoencoder), self.autoencoder.dtype)
                mode = self.autoencoder.encode(own).latent_dist.mode()
                made.append((mode.to(self.device).float() - shift) * scale)
        return torch.cat(made)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> float32 images (B, 3, H, W), about [-1, 1]; the graph of latents is kept."""
        pulled = latents.requires_grad and torch.is_grad_enabled()
        check_keeps_weights(self.autoencoder, latents)
        shift, scale = self._scaling
        with self._in_range():
            own = (latents / scale + shift).to(get_module_execution_device(self.autoencoder), self.autoencoder.dtype)
            decode = self.autoencoder.decode
            if pulled and isinstance(getattr(self.autoencoder, "_hf_hook", None), CpuOffload):
                # As it comes it would send the network away, whose gradient is still to be taken.
                decode = partial(inspect.unwrap(type(self.autoencoder).decode), self.autoencoder.to(self.device))
            parts = own.split(max(1, _AT_ONCE // (own.shape[-2] * own.shape[-1] * self.stride**2)))
            return torch.cat([decode(part, return_dict=False)[0].to(self.device).float() for part in parts])

    @property
    def taps(self) -> Sequence[TapInfo]:
        """Found by one pass over a small latent, once for the same submodules, of which a LoRA brings its own, and the
        same processors of attention: fused they reach others.
        """
        found = {**dict(self.network.named_modules()), **self.network.attn_processors}
        kinds = {path: type(one) for path, one in found.items()}
        if self._taps is None or self._taps[0] != kinds:
            self._taps = (kinds, self._survey())
        return self._taps[1]

    def _survey(self) -> Sequence[TapInfo]:
        deepest = self.multiple // self.stride
        grid = (2 * deepest, 3 * deepest)
        latent = torch.zeros(1, self.latent_channels, *grid, device=self.device)
        told = self.describe(["a"])
        condition = replace(told, embedding=told.embedding[:, :7])
        with torch.no_grad():
            return survey(self.network, lambda: self.predict(latent, self.level(0.5), condition), grid=grid)


def _told_more(name: str, more: str, *, hint: str = "") -> UsageError:
    return UsageError(f"{name} is told more than a prompt ({more}), which is not supported.", hint=hint, field="model")


def text_encoders(pipeline: Any) -> Mapping[str, nn.Module]:
    """Those that a pipeline has, in its own order."""
    named = {name: pipeline.components.get(name) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")}
    return {name: encoder for name, encoder in named.items() if encoder is not None}


def is_same_device(one: torch.device, other: torch.device) -> bool:
    """Whether two names are of one device: without a number it is the first of its kind."""
    return (one.type, one.index or 0) == (other.type, other.index or 0)


def uncompiled(part: Any) -> Any:
    """A part of a pipeline without the wrapper of `torch.compile`."""
    return getattr(part, "_orig_mod", part)


def _undo_compile(network: nn.Module) -> None:
    """As `uncompiled`, of what `compile()` and `compile_repeated_blocks()` did to modules in their place."""
    for module in network.modules():
        if module._compiled_call_impl is not None:  # pyright: ignore[reportPrivateUsage]
            module._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage]


def check_keeps_weights(network: nn.Module, latent: Tensor | None = None) -> None:
    """UsageError where a gradient is to lead through a network whose weights change before that: to `latent`, or to
    weights that learn.
    """
    if latent is not None and not (latent.requires_grad and torch.is_grad_enabled()):
        return
    if swapping := next((name for name, _ in hooks_of(network) if name in _SWAPPING), None):
        raise UsageError(
            f"No gradient can be led through this {type(network).__name__} with {swapping}: its weights change before "
            "it is computed.",
            hint="Take enable_model_cpu_offload() of the pipeline instead.",
            field="model",
        )


def is_quantized(network: nn.Module) -> bool:
    """Whether weights are in few bits: by diffusers, or as tensors of a kind of their own (torchao)."""
    weights = network.parameters()
    return getattr(network, "is_quantized", False) or any(hasattr(one, "__tensor_flatten__") for one in weights)


def precision_of(network: nn.Module) -> torch.dtype:
    """`network.dtype` as diffusers has it, but without its walk through all modules where nothing hangs on them."""
    model: Any = network
    if not getattr(model, "_keep_in_fp32_modules", None) and not hooks_of(network):
        for parameter in network.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
    return model.dtype


def hooks_of(network: nn.Module) -> list[tuple[str, Any]]:
    """The hooks of diffusers on a network, with their names."""
    states = [vars(network)]  # `modules()` takes several times as long, and this is asked at every pass
    for state in states:
        states += [vars(child) for child in state["_modules"].values() if child is not None]
    return [hook for state in states if "_diffusers_hook" in state for hook in state["_diffusers_hook"].hooks.items()]
