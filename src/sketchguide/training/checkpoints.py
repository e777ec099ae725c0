"""Checkpoints that survive a kill at any moment, a full disk and a flipped bit.

One checkpoint is one folder:

    step-00001234/state.safetensors    every tensor
                  state.json           what nests where, the plain values between the tensors, the meta data
                  manifest.json        size and sha256 of both

A save writes a `.partial` folder, the manifest last, syncs it to the disk, renames it and only then removes older ones.
So a folder of the final name is complete, and what a disk does to it later shows against the manifest. Nothing is ever
pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sketchguide.errors import OutputError, UsageError, WeightsError, warn

_TENSORS = "state.safetensors"
_STATE = "state.json"
_MANIFEST = "manifest.json"
_FORMAT = 1
_PARTIAL = ".partial"
_REPLACED = "~"
_CHANGED = {"pictures": "the pictures or their captions have changed"}  # settings of which people know no value
_NAME = re.compile(rf"step-(\d{{8,}})({_REPLACED}?)")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What `Checkpoints.save` was given, with the tensors on the CPU, and the folder it was read from."""

    step: int
    state: dict[str, Any]
    meta: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints of one training run in `folder`; the newest `keep` of them stay.

    One run writes at a time: keep others out (`files.locked`) from before `latest` until after the last `save`.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        if keep < 1:
            raise UsageError(f"keep is {keep}; at least 1 checkpoint is kept.", field="keep")
        self.folder = Path(folder)
        self.keep = keep

    def save(self, step: int, state: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
        """Write `state` and `meta` as the checkpoint of `step`, and return its folder.

        `state` may nest mappings (keys: text or int), lists and tuples of tensors, numbers, text and None, so the state
        dicts of modules, optimizers and schedulers go in as they are. `meta` is JSON.

        Raises OutputError when the disk is full or read-only (earlier checkpoints are intact), UsageError when a later
        checkpoint is there already, and TypeError for a value that is none of the above.
        """
        tensors, outline = flatten(state)
        text = json.dumps({"outline": outline, "meta": dict(meta)})
        target = self.folder / f"step-{step:08d}"
        partial = target.with_name(target.name + _PARTIAL)
        for other in self._found():
            if _step(other) > step and _is_intact(other):
                raise UsageError(
                    f"The folder {self.folder} holds the checkpoint {other.name}, which is later than step {step}.",
                    hint="Resume from it, or start afresh in another folder.",
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if target.exists() and not _is_intact(target):
                _remove(target)  # by way of the name of `partial`, so before that is written
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
            save_file(tensors, partial / _TENSORS)
            (partial / _STATE).write_text(text, encoding="utf-8")
            files = {name: _fingerprint(partial / name) for name in (_TENSORS, _STATE)}
            manifest = {"format": _FORMAT, "step": step, "files": files}
            (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            for path in (*(partial / name for name in (_TENSORS, _STATE, _MANIFEST)), partial):
                _sync(path)
            self._make_way(target)
            partial.rename(target)
            _sync(self.folder)
            _verify(target)
        except (OSError, SafetensorError, WeightsError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OutputError(
                f"The checkpoint of step {step} cannot be written to {self.folder}: {error}.",
                hint="Earlier checkpoints are intact. Make room or choose another folder, then resume.",
            ) from error
        self._prune(target)
        return target

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact, or None. Each damaged one on the way is skipped with a warning."""
        for path in self._found():
            try:
                _verify(path)
                document = json.loads((path / _STATE).read_bytes())
                state = restore(load_file(path / _TENSORS), document["outline"])
            except (OSError, SafetensorError, WeightsError) as error:
                warn(f"The checkpoint {path} is damaged and was skipped: {error}")
                continue
            return Checkpoint(step=_step(path), state=state, meta=document["meta"], path=path)
        return None

    def clear(self) -> None:
        """Remove every checkpoint, for a run that starts afresh. Raises OutputError."""
        try:
            for path in (*self._found(), *self.folder.glob(f"step-*{_PARTIAL}")):
                _remove(path)
        except OSError as error:
            raise OutputError(f"The checkpoints in {self.folder} cannot be removed: {error}.") from error

    def _found(self) -> list[Path]:
        """Complete checkpoints, newest first; one that is being replaced comes after its replacement."""
        try:
            paths = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UsageError(f"The checkpoints in {self.folder} cannot be read: {error}.") from error
        return sorted(paths, key=lambda path: (-_step(path), path.name))

    def _make_way(self, target: Path) -> None:
        """Move a checkpoint of the same step aside: no moment passes without one that `latest` finds."""
        if not target.exists():
            return
        aside = target.with_name(target.name + _REPLACED)
        if aside.exists():
            _remove(aside)
        target.rename(aside)

    def _prune(self, newest: Path) -> None:
        kept: set[int] = set()
        try:
            for path in self._found():
                wanted = len(kept) < self.keep and _step(path) not in kept
                if path == newest or (wanted and _is_intact(path)):
                    kept.add(_step(path))
                else:
                    _remove(path)
            for path in self.folder.glob(f"step-*{_PARTIAL}"):
                shutil.rmtree(path)
        except OSError as error:
            warn(f"Old checkpoints in {self.folder} cannot be removed: {error}")


def flatten(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a state dict into named tensors (on the CPU, each with its own memory) and a JSON outline of the rest.

    `tree` nests mappings (keys: text or int), lists and tuples; leaves are tensors, bool, int, float, text or None.
    `restore` gives back an equal tree: the same key types, tuples as tuples, every bit of every number.
    """
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()

    def visit(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, Tensor):
            name = "/".join(path)
            while name in tensors:
                name += "'"
            tensor = node.detach().cpu().contiguous()
            if tensor.untyped_storage().data_ptr() in storages:
                tensor = tensor.clone()
            storages.add(tensor.untyped_storage().data_ptr())
            tensors[name] = tensor
            return {"tensor": name}
        if isinstance(node, Mapping):
            items = cast("Mapping[Any, Any]", node).items()
            for key, _ in items:
                if type(key) not in (str, int):
                    raise TypeError(f"{'/'.join(path)} has the key {key!r}; a checkpoint takes text and int keys.")
            return {"map": [[key, visit(value, (*path, str(key)))] for key, value in items]}
        if type(node) in (list, tuple):
            return {type(node).__name__: [visit(value, (*path, str(index))) for index, value in enumerate(node)]}
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise TypeError(f"{'/'.join(path)} is a {type(node).__name__}; a checkpoint takes tensors and JSON values.")

    return tensors, visit(tree, ())


def restore(tensors: Mapping[str, Tensor], outline: Any) -> Any:
    """The inverse of `flatten`."""
    if not isinstance(outline, dict):
        return outline
    ((kind, content),) = cast("dict[str, Any]", outline).items()
    if kind == "tensor":
        return tensors[content]
    if kind == "map":
        return {key: restore(tensors, value) for key, value in content}
    items = [restore(tensors, value) for value in content]
    return tuple(items) if kind == "tuple" else items


def check_config(saved: Mapping[str, Any], now: Mapping[str, Any], *, of: str = "the checkpoint", afresh: str) -> None:
    """Raise UsageError unless a run with the settings `now` continues one with the settings `saved`.

    The error lists every setting that differs, with both values. It names what was saved, `of`, and what to give to
    start again from nothing, `afresh`.
    """
    before, after = _settings(saved), _settings(now)
    differing = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if not differing:
        return
    changes = [
        _CHANGED.get(key, f"{key} was {_said(before.get(key))}, now {_said(after.get(key))}") for key in differing
    ]
    raise UsageError(
        f"The settings are not those of {of}: {'; '.join(changes)}.",
        hint=f"Repeat the old settings, or give {afresh} to start afresh.",
        field=differing[0],
    )


def _settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as JSON, so that a value is compared in the form in which it was saved; None is not set."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _settings(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = json.dumps(value, sort_keys=True)
    return flat


def _said(value: str | None) -> str:
    """A value that `_settings` gives, for people."""
    if value is None:
        return "not set"
    return (json.loads(value) or "empty") if value.startswith('"') else value


def _step(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _verify(path: Path) -> None:
    """Raise WeightsError or OSError unless the folder holds what its manifest says."""
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
    except ValueError as error:
        raise WeightsError(f"{_MANIFEST} is not readable.") from error
    found = {name: _fingerprint(path / name) for name in (_TENSORS, _STATE)}
    if manifest != {"format": _FORMAT, "step": _step(path), "files": found}:
        raise WeightsError(f"its files are not those that {_MANIFEST} describes.")


def _is_intact(path: Path) -> bool:
    try:
        _verify(path)
    except (OSError, WeightsError):
        return False
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Remove a checkpoint so that a kill on the way leaves no half of one under its name."""
    partial = path.with_name(path.name.removesuffix(_PARTIAL) + _PARTIAL)
    if partial != path:
        if partial.exists():
            shutil.rmtree(partial)
        path.rename(partial)
    shutil.rmtree(partial)
