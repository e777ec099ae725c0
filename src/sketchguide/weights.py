"""Safetensors files: read with every defect named, written all or nothing."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sketchguide.errors import OutputError, WeightsError


@contextmanager
def opened(path: str | Path, *, field: str) -> Generator[Any]:
    """A safetensors file whose header has been read.

    Raises WeightsError, naming `field`, where it is missing, truncated or something else in disguise.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        size = f" ({Path(path).stat().st_size} bytes)" if Path(path).is_file() else ""
        raise WeightsError(
            f"{path}{size} is no readable safetensors file: {error}.",
            hint="It may be missing, truncated, or a pickle in disguise: get it again.",
            field=field,
        ) from error


def read_weights(path: str | Path, *, field: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and its metadata.

    Raises WeightsError as `opened` does, and for weights that are not finite.
    """
    with opened(path, field=field) as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if bad := [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]:
        raise WeightsError(
            f"{path} holds weights that are not finite: {', '.join(bad[:3])}.", hint="Get it again.", field=field
        )
    return tensors, header


def write_weights(tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str], field: str) -> None:
    """Write a file and the folders it needs; a file of that name is replaced only by a whole one.

    Raises OutputError, naming `field`, where that fails; nothing is left behind then.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, dict(metadata))
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise OutputError(
            f"The weights cannot be written to {path}: {error}.",
            hint="Choose a folder that can be written to and has room.",
            field=field,
        ) from error
