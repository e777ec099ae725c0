"""DiffSketching without training: its two losses pull on the picture that the network sees coming."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sketchguide.controls.base import Step, Strength
from sketchguide.controls.strengths import Proportional
from sketchguide.errors import UsageError
from sketchguide.images import from_ink
from sketchguide.levels import Window, check_every, check_one_or_each, check_window
from sketchguide.perception import Features, identity_loss, perceptual_loss
from sketchguide.sketchers import Sketcher


@dataclass(frozen=True)
class SketchGuide:
    """lambda L_i + (1 - lambda) L_p of the predicted clean image (DiffSketching, 2305.18812), one value per image.

    The clean latent is decoded; P draws the picture, and the drawing is compared with `ink` (B or 1, 1, H, W), ink 1,
    by the stages of `drawing` (L_p). With a `reference` picture (B or 1, 3, H, W), what `pictures` sees in the two is
    compared too (L_i), `identity` (lambda, 0..1) times. `decode` is the backbone's.
    """

    decode: Callable[[Tensor], Tensor]
    sketcher: Sketcher
    drawing: Features
    ink: Tensor
    reference: Tensor | None = None
    pictures: Features | None = None
    identity: float = 0.4
    style: str = "edges"
    window: Window = (0.0, 0.8)
    strength: Strength = field(default_factory=Proportional)
    every: int = 1

    def __post_init__(self) -> None:
        check_window(self.window)
        self.sketcher.number(self.style)
        check_every(self.every)
        if not 0 <= self.identity <= 1:
            raise UsageError(f"identity is {self.identity}; it must lie in 0..1.", field="identity")
        if (self.reference is None) != (self.pictures is None):
            raise UsageError("A reference needs a network that sees what it shows, and the other way round.")
        wanted = self.drawing(from_ink(self.ink))
        seen = () if self.pictures is None or self.reference is None else self.pictures(self.reference)
        object.__setattr__(self, "_wanted", wanted)
        object.__setattr__(self, "_seen", seen)

    @property
    def reads(self) -> Sequence[str]:
        return ()

    def loss(self, step: Step) -> Tensor:
        check_one_or_each(self.ink, step.latent, "drawings", field="sketch")
        if self.reference is not None:
            check_one_or_each(self.reference, step.latent, "references", field="reference")
        images = self.decode(step.prediction.clean)
        if images.shape[-2:] != self.ink.shape[-2:]:
            raise UsageError(
                f"The drawing is {self.ink.shape[-1]}x{self.ink.shape[-2]}, the picture "
                f"{images.shape[-1]}x{images.shape[-2]}.",
                field="sketch",
            )
        drawn = self.drawing(from_ink(self.sketcher(images, self.style)))
        distance = perceptual_loss(drawn, _as_many(self._wanted, len(images)))  # pyright: ignore[reportAttributeAccessIssue]
        if self.pictures is None:
            return distance
        kept = identity_loss(self.pictures(images), _as_many(self._seen, len(images)))  # pyright: ignore[reportAttributeAccessIssue]
        return self.identity * kept + (1 - self.identity) * distance


def _as_many(stages: Sequence[Tensor], count: int) -> list[Tensor]:
    return [stage.expand(count, -1, -1, -1) for stage in stages]
