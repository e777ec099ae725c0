"""ControlNets and T2I-Adapters of diffusers, from the names of their folders, files or repositories on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import diffusers
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from sketchguide.backbones.base import Backbone
from sketchguide.backbones.wrapped import CONTROLNETS
from sketchguide.errors import MismatchError, ModelNotFoundError, SketchguideError, reason_of
from sketchguide.files import is_dir, is_file
from sketchguide.loading import told_of, variant_of
from sketchguide.weights import WEIGHTS, check_no_pickle, is_hub_id, read_weights

Adapter = Literal["controlnet", "t2i_adapter"]
ADAPTERS: tuple[Adapter, ...] = get_args(Adapter)

# The last ones that were named beside each network, and what tells whether they are still what would be loaded.
_named: WeakKeyDictionary[nn.Module, dict[Adapter, tuple[Any, nn.Module]]] = WeakKeyDictionary()


def adapter_of(adapter: Adapter, name: str, backbone: Backbone) -> nn.Module:
    """What `load_adapter` loads; the last one of its kind stays in memory as long as the network of `backbone`."""
    sought = (name, _files_in(Path(name)), backbone.dtype, backbone.device)
    kept = _named.setdefault(backbone.network, {})
    if adapter not in kept or kept[adapter][0] != sought:
        kept.pop(adapter, None)  # memory may not suffice for both
        kept[adapter] = (sought, load_adapter(adapter, name, backbone))
    return kept[adapter][1]


def _files_in(path: Path) -> list[tuple[str, int, int]]:
    """What tells whether a file, or those of a folder, are still the same; of a hub id nothing."""
    found: list[tuple[str, int, int]] = []
    for file in [path] if is_file(path) else sorted(path.glob("*.*")):  # passes over a folder that may not be read
        with suppress(OSError):  # it may not be looked at, or went away
            stat = file.stat()
            found.append((file.name, stat.st_mtime_ns, stat.st_size))
    return found


def load_adapter(adapter: Adapter, name: str | Path, backbone: Backbone, *, field: str | None = None) -> nn.Module:
    """The ControlNet or T2I-Adapter in the folder or file `name`, or of that hub id, in the dtype and on the device of
    `backbone`; errors are about `field`, by default the adapter. Only safetensors weights are read. A file needs its
    config.json beside it, but for ControlNets of UNets, which are built after the network of `backbone`.

    Raises ModelNotFoundError, MismatchError (of another class, or a file that is for another network), WeightsError
    (truncated, pickled, incomplete or not finite). Whether it fits the backbone is found by `with_controlnet` and
    `with_t2i_adapter`.
    """
    field = field or adapter
    kind = "T2IAdapter" if adapter == "t2i_adapter" else CONTROLNETS.get(backbone.family, "ControlNetModel")
    path = Path(name)
    local = is_file(path / "config.json")
    if is_file(path):
        return _of_file(kind, path, backbone, field=field).to(backbone.device)
    if not local and (is_dir(path) or not is_hub_id(str(name)) or path.suffix in WEIGHTS):
        raise ModelNotFoundError(
            f"{name} is no folder that a {kind} can be loaded from.",
            hint="Give one that was made for this model, or its hub id (owner/name).",
            field=field,
        )
    source = path if local else str(name)
    of = getattr(diffusers, kind)
    with told_of(name, source, kind=kind, field=field):
        found = of.load_config(name).get("_class_name", kind)
    if found != kind:  # else what they share would be loaded
        raise MismatchError(f"{name} is a {found}; {adapter} takes a {kind} here.", field=field)
    for file in path.glob("*.safetensors") if local else ():
        read_weights(file, field=field)  # refuses damage, and values that are not finite
    with told_of(name, source, ("",), kind=kind, field=field):
        variant = variant_of(source, "", backbone.dtype)
        loaded = of.from_pretrained(name, use_safetensors=True, variant=variant, dtype=backbone.dtype)
        network: nn.Module = loaded.to(backbone.device)  # fails for one whose weights are incomplete
    return network


def _of_file(kind: str, path: Path, backbone: Backbone, *, field: str) -> nn.Module:
    """The adapter in a file of weights, in the dtype of `backbone`."""
    check_no_pickle(path, field=field)
    tensors = {name: tensor.to(backbone.dtype) for name, tensor in read_weights(path, field=field)[0].items()}
    of = getattr(diffusers, kind)
    try:
        config = of.load_config(path.parent) if is_file(path.with_name("config.json")) else {}
        with init_empty_weights():
            if config.get("_class_name") == kind:
                network: nn.Module = of.from_config(config)
            elif kind == "ControlNetModel":
                tensors = _renamed(tensors, backbone.network)
                network = _controlnet_of(tensors, backbone.network)
            else:
                raise ModelNotFoundError(
                    f"{path} is a single file, without the config.json of a {kind} beside it.",
                    hint="Give a folder that has both, or a hub id (owner/name).",
                    field=field,
                )
        network.load_state_dict(tensors, assign=True)
    except (SketchguideError, torch.OutOfMemoryError):
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise MismatchError(
            f"{path} is no {kind} that fits {backbone.name!r}: {shorten(reason_of(error), 200)}",
            hint="Use one made for this model; where the file has another layout, give a diffusers folder or a hub id.",
            field=field,
        ) from error
    return network


def _renamed(tensors: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """The weights of a ControlNet under the names of diffusers, of which some files have those of its first code."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    own = [name for name in tensors if name.startswith("control_model.")] or list(tensors)
    renamed: dict[str, Tensor] = convert_controlnet_checkpoint(tensors, network.config)
    if len(renamed) != len(own):  # a file of differences from a model, say, has one that says so
        raise ValueError("it has other weights than a ControlNet")
    return renamed


def _controlnet_of(tensors: Mapping[str, Tensor], network: Any) -> nn.Module:
    """A ControlNet as diffusers makes it after a UNet, which reads images as one with these weights."""
    first = tensors["controlnet_cond_embedding.conv_in.weight"]
    channels = [len(first)]
    while (block := tensors.get(f"controlnet_cond_embedding.blocks.{2 * len(channels) - 1}.weight")) is not None:
        channels.append(len(block))
    return diffusers.ControlNetModel.from_unet(
        network,
        conditioning_embedding_out_channels=tuple(channels),
        conditioning_channels=first.shape[1],
        load_weights_from_unet=False,
    )
