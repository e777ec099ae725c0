"""ControlNets and T2I-Adapters of diffusers, from the names of their folders or repositories on the hub."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import diffusers
from torch import nn

from sketchguide.backbones.base import Backbone
from sketchguide.backbones.wrapped import CONTROLNETS
from sketchguide.errors import MismatchError, ModelNotFoundError
from sketchguide.files import is_dir, is_file
from sketchguide.loading import told_of, variant_of
from sketchguide.weights import WEIGHTS, is_hub_id, read_weights

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


def _files_in(folder: Path) -> list[tuple[str, int, int]]:
    """What tells whether the files of a folder are still the same; of a hub id nothing."""
    found: list[tuple[str, int, int]] = []
    for file in sorted(folder.glob("*.*")):  # which passes over a folder that may not be read
        with suppress(OSError):  # it may not be looked at, or went away
            stat = file.stat()
            found.append((file.name, stat.st_mtime_ns, stat.st_size))
    return found


def load_adapter(adapter: Adapter, name: str | Path, backbone: Backbone, *, field: str | None = None) -> nn.Module:
    """The ControlNet or T2I-Adapter in the folder `name`, or of that hub id, in the dtype and on the device of
    `backbone`; errors are about `field`, by default the adapter. Only safetensors weights are read.

    Raises ModelNotFoundError, MismatchError (of another class), WeightsError (truncated, pickled, incomplete or not
    finite). Whether it fits the backbone is found by `with_controlnet` and `with_t2i_adapter`.
    """
    field = field or adapter
    kind = "T2IAdapter" if adapter == "t2i_adapter" else CONTROLNETS.get(backbone.family, "ControlNetModel")
    path = Path(name)
    local = is_file(path / "config.json")
    if is_file(path):
        raise ModelNotFoundError(
            f"{name} is a single file, not a diffusers folder.",
            hint=f"Load it by {kind}.from_single_file of diffusers, and give what its save_pretrained writes.",
            field=field,
        )
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
