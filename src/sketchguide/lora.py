"""LoRAs on the networks of a backbone, beside those that it has."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from logging import LogRecord
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from accelerate.hooks import AlignDevicesHook, CpuOffload
from huggingface_hub import list_repo_files, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from torch import nn

from sketchguide.backbones.base import Backbone
from sketchguide.backbones.pipeline import PipelineBackbone, text_encoders
from sketchguide.backbones.transformer import FluxBackbone
from sketchguide.errors import MismatchError, ModelNotFoundError, UsageError, reason_of, warn
from sketchguide.files import is_dir
from sketchguide.weights import find_file, read_weights

LORA = "sketchguide"  # how the names of our adapters begin
LORA_FILE = "pytorch_lora_weights.safetensors"  # as diffusers calls it


class _Lora(NamedTuple):
    adapter: str
    name: str
    file: Path
    scale: float


# What peft and diffusers raise of such.
_UNFIT = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError, NameError)
_loaded: WeakKeyDictionary[nn.Module, list[_Lora]] = WeakKeyDictionary()  # by network: backbones may share one


def load_lora(
    name: str | Path | Sequence[str | Path], backbone: Backbone, *, scale: float | Sequence[float] = 1.0
) -> Backbone:
    """Put a LoRA (a folder, a file or a hub id), or several, on the backbone's networks, and return the backbone.

    `scale`, one for all or one for each, is the slider between the model as it was (0) and as it was tuned (1): the
    weights are W + scale * B A, summed over the LoRAs. What was loaded here before is replaced; others stay as they
    are. Raises ModelNotFoundError, WeightsError, UsageError where others are fused or switched off, and MismatchError
    for a LoRA made for another network; the backbone is then as it was. Warns (SketchguideWarning) of layers of a LoRA
    that the network lacks.
    """
    if not isinstance(backbone, PipelineBackbone) or not hasattr(backbone.pipeline, "load_lora_weights"):
        raise MismatchError(
            f"{backbone.name!r} takes no LoRA.",
            hint="A LoRA goes on a pipeline, before a ControlNet or an adapter.",
            field="lora",
        )
    names = [name] if isinstance(name, str | Path) else list(name)
    scales = list(scale) if isinstance(scale, Sequence) else [scale] * len(names)
    if len(scales) != len(names):
        raise UsageError(
            f"{len(scales)} scales are given for {len(names)} LoRAs.",
            hint="Give one number for all, or one for each.",
            field="lora_scale",
        )
    for one in scales:
        if not math.isfinite(one):
            raise UsageError(f"lora_scale is {one}; it must be a number, usually 0 to 1.", field="lora_scale")
    loras = [
        _Lora(f"{LORA}-{number}", str(one), _file_of(one), much)
        for number, (one, much) in enumerate(zip(names, scales, strict=True), start=1)
    ]
    for lora in loras:
        _check_file(lora)
    before = _worn(backbone)
    check_others(backbone)
    unload_lora(backbone)
    try:
        _put_on(backbone, loras)
    except BaseException:
        _put_on(backbone, before)
        raise
    return backbone


def _check_file(lora: _Lora) -> None:
    weights, _ = read_weights(lora.file, field="lora")  # refuses damage; diffusers reads it again, for its header
    if any("dora_scale" in weight for weight in weights):
        raise MismatchError(
            f"The LoRA {lora.name!r} is a DoRA of the kind whose magnitudes (dora_scale) diffusers leaves out.",
            hint="Take a plain LoRA of it, or one that peft saved (lora_magnitude_vector).",
            field="lora",
        )


def _file_of(name: str | Path) -> Path:
    """LORA_FILE of a folder or a hub id, or where there is none the only file of weights there; or the file itself."""
    try:
        return find_file(name, LORA_FILE, kind="LoRA", field="lora")
    except ModelNotFoundError as error:
        others: list[str] = []
        if is_dir(Path(name)):
            others = sorted(file.name for file in Path(name).glob("*.safetensors"))
        elif isinstance(error.__cause__, RemoteEntryNotFoundError | LocalEntryNotFoundError):
            others = _weights_on_hub(str(name), reached=isinstance(error.__cause__, RemoteEntryNotFoundError))
        if len(others) == 1:
            return find_file(name, others[0], kind="LoRA", field="lora")
        if others:
            fetch = "" if is_dir(Path(name)) else f": the path that `hf download {name} FILE` prints"
            error.hint = f"It has several files: {', '.join(others[:5])}. Give the one that is meant{fetch}."
        raise


def _weights_on_hub(name: str, *, reached: bool) -> list[str]:
    """The files of weights at the top of a repository; where the hub was not reached, of those that were fetched."""
    try:
        if reached:
            files = list_repo_files(name)
        else:
            files = [file.name for file in Path(snapshot_download(name, local_files_only=True)).iterdir()]
    except Exception:  # also of the hub's HTTP library: what led here says what is wrong
        return []
    return sorted(file for file in files if re.fullmatch(r"[^/]+\.safetensors", file))


@contextmanager
def wearing(loras: Mapping[str, float], backbone: Backbone) -> Generator[None]:
    """Within the block `loras`, scales by names, are on the backbone, in place of those that `load_lora` loaded before;
    where there are none, those stay, and where these are they, nothing is read again."""
    before = _worn(backbone) if isinstance(backbone, PipelineBackbone) else []
    if not loras or [(lora.name, lora.scale) for lora in before] == list(loras.items()):
        yield
        return
    load_lora(list(loras), backbone, scale=list(loras.values()))
    try:
        yield
    finally:
        unload_lora(backbone)
        if isinstance(backbone, PipelineBackbone):
            _put_on(backbone, before)


def _worn(backbone: PipelineBackbone) -> list[_Lora]:
    """What `load_lora` put on the backbone's network, unless it was taken off otherwise."""
    return [lora for lora in _loaded.get(backbone.network, []) if _is_on(lora, backbone)]


def _is_on(lora: _Lora, backbone: PipelineBackbone) -> bool:
    return any(lora.adapter in getattr(layer, "scaling", {}) for _, _, layer in adapted(*_adaptable(backbone)))


def _ours(backbone: PipelineBackbone) -> list[str]:
    """The names of our adapters, also of one that was put on in part, or in name alone."""
    networks = _adaptable(backbone)
    names = {name for network in networks for name in getattr(network, "peft_config", {})}
    names |= {name for _, _, layer in adapted(*networks) for name in layer.active_adapters}
    return sorted(name for name in names if re.fullmatch(rf"{LORA}-\d+", name))


def check_others(backbone: PipelineBackbone) -> None:
    """UsageError where a LoRA that is put on the backbone would not act as it should."""
    if any(layer.merged or layer.disable_adapters for _, _, layer in adapted(*_adaptable(backbone))):
        raise UsageError(
            f"The LoRAs that {backbone.name!r} has are fused or switched off, and another one would be too.",
            hint="Call `unfuse_lora()` and `enable_lora()` on the pipeline, or `unload_lora_weights()`.",
            field="lora",
        )


def _put_on(backbone: PipelineBackbone, loras: Sequence[_Lora]) -> None:
    """Nothing of them stays where that fails, or is broken off."""
    for lora in loras:
        _add(backbone, lora)
    if loras:
        _loaded[backbone.network] = list(loras)


def _add(backbone: PipelineBackbone, lora: _Lora) -> None:
    pipeline, networks = backbone.pipeline, _adaptable(backbone)
    offloading, device = _offloading(pipeline), backbone.device
    try:
        with warnings.catch_warnings(), _hushed() as said:
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            if isinstance(backbone, FluxBackbone):
                _check_changes_nothing(backbone, lora.file)
            with beside_others(lora.adapter, *networks):
                pipeline.load_lora_weights(str(lora.file), adapter_name=lora.adapter, use_safetensors=True)
        if not _is_on(lora, backbone):
            raise ValueError("it has no weights for any of its networks")
        for _, _, layer in adapted(*networks):
            layer.set_scale(lora.adapter, lora.scale)
        if said:
            told = f"The LoRA {lora.name!r} fits {backbone.name!r} in part alone: {shorten(said[0], 200)}"
            warn(told)
    except BaseException as error:
        unload_lora(backbone)
        if offloading is not None and _offloading(pipeline) is None:  # diffusers puts it on again where it loaded one
            getattr(pipeline, offloading)(device=device)
        if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, _UNFIT):
            raise
        raise MismatchError(
            f"The LoRA {lora.name!r} does not fit {backbone.name!r}: {reason_of(error)}",
            hint="Use it with the model that it was tuned on.",
            field="lora",
        ) from error


def _offloading(pipeline: Any) -> str | None:
    """The method of a pipeline by which accelerate's hooks came on its networks."""
    for part in pipeline.components.values():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            if isinstance(one, CpuOffload):
                return "enable_model_cpu_offload"
            if isinstance(one, AlignDevicesHook):
                return "enable_sequential_cpu_offload"
    return None


def _check_changes_nothing(backbone: FluxBackbone, file: Path) -> None:
    """ValueError for a LoRA of which diffusers would widen layers of the network or write over norms, and leave them so
    when it is taken off: one of FLUX.1-Canny or -Depth, say.
    """
    weights, _ = backbone.pipeline.lora_state_dict(str(file), use_safetensors=True, return_lora_metadata=True)
    for name, _ in backbone.network.named_parameters():
        if f"{backbone.part}.{name}" in weights:
            raise ValueError(f"it replaces weights of the model, {name} first")
    for path, layer in backbone.network.named_modules():
        for side, axis, width in (("lora_A", 1, "in_features"), ("lora_B", 0, "out_features")):
            made = weights.get(f"{backbone.part}.{path}.{side}.weight")
            if made is not None and made.shape[axis] != getattr(layer, width, made.shape[axis]):
                raise ValueError(f"its {side} of {path} is for {made.shape[axis]} values, not {getattr(layer, width)}")


def unload_lora(backbone: Backbone) -> None:
    """Take what `load_lora` loaded off the backbone, which is then as it was; where there is nothing, do nothing.

    Raises UsageError where it was fused into the weights since.
    """
    if isinstance(backbone, PipelineBackbone):
        take_off(_ours(backbone), *_adaptable(backbone))
        _loaded.pop(backbone.network, None)


@contextmanager
def beside_others(adapter: str, *networks: nn.Module) -> Generator[None]:
    """Within the block peft puts `adapter` on networks, which switches all others off; after it they are on again where
    they were, and nothing is trained."""
    active = {layer: layer.active_adapters for _, _, layer in adapted(*networks)}
    try:
        yield
    finally:
        for _, _, layer in adapted(*networks):
            layer.eval().set_adapter([*active.get(layer, []), adapter], inference_mode=True)


def take_off(adapters: Collection[str], *networks: nn.Module) -> None:
    """Remove adapters from networks, which are then as they were: others keep their weights, still frozen.

    Raises UsageError where one is fused into the weights; all of them are then still there.
    """
    from diffusers.utils.peft_utils import delete_adapter_layers

    if any(not set(adapters).isdisjoint(layer.merged_adapters) for _, _, layer in adapted(*networks)):
        raise UsageError(
            "The LoRA to take off is fused into the model's weights.",
            hint="Call `unfuse_lora()` on the pipeline first.",
            field="lora",
        )
    for _, _, layer in adapted(*networks):  # else the deletion makes the others trainable
        layer.set_adapter([name for name in layer.active_adapters if name not in adapters], inference_mode=True)
    for network in networks:
        for adapter in adapters:
            delete_adapter_layers(network, adapter)
    for network, path, layer in adapted(*networks):
        if not any(getattr(layer, name) for name in layer.adapter_layer_names):
            network.set_submodule(path, layer.get_base_layer())


@contextmanager
def _hushed() -> Generator[list[str]]:
    """Within the block diffusers does not tell of every network and layer that a LoRA is not for. What it would say of
    layers for which a network that it is for has no place comes into the list.
    """
    from diffusers.utils import logging, peft_utils

    said: list[str] = []

    def kept(record: LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    of_layers = peft_utils.logger
    before, own = logging.get_verbosity(), of_layers.level
    logging.set_verbosity(logging.CRITICAL)
    of_layers.setLevel(logging.WARNING)
    of_layers.addFilter(kept)
    try:
        yield said
    finally:
        of_layers.removeFilter(kept)
        of_layers.setLevel(own)
        logging.set_verbosity(before)


def _adaptable(backbone: PipelineBackbone) -> list[nn.Module]:
    return [backbone.network, *text_encoders(backbone.pipeline).values()]


def adapted(*networks: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """The layers that adapters are on: the network that each is in, its path there, and peft's layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [
        (network, path, layer)
        for network in networks
        for path, layer in network.named_modules()
        if isinstance(layer, BaseTunerLayer)
    ]
