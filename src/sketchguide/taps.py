"""Reading and rewriting what a network computes inside, by the paths of its submodules.

Hooks live exactly as long as the `with` block; nothing is stamped onto modules and no `forward` is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sketchguide.errors import TapError, UsageError

Rewrite = Callable[[Tensor], Tensor]
UNBROKEN = (
    "Quantise weights alone, not activations, and take attention that can be trained through: what is made for "
    "inference alone has no gradient."
)


class TapInfo(NamedTuple):
    """A place in a network: its path, its channels, and its stride in latent pixels.

    `stride` is None where the output is no picture (text tokens, time embeddings).
    """

    path: str
    channels: int
    stride: int | None


@contextmanager
def tapped(
    network: nn.Module, reads: Iterable[str] = (), rewrites: Mapping[str, Rewrite] | None = None
) -> Generator[dict[str, Tensor]]:
    """Within the block, record the outputs of the submodules in `reads`, after applying `rewrites`.

    Yields the record, path -> output; every tensor keeps its graph. Raises TapError at once for an unknown path and
    for a module that yields no tensor, and at the end of the block for a path that no forward pass has reached.
    """
    rewrites = rewrites or {}
    wanted = set(reads)
    paths = wanted | rewrites.keys()
    record: dict[str, Tensor] = {}
    reached: set[str] = set()
    modules = {path: submodule_at(network, path) for path in paths}
    if rewrites and torch.is_grad_enabled() and getattr(network, "is_gradient_checkpointing", False):
        raise TapError(
            "Gradient checkpointing runs the network again for the gradient, without what is rewritten in it.",
            hint="Call `disable_gradient_checkpointing()` on it.",
            field="taps",
        )

    def hook(path: str) -> Callable[[nn.Module, Any, Any], Any]:
        def on_output(module: nn.Module, _: Any, output: Any) -> Any:
            value = _value(module, output)
            if not isinstance(value, Tensor):
                raise TapError(
                    f"Tap {path!r} yields a {type(value).__name__}, not a tensor.",
                    hint=f"Tap one of its children: {children_of(module)}.",
                    field="taps",
                )
            reached.add(path)
            if path in rewrites:
                value = rewrites[path](value)
            if path in wanted:
                record[path] = value
            return (*output[:-1], value) if isinstance(output, tuple) else value

        return on_output

    handles = [module.register_forward_hook(hook(path)) for path, module in modules.items()]
    try:
        yield record
        if missed := sorted(paths - reached):
            raise TapError(
                f"Taps never reached in this pass: {', '.join(missed)}.",
                hint="The module is skipped, fused or compiled; unfuse projections (`unfuse_qkv_projections`), tap its "
                "parent, or take the network as it was before `compile()`.",
                field="taps",
            )
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def unbroken(network: nn.Module) -> Generator[None]:
    """Within the block, a pass of `network`, a submodule where the gradient ends raises a UsageError that names it.

    Kernels that are made for inference alone (of quantised activations, or of attention) give what has no graph: the
    gradient would lead past them, in another direction.
    """

    def hook(path: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def on_output(module: nn.Module, given: Any, named: Any, output: Any) -> None:
            outputs = _floating(output if isinstance(output, tuple | list) else [output])
            ended = outputs and not any(one.requires_grad for one in outputs)
            if not (ended and torch.is_grad_enabled()):
                return
            if any(one.requires_grad for one in _floating([*given, *named.values()])):
                raise UsageError(
                    f"The gradient that pulls ends in {path} ({type(module).__name__}).",
                    hint=UNBROKEN,
                    field="model",
                )

        return on_output

    handles = [m.register_forward_hook(hook(path), with_kwargs=True) for path, m in network.named_modules() if path]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _floating(values: Iterable[object]) -> list[Tensor]:
    return [one for one in values if isinstance(one, Tensor) and one.is_floating_point()]


def _value(module: nn.Module, output: Any) -> Any:
    """What a tap reads of a module's output. Blocks of transformers return (hidden,), or (text, hidden) where text goes
    through them too; what is in them returns its pairs the other way about.
    """
    match output:
        case (value,):
            return value
        case (_, value) if isinstance(value, Tensor) and type(module).__name__.endswith("TransformerBlock"):
            return value
        case _:
            return output


def submodule_at(network: nn.Module, path: str) -> nn.Module:
    """The one at `path`; a TapError that lists what there is instead."""
    try:
        return network.get_submodule(path)
    except AttributeError:
        parent, _, _ = path.rpartition(".")
        while parent and not _has(network, parent):
            parent, _, _ = parent.rpartition(".")
        raise TapError(
            f"{type(network).__name__} has no submodule {path!r}.",
            hint=f"Below {parent or 'its top'!r} there is: {children_of(network.get_submodule(parent))}.",
            field="taps",
        ) from None


def children_of(module: nn.Module) -> str:
    return ", ".join(name for name, _ in module.named_children()) or "nothing"


def _has(network: nn.Module, path: str) -> bool:
    try:
        network.get_submodule(path)
    except AttributeError:
        return False
    return True


def survey(network: nn.Module, run: Callable[[], object], *, grid: tuple[int, int]) -> list[TapInfo]:
    """Every place that yields a tensor while `run()` calls the network once on a latent of `grid` (h, w) pixels; of one
    that is called several times its last output, as `tapped` has it.

    Strides are found from shapes: (B, C, h, w) outputs directly, (B, N, C) outputs where N tiles the grid. Give a grid
    that is not square and no multiple of the prompt's length, so that neither can be taken for the other.
    """
    height, width = grid
    found: dict[str, TapInfo] = {}

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def on_output(module: nn.Module, _: Any, output: Any) -> None:
            value = _value(module, output)
            if not isinstance(value, Tensor):
                return
            if value.ndim == 4:
                down, right = height / value.shape[2], width / value.shape[3]
                shrunk_alike = max(down, right) < 1.6 * min(down, right)  # else channels come last: no map of the grid
                found[path] = TapInfo(path, value.shape[1], height // value.shape[2] if shrunk_alike else None)
            elif value.ndim == 3:
                strides = [s for s in (1, 2, 4, 8, 16) if (height // s) * (width // s) == value.shape[1]]
                found[path] = TapInfo(path, value.shape[2], strides[0] if strides else None)
            elif value.ndim == 2:
                found[path] = TapInfo(path, value.shape[1], None)

        return on_output

    handles = [m.register_forward_hook(hook(path)) for path, m in network.named_modules() if path]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())
