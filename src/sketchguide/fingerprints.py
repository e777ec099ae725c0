"""What tells networks apart in a few hex digits."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from itertools import chain

import torch
from torch import nn

from sketchguide.backbones.base import Backbone
from sketchguide.backbones.pipeline import hooks_of
from sketchguide.errors import UsageError
from sketchguide.lora import adapted
from sketchguide.weights import opened, parts_of


def fingerprint_of_model(backbone: Backbone) -> str:
    """The `fingerprint` of all networks that the backbone's pictures go through."""
    return fingerprint(nn.ModuleDict(backbone.networks))


def dtype_of(backbone: Backbone) -> str:
    """The name of its precision, as in "float32"."""
    return str(backbone.dtype).removeprefix("torch.")


def identity_of(backbone: Backbone) -> dict[str, str]:
    """What pictures depend on besides their request: `model`, its fingerprint, `dtype` and kind of `device`."""
    return {"dtype": dtype_of(backbone), "device": backbone.device.type, "model": fingerprint_of_model(backbone)}


def fingerprint(network: nn.Module) -> str:
    """12 hex digits that change with the architecture, the weights or how much of which adapters is switched on, at the
    cost of a few values per tensor.
    """
    digest = hashlib.sha256()
    if "peft" in sys.modules:  # else nothing has an adapter; to import it takes a second
        for _, name, layer in adapted(network):
            active = set() if layer.disable_adapters else set(layer.active_adapters)
            on = {one: scale for one, scale in layer.scaling.items() if one in active}
            digest.update(f"{name} {sorted(on.items())} {sorted(layer.merged_adapters)} ".encode())
    for name, tensor in sorted(_tensors(network)):
        some = _some(tensor.detach()).cpu().double()  # in this order: MPS has no float64
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:12]


def _some(tensor: torch.Tensor) -> torch.Tensor:
    """At most 17 values from all over it, in the order of its indices, however it lies in memory."""
    every = max(1, tensor.numel() // 16)
    if tensor.is_contiguous():
        return tensor.flatten()[::every][:17]
    places = torch.arange(0, tensor.numel(), every)[:17]
    return tensor[torch.unravel_index(places, tensor.shape)]  # to flatten it would copy it


def _tensors(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    on_disk = _on_disk(network)
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        yield from parts_of(name, _offloaded(network, name) if tensor.is_meta else on_disk.get(tensor, tensor))


def _on_disk(network: nn.Module) -> dict[torch.Tensor, torch.Tensor]:
    """What group offloading keeps in files until its module runs, by the tensor without values that stands for it."""
    kept: dict[torch.Tensor, torch.Tensor] = {}
    for name, hook in hooks_of(network):
        if name == "group_offloading" and hook.group.offload_to_disk_path is not None:
            with opened(hook.group.safetensors_file_path, field="model") as file:
                kept |= {tensor: file.get_tensor(key) for tensor, key in hook.group.tensor_to_key.items()}
    return kept


def _offloaded(network: nn.Module, name: str) -> torch.Tensor:
    """A tensor that accelerate keeps elsewhere until its module runs."""
    path, _, leaf = name.rpartition(".")
    hook = getattr(network.get_submodule(path), "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        kept: Mapping[str, torch.Tensor] | None = getattr(one, "weights_map", None)
        if kept is not None and leaf in kept:
            return kept[leaf]
    raise UsageError(
        f"The weights {name} are not there: they are on no device.",
        hint="Load the pipeline with its weights, or offload it by diffusers' own methods.",
        field="model",
    )
