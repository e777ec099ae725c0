"""Plug-and-Play features: the picture takes its layout from a source by borrowing what the network saw in it.

Tumanyan et al. 2023 (2211.12572). The source runs through the same network at the same noise level; one residual
feature map f and the queries and keys of the self-attention after it replace those of the picture being made, or of a
transformer the queries and keys alone. Values stay its own, and so do colour and texture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, get_args

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sketchguide.backbones.base import Backbone, Condition
from sketchguide.defaults import Branches, Decay
from sketchguide.errors import TapError, UsageError
from sketchguide.levels import Level, Window, check_one_or_each
from sketchguide.predictors import token_grid
from sketchguide.taps import Rewrite, TapInfo, tapped

_MOST_KEPT = 2**30  # bytes of features: a trajectory of Stable Diffusion at 512 pixels goes into it
# In a transformer block, or (pixel models) the whole of an attention block.
SELF_ATTENTION = re.compile(r"up_blocks\.\d+\.attentions\.\d+(\.transformer_blocks\.\d+\.attn1)?\.to_[qk]")
_JOINT_ATTENTION = re.compile(r"(single_)?transformer_blocks\.\d+\.attn2?\.to_[qk]")

DECAYS: Mapping[Decay, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,  # noqa: ARG005
    "exponential": lambda progress: math.exp(-6 * progress),
}


class Source(Protocol):
    """Where the layout comes from: the latents (R, C, h, w) of the source pictures at a noise level."""

    def at(self, level: Level) -> Tensor: ...


class Places(NamedTuple):
    """The submodules whose outputs are borrowed."""

    features: tuple[str, ...]  # f: residual features (B, C, h, w)
    attention: tuple[str, ...]  # queries and keys of self-attention (B, tokens, C)


def choose_places(taps: Sequence[TapInfo]) -> Places:
    """The published places of a UNet, found in its tap table.

    SD 1.x and 2.x (section 4): f after the second convolution of the residual block a third of the way up the
    decoder, before its skip is added; queries and keys of every self-attention from there on. Other UNets, pixel
    models among them, get the same plan. SDXL has its layout one block earlier (Ctrl-X, Lin et al. 2024): the whole
    first residual block, and all self-attention of the first up block. Transformers whose attention is over image and
    text (Stable Diffusion 3, Flux) have no such f; queries and keys of image tokens are borrowed in every block (Shin
    et al. 2025, 2508.07519, replace these and no others).

    Raises TapError for a network without such places, listing the taps it has, and for fused projections.
    """
    paths = [tap.path for tap in taps]
    if joint := [path for path in paths if _JOINT_ATTENTION.fullmatch(path)]:
        return Places((), tuple(joint))
    residuals = [path for path in paths if re.fullmatch(r"up_blocks\.\d+\.resnets\.\d+\.conv2", path)]
    if residuals:
        deep = "up_blocks.0.attentions.2.transformer_blocks.1" in paths  # of SDXL's depth; smaller UNets have one
        sdxl = deep and not any(path.startswith("up_blocks.3.") for path in paths)
        feature = "up_blocks.0.resnets.0" if sdxl else residuals[len(residuals) // 3]
        after = paths[paths.index(feature) :]
        attention = [path for path in after if SELF_ATTENTION.fullmatch(path)]
        if sdxl:
            attention = [path for path in attention if path.startswith("up_blocks.0.")]
        if attention:
            return Places((feature,), tuple(attention))
    if any(path.endswith(".to_qkv") for path in paths):
        raise TapError(
            "The attention projections of this network are fused: queries and keys cannot be told apart.",
            hint="Call `unfuse_qkv_projections()` on the pipeline's network.",
            field="taps",
        )
    known = set(paths)
    outermost = [p for p in paths if not any(p[:i] in known for i, letter in enumerate(p) if letter == ".")]
    raise TapError(
        "This network has no decoder with residual blocks and self-attention, and no attention over image and text, "
        "where Plug-and-Play could act.",
        hint="Name the `places` of PlugAndPlay in Python. "
        f"It has the taps: {', '.join(outermost) or 'none'}, and those inside them.",
        field="taps",
    )


@dataclass(eq=False)
class PlugAndPlay:
    """An injection that borrows layout from `source`, whose network pass is told `condition` (R rows, one per source).

    f is borrowed for the first `features_until` of the steps, queries and keys for the first `attention_until`
    (tau_f, tau_A in 0..1; the paper: 0.8 and 0.5, for sketches 0.5 and 0.5). One source serves any number of pictures,
    B sources serve B pictures.

    What the network sees is blended: 0 leaves the picture its own, 1 takes the source's. The share is `strength`
    (0..1) times `mask` (1 or B, 1, h, w), on the latent grid in 0..1. `branches` says whether the negative pass of
    classifier-free guidance borrows too (the paper: "both"; Ctrl-X: "conditional").

    At every level the source is run in step with the picture, only while something is borrowed and only as far as the
    last borrowed output, so that one level's features are all that is kept. With `keep` those of every level are, for
    which there is room in a GiB, and further walks need no pass of the source at them. `evaluations` counts the passes.
    """

    backbone: Backbone
    source: Source
    condition: Condition
    features_until: float = 0.8
    attention_until: float = 0.5
    strength: float = 1.0
    mask: Tensor | None = None
    branches: Branches = "both"
    places: Places | None = None  # None: `choose_places`
    keep: bool = False
    evaluations: int = field(default=0, init=False)
    kept: dict[Level, Mapping[str, Rewrite]] = field(default_factory=dict[Level, Mapping[str, Rewrite]], init=False)
    _room: int = field(default=_MOST_KEPT, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("features_until", "attention_until", "strength"):
            value: float = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"{name} is {value:g}; it must lie in 0..1.", field=name)
        if self.branches not in get_args(Branches):
            raise UsageError(
                f"Unknown branches {self.branches!r}.",
                hint=f"Choose one of: {', '.join(get_args(Branches))}.",
                field="branches",
            )
        if self.mask is not None:
            if self.mask.ndim != 4 or self.mask.shape[1] != 1:
                raise UsageError(f"mask is {tuple(self.mask.shape)}; it must be (1 or B, 1, h, w).", field="mask")
            if not ((self.mask >= 0) & (self.mask <= 1)).all():
                raise UsageError("mask has values outside 0..1.", field="mask")
        self._places = self.places or choose_places(self.backbone.taps)

    @property
    def window(self) -> Window:
        if self.strength == 0 or (self.mask is not None and not self.mask.any()):
            return (0.0, 0.0)
        return (0.0, max(self.features_until if self._places.features else 0.0, self.attention_until))

    def rewrites(self, level: Level) -> Mapping[str, Rewrite]:
        """One pass over the source at `level`; the rewrites that blend what it showed into another pass."""
        paths: tuple[str, ...] = ()
        if level.progress < self.features_until:
            paths += self._places.features
        if level.progress < self.attention_until:
            paths += self._places.attention
        if not paths:
            return {}
        if level in self.kept:
            return self.kept[level]
        latent = self.source.at(level)
        size = (latent.shape[-2], latent.shape[-1])
        if self.mask is not None and self.mask.shape[-2:] != latent.shape[-2:]:
            raise UsageError(
                f"The mask is {tuple(self.mask.shape[-2:])}, the source's latent {size} (h, w).", field="mask"
            )
        self.condition.check_rows(len(latent), "condition")
        self.evaluations += 1
        seen = look(self.backbone, latent, level, self.condition, paths)
        rewrites: dict[str, Rewrite] = {}
        taken = 0
        mixed = self._with_text(paths)
        for path in paths:
            text = self._text_in(seen[path], size) if path in mixed else 0
            lent = seen[path][:, text:].clone() if text else seen[path]
            rewrites[path] = partial(self._blend, lent, text, size)
            taken += lent.nbytes
        if self.keep and taken <= self._room:
            self._room -= taken
            self.kept[level] = rewrites
        return rewrites

    def _with_text(self, paths: Sequence[str]) -> set[str]:
        """Those of `paths` where Flux's single blocks have tokens of text before those of the image."""
        single = {path for path in paths if path.startswith("single_transformer_blocks.")}
        return single - {tap.path for tap in self.backbone.taps if tap.stride} if single else single

    def _text_in(self, seen: Tensor, size: tuple[int, int]) -> int:
        """How many tokens of text come before those of the image, which no mask is for and which stay the picture's."""
        if seen.ndim != 3:
            return 0
        patch = self.backbone.multiple // self.backbone.stride
        return seen.shape[1] - (size[0] // patch) * (size[1] // patch)

    def _blend(self, theirs: Tensor, text: int, size: tuple[int, int], own: Tensor) -> Tensor:
        told, image = own[:, :text], own[:, text:]
        if theirs.shape[1:] != image.shape[1:]:
            raise UsageError("The source and the picture differ in size.", hint="Resize the source.", field="source")
        check_one_or_each(theirs, own, "sources")
        if self.mask is not None:
            check_one_or_each(self.mask, own, "masks", field="mask")
        # lerp keeps every bit at a share of 0 and of 1
        blended = torch.lerp(image, theirs.expand_as(image), self._share(image, size))
        return torch.cat([told, blended], dim=1) if text else blended

    def _share(self, own: Tensor, size: tuple[int, int]) -> Tensor:
        if self.mask is None:
            return own.new_tensor(self.strength)
        mask = self.strength * self.mask.to(own)
        if own.ndim == 4:
            return adaptive_avg_pool2d(mask, (own.shape[-2], own.shape[-1]))
        return adaptive_avg_pool2d(mask, token_grid(own.shape[1], size)).flatten(2).transpose(1, 2)


class _EnoughError(Exception):
    """All that was asked for has been seen: the rest of the pass can be spared."""


def look(
    backbone: Backbone, latent: Tensor, level: Level, condition: Condition, paths: Sequence[str]
) -> Mapping[str, Tensor]:
    """The outputs of the submodules `paths`, without a graph; the pass ends at the last of them.

    Raises TapError as `tapped` does.
    """
    seen: dict[str, Tensor] = {}

    def keep(path: str, value: Tensor) -> Tensor:
        seen[path] = value
        if len(seen) == len(set(paths)):
            raise _EnoughError
        return value

    try:
        with torch.no_grad(), tapped(backbone.network, (), {path: partial(keep, path) for path in paths}):
            backbone.predict(latent, level, condition)
    except _EnoughError:
        pass
    return seen


@dataclass(frozen=True)
class NegativePrompt:
    """What guidance moves away from when the source's prompt must be left behind (section 4 and supplement of the
    paper): eps = alpha_t eps(empty) + (1 - alpha_t) eps(prompt), in place of the negative condition of `sample`.

    alpha_t starts at `alpha` (0..1; the paper: 1 for photos, 0.75 for generated pictures) and falls to 0 linearly,
    stays, or falls as exp(-6 progress).
    """

    empty: Condition
    prompt: Condition
    alpha: float = 1.0
    decay: Decay = "linear"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha is {self.alpha:g}; it must lie in 0..1.", field="alpha")
        if self.decay not in DECAYS:
            raise UsageError(
                f"Unknown decay {self.decay!r}.", hint=f"Choose one of: {', '.join(DECAYS)}.", field="decay"
            )

    def check_rows(self, count: int, name: str) -> None:
        """As `Condition.check_rows`, of both."""
        self.empty.check_rows(count, name)
        self.prompt.check_rows(count, name)

    def shares(self, level: Level) -> Sequence[tuple[Condition, float]]:
        """The one or two conditions to ask at `level`, with shares that add up to 1."""
        alpha = self.alpha * DECAYS[self.decay](level.progress)
        return [(told, share) for told, share in ((self.empty, alpha), (self.prompt, 1 - alpha)) if share > 0]
