"""Safetensors files: read with every defect named, written all or nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sketchguide.errors import ModelNotFoundError, SketchguideError, WeightsError, reason_of
from sketchguide.files import is_dir, is_file, replacing

Network = TypeVar("Network", bound=nn.Module)
WEIGHTS = (".safetensors", ".sft", ".bin", ".pt", ".pth", ".ckpt", ".gguf")  # how names of files of weights end
_PART = r"\w(?:[\w.-]*\w)?"  # of a hub id


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form `owner/name`, as the hub allows it, and so cannot be a way out of a folder."""
    return re.fullmatch(rf"{_PART}/{_PART}", text, re.ASCII) is not None and not re.search(r"--|\.\.", text)


def find_file(source: str | Path, name: str, *, kind: str, field: str) -> Path:
    """The weight file `name` of a folder or a hub id (`owner/name`), or `source` itself where that is a file.

    What was fetched before is found without a network. Raises ModelNotFoundError, naming `field`, where there is none;
    `kind` is what messages call it.
    """
    path = Path(source)
    if is_dir(path):
        path = path / name
    if is_file(path):
        return path
    text = str(source)
    if is_hub_id(text) and path.suffix not in WEIGHTS:
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(text, name))
        except Exception as error:  # not only its own: those of its HTTP library come through
            raise ModelNotFoundError(
                f"No folder {text!r} here, and the hub gave no {kind} of that name ({type(error).__name__}).",
                hint=f"Check the name and the network; what is looked for there is {name}.",
                field=field,
            ) from error
    raise ModelNotFoundError(
        f"No {kind} at {text!r}.", hint=f"Give a folder with {name}, that file, or a hub id.", field=field
    )


def check_no_pickle(path: Path, *, field: str) -> None:
    """WeightsError, naming `field`, for a file that is not called .safetensors, by which diffusers tells pickles."""
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is no .safetensors file; others could run code, and are not read.",
            hint="Get its .safetensors, or where it is one call it so.",
            field=field,
        )


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

    Raises OutputError, naming `field`, where that fails.
    """
    # `save_file` makes files that only their owner may read.
    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(metadata))
    with suppress(OSError):  # `replacing` says what is wrong with it
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, field=field) as part:
        part.write_bytes(content)


def write_network(network: nn.Module, path: Path, *, kind: str, config: Mapping[str, Any]) -> None:
    """Write the weights of `network` with its kind and its `config`, JSON values, in the header. Raises OutputError."""
    header = {"sketchguide": json.dumps({"kind": kind, "version": 1, **config})}
    write_weights(network.state_dict(), path, metadata=header, field="output")


def read_network(path: Path, *, kind: str, build: Callable[[dict[str, Any]], Network], field: str) -> Network:
    """The network that `write_network` wrote, made by `build` from its configuration, in which lists are tuples again;
    frozen, eval mode, on the CPU.

    Raises WeightsError, naming `field`, for a file that is damaged, of another kind, or does not hold what it says.
    """
    tensors, header = read_weights(path, field=field)
    try:
        values: dict[str, Any] = {
            name: as_tuples(value) for name, value in dict(json.loads(header.get("sketchguide", ""))).items()
        }
        if values.pop("kind") != kind or values.pop("version") != 1:
            raise ValueError("it is of another kind")
        network = build(values)
        network.load_state_dict(tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        reason = error.message if isinstance(error, SketchguideError) else reason_of(error)
        raise WeightsError(
            f"{path} does not hold a sketchguide {kind}: {reason.rstrip('.')}.",
            hint="Get it again, or train it anew.",
            field=field,
        ) from error
    return network.eval().requires_grad_(False)


def as_tuples(value: Any) -> Any:
    """A JSON value as it was before, where its lists were tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def parts_of(name: str, tensor: Any) -> Iterator[tuple[str, Tensor]]:
    """A tensor itself, or what one is made of that wraps others, as quantised ones do."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from parts_of(f"{name}.{part}", getattr(tensor, part))
