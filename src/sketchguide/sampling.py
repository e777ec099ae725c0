"""The walk down the noise levels, on which every control acts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from sketchguide.backbones.base import Backbone, Condition
from sketchguide.controls.base import Guide, Injection, Step, acts_on, of_network, trained_on
from sketchguide.errors import GuidanceError, UsageError, reason_of, warn
from sketchguide.levels import Level, Prediction, Window, is_open
from sketchguide.seeds import noise_like
from sketchguide.solvers import DDIM, Solver
from sketchguide.taps import UNBROKEN, Rewrite, tapped, unbroken

_NO_FORMULA = ("derivative for", "autograd formula")  # in what torch says of an operation without a gradient
_POWERS = (16, 12, 8, 4, 0)  # of two, by which losses are multiplied in float16


class Evaluations(NamedTuple):
    """Network passes so far, each over the whole batch. A walk counts the first two; `generation` adds the others."""

    conditional: int
    negative: int
    source: int = 0  # of Plug-and-Play; they end at the last borrowed output
    inversion: int = 0

    def plus(self, other: Evaluations) -> Evaluations:
        return Evaluations(*map(sum, zip(self, other, strict=True)))


class Moment(NamedTuple):
    """Where the walk stands after a step."""

    latent: Tensor  # (B, C, h, w) at `level`; after the last step, the result
    clean: Tensor  # (B, C, h, w), the finished image as the network sees it now: a preview
    level: Level
    evaluations: Evaluations


class Begun(NamedTuple):
    """A walk of which the first `steps` were taken, and what they led to."""

    latent: Tensor  # (B, C, h, w)
    steps: int


class Negative(Protocol):
    """What guidance moves away from: a Condition, or a mixture of several that changes on the way."""

    def shares(self, level: Level) -> Sequence[tuple[Condition, float]]:
        """The conditions to ask at `level`, with shares that add up to 1."""
        ...

    def check_rows(self, count: int, name: str) -> None:
        """Raise UsageError, of `name`, unless there is one prompt for each of `count` pictures."""
        ...


def sample(
    backbone: Backbone,
    condition: Condition,
    latent: Tensor,
    levels: Sequence[Level],
    *,
    negative: Negative | None = None,
    scale: float | None = None,
    negative_time: float = 0.0,
    guides: Sequence[Guide] = (),
    injections: Sequence[Injection] = (),
    solver: Solver | None = None,
    generators: Sequence[Generator] = (),
) -> Iterator[Moment]:
    """Walk `latent` (B, C, h, w) down `levels`, yielding after every step; stop asking and nothing is left behind.

    The conditional pass runs first and alone carries a graph, and only while a guide is open; one pass serves all
    guides. Classifier-free guidance (`negative` with a `scale`, of which 1 is none) adds one pass without a graph, or
    as many as `negative` mixes at that level. Every guide's gradient becomes a displacement of the next latent,
    so guides add up in any order. `generators`, one per image, feed solvers that draw noise.

    The negative pass is told a time that is later by `negative_time` of itself, so of more noise than there is (after
    the time-step guidance of Sadat et al. 2024, 2407.02687, in a pass that is made anyway): what it says then is
    coarser, and guidance leads away from it.

    A network that is `distilled` is told `scale` instead, and takes no negative pass.

    Raises GuidanceError for a gradient or latent that is not finite, UsageError for controls that contradict each other
    and for conditions that are not one per image; warns (SketchguideWarning) of a guide that pulls at no step.
    """
    solver = solver or DDIM()
    if scale is None and negative is not None:
        raise UsageError(
            "A negative prompt is given, but not how far to go from it.",
            hint="Give scale, 5 say; at 1 the negative prompt is not read.",
            field="scale",
        )
    scale = 1.0 if scale is None else scale
    _check(latent, condition, negative, scale, negative_time, distilled=backbone.distilled)
    if backbone.distilled:
        condition, negative, scale = condition.guided(scale), None, 1.0
    previous: tuple[Prediction, Level] | None = None
    negatives = 0
    known = False  # that a gradient gets through the network

    steps = zip(pairwise(levels), pulling_at(levels, guides, backbone), strict=True)
    for step, ((now, to), pulling) in enumerate(steps, start=1):
        injecting = [(acts_on(i), i.rewrites(now)) for i in injections if is_open(i.window, now)]
        rewrites = _merge(table for _, table in injecting)
        unknown = not known and not rewrites and any(of_network(guide) for guide in pulling)
        prediction, gradients = _look(backbone, condition, latent, now, pulling, rewrites, unknown=unknown)
        known = known or unknown
        with torch.no_grad():
            if negative is not None and scale != 1.0:
                told = negative.shares(now)
                rewrites = _merge(table for branches, table in injecting if branches == "both")
                with tapped(backbone.network, (), rewrites):
                    prediction = prediction.towards(
                        _mixed(backbone, latent, _later(backbone, now, by=negative_time), told), scale
                    )
                negatives += len(told)
            fresh = partial(noise_like, latent, generators)
            following = solver(latent, prediction, now, to, previous=previous, noise=fresh)
            move = following - latent
            pushes = [
                guide.strength(gradient, move, now, solver.carried(now, to))
                for guide, gradient in zip(pulling, gradients, strict=True)
            ]
            latent = torch.stack([following, *pushes]).sum(dim=0) if pushes else following
            if not latent.isfinite().all():
                half = _is_half(backbone, latent)
                raise _not_finite("The latent", now, half=half, hint="The network or a control overflows there.")
            previous = (prediction, now)
        injecting, rewrites = [], {}  # of a large network they are gigabytes, and the next level lends its own
        yield Moment(latent, prediction.clean, to, Evaluations(step, negatives))


def _check(
    latent: Tensor,
    condition: Condition,
    negative: Negative | None,
    scale: float,
    negative_time: float,
    *,
    distilled: bool,
) -> None:
    if not math.isfinite(scale):
        raise UsageError(f"scale is {scale}; it must be finite.", field="scale")
    if not 0 <= negative_time < math.inf:
        raise UsageError(f"negative_time is {negative_time}; it must be 0 or more.", field="negative_time")
    if negative is None and not distilled:
        for name, value, idle in (("scale", scale, 1), ("negative_time", negative_time, 0)):
            if value != idle:
                raise UsageError(
                    f"{name} is {value:g}, but there is no negative prompt to start from.",
                    hint='Give negative=backbone.describe([""] * pictures).',
                    field="negative",
                )
    condition.check_rows(len(latent), "condition")
    if negative is not None:
        negative.check_rows(len(latent), "negative")


def pulling_at(levels: Sequence[Level], guides: Sequence[Guide], backbone: Backbone) -> list[list[Guide]]:
    """The guides that pull at each step of a walk; warns of one that should pull and does at none."""
    steps: list[list[Guide]] = [[] for _ in pairwise(levels)]
    for guide in guides:
        if not guide.strength:
            continue
        opened = [step for step in range(len(steps)) if is_open(guide.window, levels[step])]
        due = [step for step in opened if step % guide.every == 0]
        trained = trained_on(guide)
        pulling = [step for step in due if _was_trained_at(levels[step], trained, backbone)]
        for step in pulling:
            steps[step].append(guide)
        start, stop = guide.window
        if not pulling and steps and start < stop and stop > levels[0].progress:
            told = f"{type(guide).__name__} pulls at no step: "
            if trained is not None and due:
                told += f"none has such noise as it was trained for, {trained[0]:g} to {trained[1]:g} of the way"
                hint = "Take more steps, begin with more noise, or train it for other."
            else:
                told += f"of {len(steps)}, none in its window, {start:g} to {stop:g}, is one of every {guide.every}"
                hint = "Widen the window, lower `every` or take more steps."
            warn(f"{told}. {hint}")
    return steps


def _look(
    backbone: Backbone,
    condition: Condition,
    latent: Tensor,
    now: Level,
    pulling: Sequence[Guide],
    rewrites: Mapping[str, Rewrite],
    *,
    unknown: bool,
) -> tuple[Prediction, list[Tensor]]:
    """One conditional pass, and the gradient (B, C, h, w) of each open guide's loss; it is `unknown` whether one gets
    through the network.
    """
    if pulling and torch.is_inference_mode_enabled():
        raise UsageError(
            "Nothing can be pulled in torch.inference_mode(): a pull is a gradient.", hint="Take torch.no_grad()."
        )
    reads = {path for guide in pulling for path in guide.reads}
    seen = latent.detach()
    if pulling:
        seen = (seen.clone() if seen.is_inference() else seen).requires_grad_(True)
    with (
        torch.set_grad_enabled(any(of_network(guide) for guide in pulling)),
        unbroken(backbone.network) if unknown else nullcontext(),
        tapped(backbone.network, reads, rewrites) as features,
    ):
        prediction = backbone.predict(seen, now, condition)
    step = Step(seen, prediction, features, now)
    gradients: list[Tensor] = []
    for left, guide in zip(reversed(range(len(pulling))), pulling, strict=True):
        with torch.enable_grad():
            loss = guide.loss(step)
        half = _is_half(backbone, seen)
        gradient = _gradient(loss, seen, keep=left > 0, half=half) if loss.requires_grad else None
        if gradient is None:
            raise GuidanceError(
                f"The loss of {type(guide).__name__} does not depend on the latent.",
                hint="Something in it is detached, or computed without gradients.",
            )
        if not gradient.isfinite().all():
            what = f"The gradient of {type(guide).__name__}"
            raise _not_finite(what, now, half=half, hint="Its loss overflows there, or divides by zero.")
        gradients.append(gradient)
    return Prediction(prediction.clean.detach(), prediction.noise.detach()), gradients


def _gradient(loss: Tensor, seen: Tensor, *, keep: bool, half: bool) -> Tensor | None:
    """The gradient (B, C, h, w) of `loss` (B,), whose graph stays where `keep` says so; None where it has none.

    In float16 most of that of a mean would vanish: each picture's loss is multiplied by the highest power of two that
    does not overflow on its way, and the gradient, which is float32, divided by it.
    """
    gradient = torch.full_like(seen, math.inf)
    for power in _POWERS if half else (0,):
        factor, kept = 2.0**power, keep or power > 0
        try:
            (found,) = torch.autograd.grad(loss, seen, torch.full_like(loss, factor), kept, allow_unused=True)
        except RuntimeError as error:
            if any(words in str(error) for words in _NO_FORMULA):
                raise UsageError(
                    f"No gradient gets through the network, or through the loss of what pulls: {reason_of(error)}",
                    hint=f"Of the network: {UNBROKEN}",
                    field="model",
                ) from error
            raise
        if found is None:  # pyright: ignore[reportUnnecessaryComparison]
            return None
        finite = gradient.isfinite().flatten(1).all(dim=1)[:, None, None, None]
        gradient = torch.where(finite, gradient, found / factor)
        if gradient.isfinite().all():
            break
    return gradient


def _is_half(backbone: Backbone, latent: Tensor) -> bool:
    """Whether the network computes in float16, in which it is or into which `torch.autocast` brings it."""
    kind = latent.device.type
    automatic = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return automatic or backbone.dtype == torch.float16


def _not_finite(what: str, at: Level, *, half: bool, hint: str) -> GuidanceError:
    return GuidanceError(
        f"{what} is not finite at step {at.progress:.0%}.",
        hint="Half precision overflows here: use bfloat16 or float32." if half else hint,
        field="dtype" if half else "",
    )


def _was_trained_at(now: Level, window: Window | None, backbone: Backbone) -> bool:
    """Whether the noise at `now`, and not only its place among the steps, lies in `window`, but for rounding; None is
    all noise.
    """
    if window is None:
        return True
    start, end = window
    return backbone.level(end + 1e-3).time <= now.time <= backbone.level(start - 1e-3).time


def _mixed(backbone: Backbone, latent: Tensor, now: Level, told: Sequence[tuple[Condition, float]]) -> Prediction:
    """The mean of what the network says under some conditions, by their shares."""
    (first, sum_of_shares), *others = told
    prediction = backbone.predict(latent, now, first)
    for condition, share in others:
        sum_of_shares += share
        prediction = prediction.towards(backbone.predict(latent, now, condition), 1 - share / sum_of_shares)
    return prediction


def _later(backbone: Backbone, now: Level, *, by: float) -> Level:
    """`now` with a time of more noise, later by the part `by` of it; alpha and sigma stay those of the latent."""
    if by == 0:
        return now
    return now._replace(time=min(now.time * (1 + by), backbone.level(0).time))


def _merge(many: Iterable[Mapping[str, Rewrite]]) -> dict[str, Rewrite]:
    merged: dict[str, Rewrite] = {}
    for one in many:
        for path, rewrite in one.items():
            if path in merged:
                raise UsageError(
                    f"Two injections rewrite {path!r} at once.",
                    hint="Give them disjoint taps or windows.",
                    field="injections",
                )
            merged[path] = rewrite
    return merged
