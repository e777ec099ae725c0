"""From a request to pictures: the whole job in one call."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Generator, Tensor

import sketchguide
from sketchguide.backbones.base import Backbone
from sketchguide.controls.base import Guide
from sketchguide.controls.edges import LatentGuide
from sketchguide.controls.strengths import Proportional
from sketchguide.defaults import BLANK
from sketchguide.errors import SketchguideWarning, UsageError
from sketchguide.images import from_ink, read_png_text, save_png, to_images
from sketchguide.levels import Level
from sketchguide.loading import fingerprint, load_backbone, load_lora, load_predictor
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.sampling import Moment, sample
from sketchguide.seeds import generators, noise, random_seed
from sketchguide.sketch import Sketch, SpatialMap

RECIPE_KEY = "sketchguide"
BATCH = 8  # pictures made at once; part of the recipe, since rounding depends on it


class Progress(NamedTuple):
    """One network step of one batch has ended."""

    done: int  # steps of the whole request
    total: int
    clean: Tensor  # (B, C, h, w): latents of the finished pictures as the network sees them now
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Picture:
    """A finished picture with all that is needed to make it again."""

    image: Image.Image
    request: Request
    index: int  # which of the request's pictures
    made_with: dict[str, str]  # versions and fingerprints

    @property
    def seed(self) -> int:
        return self.request.seed + self.index

    @property
    def recipe(self) -> dict[str, Any]:
        return {"request": self.request.model_dump(mode="json"), "index": self.index, "made_with": self.made_with}

    def save(self, path: str | Path) -> None:
        """Write a PNG that carries the recipe (`sketchguide generate --from` repeats it)."""
        save_png(self.image, path, text={RECIPE_KEY: json.dumps(self.recipe)})


def generate(
    prompt: str,
    *,
    sketch: Sketch | str | Path | None = None,
    backbone: Backbone | None = None,
    predictor: LatentPredictor | None = None,
    seed: int | None = None,
    **settings: Any,
) -> list[Picture]:
    """Make pictures of `prompt` that follow `sketch` (a Sketch, or a file to open); without one, plain text-to-image.

    `settings` are the other fields of `Request` (`strength`, `stop`, `steps`, `scale`, `count`, `size`, `model`, …).
    A `backbone` or `predictor` already loaded is used in place of `model` and `predictor` names.

    Raises a SketchguideError; warns (SketchguideWarning) of a blank sketch, a prompt cut short and a scale of 1.
    """
    if isinstance(sketch, str | Path):
        sketch = Sketch.open(sketch)
    if backbone is not None:
        settings["model"] = backbone.name
    request = Request.checked(
        prompt=prompt,
        sketch=None if sketch is None else sketch.to_json(),
        seed=random_seed() if seed is None else seed,
        **settings,
    )
    return [p for p in run(request, backbone=backbone, predictor=predictor) if isinstance(p, Picture)]


def run(
    request: Request,
    *,
    backbone: Backbone | None = None,
    predictor: LatentPredictor | None = None,
    only: int | None = None,
) -> Iterator[Progress | Picture]:
    """Carry out `request`: Progress after every step, a Picture when one is finished.

    `only` makes just the picture of that index.
    """
    if only is not None and not 0 <= only < request.count:
        raise UsageError(f"Picture {only} was asked for; the request makes {request.count}.", field="only")
    backbone = backbone or load_backbone(request.model, device=request.device, dtype=request.dtype)
    if request.lora is not None:
        load_lora(backbone, request.lora, scale=request.lora_scale)
    size = check_size(request.size or backbone.default_size, backbone)
    sketch = None if request.sketch is None else Sketch.from_json(request.sketch)
    if sketch is not None:
        predictor = predictor or load_predictor(request.predictor, backbone)
    _warn(request, sketch, backbone)
    made_with = {"sketchguide": sketchguide.__version__, "torch": torch.__version__, "dtype": str(backbone.dtype)[6:]}
    made_with |= {"device": backbone.device.type, "model": fingerprint(backbone.network)}
    guides: list[Guide] = []
    if sketch is not None and predictor is not None:
        made_with["predictor"] = fingerprint(predictor)
        guides.append(latent_guide(request, [sketch.rasterize(size=size)], backbone, predictor))
    starts = range(0, request.count, BATCH)
    chunks = [range(start, min(start + BATCH, request.count)) for start in starts]
    chunks = [chunk for chunk in chunks if only is None or only in chunk]
    done, total = 0, len(chunks) * request.steps
    for chunk in chunks:
        seeds = tuple(request.seed + i for i in chunk)
        latent: Tensor | None = None
        for moment in walk(request, backbone, prompts=[request.prompt] * len(chunk), seeds=seeds, guides=guides):
            done += 1
            latent = moment.latent
            yield Progress(done, total, moment.clean, seeds)
        assert latent is not None, "a request has at least one step"
        for index, image in zip(chunk, to_images(backbone.decode(latent)), strict=True):
            if only is None or index == only:
                yield Picture(image, request, index, made_with)


def latent_guide(
    request: Request, maps: Sequence[SpatialMap], backbone: Backbone, predictor: LatentPredictor
) -> LatentGuide:
    """The guide that `request` asks for, towards one map for all pictures or one for each."""
    pairs = [encode_map(one, backbone, blank=request.blank) for one in maps]
    target, weight = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
    strength = Proportional(request.strength)
    return LatentGuide(predictor, target, weight, window=(0.0, request.stop), strength=strength, every=request.every)


def walk(
    request: Request,
    backbone: Backbone,
    *,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guides: Sequence[Guide] = (),
    clean: Tensor | None = None,
    amount: float = 1.0,
) -> Iterator[Moment]:
    """Walk one batch with the settings of `request`: row i shows `prompts[i]` and starts from `seeds[i]`.

    With latents `clean` (B, C, h, w) it walks only the last `amount` (0..1] of the steps, starting from them with as
    much noise as belongs there (SDEdit, Meng et al. 2022).
    """
    if not 0 < amount <= 1:
        raise UsageError(f"amount is {amount}; it must be above 0 and at most 1.", field="amount")
    each = generators(seeds)
    solver = request.solver or next(iter(backbone.solvers))
    width, height = request.size or backbone.default_size
    shape = (backbone.latent_channels, height // backbone.stride, width // backbone.stride)
    levels = backbone.levels(request.steps, solver)
    latent = noise(each, shape).to(backbone.device)
    if clean is not None:
        levels = levels[-1 - max(1, round(amount * request.steps)) :]
        latent = levels[0].alpha * clean + levels[0].sigma * latent
    return _sampled(request, backbone, prompts, latent, levels, guides=guides, generators=each)


def walk_from(
    request: Request, backbone: Backbone, latent: Tensor, *, guides: Sequence[Guide] = ()
) -> Iterator[Moment]:
    """Walk one batch from given noise (B, C, h, w) with the settings of `request`: every row shows its prompt.

    Raises UsageError for a solver that draws noise of its own.
    """
    solver = request.solver or next(iter(backbone.solvers))
    levels = backbone.levels(request.steps, solver)
    return _sampled(request, backbone, [request.prompt] * len(latent), latent, levels, guides=guides)


def _sampled(
    request: Request,
    backbone: Backbone,
    prompts: Sequence[str],
    latent: Tensor,
    levels: Sequence[Level],
    *,
    guides: Sequence[Guide],
    generators: Sequence[Generator] = (),
) -> Iterator[Moment]:
    solver = request.solver or next(iter(backbone.solvers))
    return sample(
        backbone,
        backbone.describe(prompts),
        latent,
        levels,
        negative=None if request.scale == 1 else backbone.describe([request.negative] * len(prompts)),
        scale=request.scale,
        guides=guides,
        solver=backbone.solvers[solver].solver,
        generators=generators,
    )


def recall(path: str | Path) -> tuple[Request, int, dict[str, str]]:
    """The request, index and circumstances stored in a PNG that sketchguide wrote."""
    text = read_png_text(path).get(RECIPE_KEY)
    try:
        recipe = json.loads(text or "")
        request, index, made_with = (
            Request.checked(**recipe["request"]),
            int(recipe["index"]),
            dict(recipe["made_with"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{path} carries no sketchguide recipe.", hint="Only PNG files that sketchguide wrote do.", field="from"
        ) from error
    return request, index, made_with


def check_size(size: tuple[int, int], backbone: Backbone) -> tuple[int, int]:
    """`size` (width, height) itself, or a UsageError naming the nearest size the model can make."""
    step = backbone.multiple
    nearest = tuple(max(step, round(side / step) * step) for side in size)
    if nearest != size:
        raise UsageError(
            f"size is {size[0]}x{size[1]}; {backbone.name} needs multiples of {step} pixels.",
            hint=f"The nearest is {nearest[0]}x{nearest[1]}.",
            field="size",
        )
    return size


def encode_map(drawing: SpatialMap, backbone: Backbone, *, blank: float = BLANK.default) -> tuple[Tensor, Tensor]:
    """The target E(e) (1, C, h, w) of a map, ink white on black as in the paper, and its weights (1, 1, h, w).

    `blank` (0..1) is the weight of paper, ink being 1 (in Voynov et al. both weigh the same): a drawing says where
    lines are, and less surely where none are.
    """
    target = backbone.encode(from_ink(torch.tensor(drawing.ink, device=backbone.device)[None, None]))
    weight = torch.tensor(drawing.weight * (blank + (1 - blank) * drawing.ink), device=backbone.device)[None, None]
    return target, torch.nn.functional.adaptive_avg_pool2d(weight, (target.shape[-2], target.shape[-1]))


def _warn(request: Request, sketch: Sketch | None, backbone: Backbone) -> None:
    if sketch is not None and sketch.rasterize(size=(64, 64)).blank:
        warnings.warn("The sketch is blank: nothing will follow it.", SketchguideWarning, stacklevel=4)
    if request.scale == 1:
        warnings.warn("scale is 1: the prompt steers only weakly.", SketchguideWarning, stacklevel=4)
    for words in backbone.describe([request.prompt]).dropped:
        if words:
            warnings.warn(f"The prompt is too long; not read: {words!r}.", SketchguideWarning, stacklevel=4)
