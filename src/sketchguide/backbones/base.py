"""What every diffusion model looks like to the rest of the house."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from sketchguide.errors import UsageError
from sketchguide.levels import Level, Prediction, PredictionKind
from sketchguide.solvers import SolverChoice
from sketchguide.taps import TapInfo

GUIDANCE = "guidance"  # of a Condition's extras: the scale that a distilled network is told, (B,); without it 1


@dataclass(frozen=True)
class Condition:
    """What the network is told besides the latent and the time: one row per image."""

    embedding: Tensor  # (B, tokens, width)
    # (B, …) each, or lists of such: pooled text, sizes, what a wrapped backbone adds, …
    extras: Mapping[str, Tensor | list[Tensor]] = field(default_factory=dict[str, Tensor | list[Tensor]])

    def __len__(self) -> int:
        return len(self.embedding)

    def guided(self, scale: float) -> Condition:
        """The same for a network that is `distilled`, with the scale that it is told."""
        told = torch.full((len(self),), scale, device=self.embedding.device)  # half precision would round it
        return replace(self, extras={**self.extras, GUIDANCE: told})

    def rows(self, numbers: Sequence[int]) -> Condition:
        """What row i is told is what row `numbers[i]` is told here."""
        chosen = list(numbers)
        extras = {
            name: [one[chosen] for one in value] if isinstance(value, list) else value[chosen]
            for name, value in self.extras.items()
        }
        return Condition(self.embedding[chosen], extras)

    def shares(self, level: Level) -> Sequence[tuple[Condition, float]]:
        """Itself alone, whatever the level: what `sample` asks of anything that guidance moves away from."""
        del level
        return [(self, 1.0)]

    def check_rows(self, count: int, name: str) -> None:
        """Raise UsageError, of `name`, unless there is one prompt for each of `count` pictures."""
        if len(self) != count:
            raise UsageError(f"{name} has {len(self)} prompts for {count} pictures.", field=name)


class Backbone(Protocol):
    """A frozen diffusion network with everything that turns prompts and pictures into its terms and back."""

    @property
    def name(self) -> str: ...  # how errors and recipes call it
    @property
    def family(self) -> str: ...  # "unet", …: networks of one family have the same kind of taps
    @property
    def network(self) -> nn.Module: ...  # tap paths are submodule paths into it
    @property
    def networks(self) -> Mapping[str, nn.Module]: ...  # all that pictures go through, `network` among them
    @property
    def taps(self) -> Sequence[TapInfo]: ...  # every place that can be read or rewritten
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...  # of the network; latents are kept in float32 between steps
    @property
    def latent_channels(self) -> int: ...
    @property
    def stride(self) -> int: ...  # pixels per latent pixel
    @property
    def multiple(self) -> int: ...  # picture sides must be multiples of this many pixels
    @property
    def largest(self) -> int | None: ...  # pixels of the longest side that it has places for; None: of any
    @property
    def prediction_kind(self) -> PredictionKind: ...  # what `run` returns
    @property
    def default_size(self) -> tuple[int, int]: ...  # (width, height) in pixels the model was trained for
    @property
    def solvers(self) -> Mapping[str, SolverChoice]: ...  # name -> rule; the first is the model's own

    @property
    def distilled(self) -> bool: ...  # whether it is told the scale of guidance, and takes no negative pass

    def levels(self, steps: int, solver: str | None = None, size: tuple[int, int] | None = None) -> list[Level]:
        """`steps + 1` levels, noisiest first; of a solver of `solvers`, None being the first.

        `size` is (width, height) in pixels, by which some models shift their levels; None is the default one.
        """
        ...

    def level(self, progress: float) -> Level:
        """The level of training at a progress in 0..1, of which 0 is the noisiest."""
        ...

    def describe(self, prompts: Sequence[str]) -> Condition:
        """What the network is told of prompts, one row each. Raises UsageError for one text in place of several."""
        ...

    def unread(self, prompts: Sequence[str]) -> list[str]:
        """Of each prompt the words that `describe` does not get to; an empty text where it reads all."""
        ...

    def predict(self, latent: Tensor, level: Level, condition: Condition) -> Prediction:
        """The network's opinion of `latent` (B, C, h, w), float32, at `level`; the same shape, float32."""
        ...

    def run(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """The network's raw output (B, C, h, w), float32; `times` is (1,), or (B,) as training needs it."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latents (B, C, h, w), float32, without a graph."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> (B, 3, H, W), float32, in about [-1, 1]; with a graph where latents have one."""
        ...
