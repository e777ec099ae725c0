"""The walk of one batch of pictures down the noise levels, with the settings of a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.controls.base import Guide
from sketchguide.controls.edges import LatentGuide
from sketchguide.controls.features import NegativePrompt
from sketchguide.defaults import NEGATIVE_TIME
from sketchguide.inversion import recur
from sketchguide.levels import Level, is_open
from sketchguide.request import Request
from sketchguide.sampling import Begun, Moment, Negative, sample
from sketchguide.schedule import levels_of, solver_name
from sketchguide.seeds import another, generators, noise
from sketchguide.solvers import Solver
from sketchguide.sources import Borrowed, Change, Keeping


def walk(
    request: Request,
    backbone: Backbone,
    *,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guides: Sequence[Guide] = (),
    source: Borrowed | Change | None = None,
    begun: Begun | None = None,
) -> Iterator[Moment]:
    """Walk one batch with the settings of `request`: row i shows `prompts[i]` and starts from `seeds[i]`.

    `source` was prepared with the same request: rows keep its layout, or are its pictures, changed. With `begun` the
    rest of that walk is taken; a multistep solver begins it at its first order, and one that draws noise draws other.
    """
    each = generators(seeds)
    levels = levels_of(request, backbone)
    solver = _solver(request, backbone)
    borrowed: Borrowed | None = None
    if isinstance(source, Change):
        latents = source.source(each)
        levels = levels[-1 - source.steps :]
        latent = latents.at(levels[0]).expand(len(each), -1, -1, -1)
        if (mask := source.mask(backbone)) is not None:
            solver = Keeping(solver, latents, mask)
    else:
        borrowed = source
        latent = first_latent(request, backbone, each)
        if source is not None and source.start is not None:
            latent = source.start.expand_as(latent)
    if begun is not None:
        latent, levels = begun.latent, levels[begun.steps :]
        each = generators([another(seed, begun.steps + 1) for seed in seeds])
    return _sampled(
        request, backbone, prompts, latent, levels, solver, guides=guides, generators=each, borrowed=borrowed
    )


def first_latent(request: Request, backbone: Backbone, each: Sequence[torch.Generator]) -> Tensor:
    """The noise (B, C, h, w) that walks with the settings of `request` begin from, one picture for each generator."""
    width, height = request.size or backbone.default_size
    shape = (backbone.latent_channels, height // backbone.stride, width // backbone.stride)
    drawn = noise(each, shape).to(backbone.device)
    scaled = backbone.solvers[solver_name(request, backbone)].scaled
    return drawn * levels_of(request, backbone)[0].sigma if scaled else drawn


def walk_from(
    request: Request, backbone: Backbone, latent: Tensor, *, guides: Sequence[Guide] = ()
) -> Iterator[Moment]:
    """Walk one batch from a latent (B, C, h, w) with the settings of `request`: every row shows its prompt.

    Raises UsageError for a solver that draws noise of its own.
    """
    prompts = [request.prompt] * len(latent)
    levels, solver = levels_of(request, backbone), _solver(request, backbone)
    return _sampled(request, backbone, prompts, latent, levels, solver, guides=guides)


def starts_from_source(request: Request) -> bool:
    """Whether no noise of a seed is in the picture's first latent, nor comes to it but by the solver."""
    if request.edit is not None:
        return request.edit.source != "noised"
    return request.layout is not None and request.layout.starts_from == "source" and request.layout.recurrence == 0


def has_negative_pass(request: Request, backbone: Backbone) -> bool:
    """Whether each step takes a pass with the negative prompt too."""
    return request.scale != 1 and not backbone.distilled


def _solver(request: Request, backbone: Backbone) -> Solver:
    return backbone.solvers[solver_name(request, backbone)].solver


def _sampled(
    request: Request,
    backbone: Backbone,
    prompts: Sequence[str],
    latent: Tensor,
    levels: Sequence[Level],
    solver: Solver,
    *,
    guides: Sequence[Guide],
    generators: Sequence[torch.Generator] = (),
    borrowed: Borrowed | None = None,
) -> Iterator[Moment]:
    negative: Negative | None = None
    if has_negative_pass(request, backbone):
        negative = backbone.describe([request.negative] * len(prompts))
    injections, step = (), sample
    if borrowed is not None:
        layout, injections = borrowed.settings, (borrowed.injection,)
        step = partial(recur, times=layout.recurrence) if layout.recurrence else sample
        if layout.decay is not None and negative is not None and layout.source_prompt != request.negative:
            shown = backbone.describe([layout.source_prompt] * len(prompts))
            negative = NegativePrompt(negative, shown, layout.alpha, layout.decay)
    return step(
        backbone,
        backbone.describe(prompts),
        latent,
        levels,
        negative=negative,
        scale=request.scale,
        negative_time=0.0 if negative is None else _negative_time(request, guides, levels),
        guides=guides,
        injections=injections,
        solver=solver,
        generators=generators,
    )


def _negative_time(request: Request, guides: Sequence[Guide], levels: Sequence[Level]) -> float:
    if request.negative_time is not None:
        return request.negative_time
    reading = [guide for guide in guides if isinstance(guide, LatentGuide) and guide.strength]
    opening = any(is_open(guide.window, level) for guide in reading for level in levels[:-1])
    return NEGATIVE_TIME.default if opening else 0.0
