"""What a method costs: what must be trained for it, and what a picture takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import finalize

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from sketchguide.errors import OutputError
from sketchguide.evaluation.benchmark import Result
from sketchguide.evaluation.summary import time_over
from sketchguide.methods import Batch, Built, Method


class LiveBytes(TorchDispatchMode):
    """Within the block, counts the bytes of the tensors that live at once; `peak` is the most there were.

    Only tensors made within the block count: parameters and what came in do not. It is the same in every run; what an
    operation needs within itself, and what the allocator keeps in reserve, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for storage in _storages((args, kwargs)):
            self._known.setdefault(storage, True)  # made outside, or counted already
        result = func(*args, **kwargs)
        for storage in _storages(result):
            if storage not in self._known:
                self._known[storage] = True
                self._change(storage.nbytes())
                finalize(storage, self._change, -storage.nbytes())
        return result

    def _change(self, size: int) -> None:
        self._live += size
        self.peak = max(self.peak, self._live)


def _storages(tree: Any) -> Iterator[UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one method. What is not known is None."""

    method: str
    parameters: int  # trained for it
    images: int | None = None  # trained on, those of several networks added up
    training_seconds: float | None = None  # likewise
    seconds: float | None = None  # per picture, over those of the floor
    memory: float | None = None  # most that lives at once while one picture is made, over that of the floor


def peak_memory(method: Method, batch: Batch) -> int:
    """Bytes that live at once while `method` makes `batch`, from the first noise to the last latent."""
    with LiveBytes() as counter:
        for _ in method(batch):
            pass
    return counter.peak


def memory_of(methods: Mapping[str, Built], batch: Batch) -> dict[str, int]:
    """The `peak_memory` of those methods that do not fail. Raises OutputError."""
    memory: dict[str, int] = {}
    for label, built in methods.items():
        try:
            memory[label] = peak_memory(built.method, batch)
        except OutputError:
            raise
        except Exception:  # its rows say what it fails of
            continue
    return memory


def costs(
    methods: Mapping[str, Built], results: Sequence[Result], memory: Mapping[str, int], *, floor: str | None
) -> list[Cost]:
    """One row for each method; `memory` is what `memory_of` found, `floor` is what to compare with."""
    plain = [result for result in results if result.method == floor]
    rows: list[Cost] = []
    for label, built in methods.items():
        rows.append(
            Cost(
                method=label,
                parameters=sum(p.numel() for one in built.networks for p in one.network.parameters()),
                images=_recorded(built, "training_images"),
                training_seconds=_recorded(built, "seconds"),
                seconds=time_over([result for result in results if result.method == label], plain),
                memory=memory[label] / memory[floor] if floor is not None and {floor, label} <= memory.keys() else None,
            )
        )
    return rows


def _recorded(built: Built, figure: str) -> Any:
    """The sum over the networks; None where there is none, or the record of one does not say."""
    known = [value for one in built.networks if (value := one.training.get(figure)) is not None]
    return sum(known) if known and len(known) == len(built.networks) else None


def cost_table(rows: Sequence[Cost]) -> str:
    """The rows as Markdown."""

    def shown(value: float | None, text: str) -> str:
        return "–" if value is None else text.format(value)

    lines = [
        "| method | trained parameters | training images | training seconds | time × text | memory × text |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = [
            f"{row.parameters:,}" if row.parameters else "–",
            shown(row.images, "{:,}"),
            shown(row.training_seconds, "{:,.0f}"),
            shown(row.seconds, "{:.2f}"),
            shown(row.memory, "{:.2f}"),
        ]
        lines.append("| " + " | ".join([row.method, *figures]) + " |")
    return "\n".join(lines) + "\n"
