"""From a request to pictures: the whole job in one call."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, get_args
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor, nn

import sketchguide
from sketchguide.advice import warn_of_request
from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import load_classifier
from sketchguide.controls.base import Guide
from sketchguide.controls.classes import ClassGuide
from sketchguide.controls.strengths import Proportional, Within
from sketchguide.defaults import DType
from sketchguide.errors import UsageError, warn
from sketchguide.fingerprints import dtype_of, fingerprint, fingerprint_of_model, identity_of
from sketchguide.guidance import Controls, Pull, controls_of, weakened
from sketchguide.images import carried, from_base64, to_images, to_tensor
from sketchguide.inversion import Trajectory
from sketchguide.levels import Level
from sketchguide.loading import load_backbone
from sketchguide.lora import wearing
from sketchguide.overlays import Overlay, changed_region, seen_region
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.recognition import (
    Recogniser,
    Tried,
    find_recogniser,
    share_of,
    walk_until_recognised,
    warn_of_unknown,
)
from sketchguide.request import Recipe, Request
from sketchguide.sampling import Evaluations, Moment
from sketchguide.seeds import another, generators, random_seed
from sketchguide.sizes import batch_size, check_size
from sketchguide.sketch import Sketch, SpatialMap, as_sketch
from sketchguide.sources import (
    Borrowed,
    Change,
    blending,
    borrow,
    change,
    drawn_area,
    levels_of,
    near_strokes,
    solver_name,
    steps_of,
)
from sketchguide.walking import first_latent, starts_from_source, walk

# By network, the runs that are under way: whether each needs it alone.
_runs: WeakKeyDictionary[nn.Module, list[bool]] = WeakKeyDictionary()


class Progress(NamedTuple):
    """One network step of one batch, or of a source's inversion, has ended."""

    done: int  # steps of the whole run
    total: int  # that are known of; another try adds its own
    clean: Tensor  # (B, C, h, w): latents of the finished pictures (or sources) as the network sees them now
    seeds: tuple[int, ...]
    evaluations: Evaluations  # of the whole run so far


def generate(
    prompt: str,
    *,
    sketch: Sketch | str | Path | None = None,
    like: Image.Image | Picture | str | Path | None = None,
    backbone: Backbone | None = None,
    predictor: LatentPredictor | str | Path | None = None,
    seed: int | None = None,
    **settings: Any,
) -> list[Picture]:
    """Make pictures of `prompt` that follow `sketch` (a Sketch, or a file to open); without one, plain text-to-image.
    With `sketch_loss` they show the thing in `like` (a picture, or a file).

    `settings` are the other fields of `Request` (`strength`, `stop`, `steps`, `scale`, `count`, `size`, `model`, …).
    A `backbone` already loaded is used in place of the name `model`, and `predictor` is a name or loaded; the recipe
    names where they came from. What has no name, such as a LoRA that is on the backbone, must be there again to repeat
    a picture.

    Raises a SketchguideError; warns (SketchguideWarning) of a blank sketch, a prompt cut short, a scale of 1 and a size
    far from the model's own.
    """
    sketch = None if sketch is None else as_sketch(sketch)
    settings = named(carrying({"like": like, **settings}), backbone, predictor)
    request = Request.checked(
        prompt=prompt,
        sketch=None if sketch is None else sketch.to_json(),
        seed=random_seed() if seed is None else seed,
        **settings,
    )
    return pictures_of(request, backbone=backbone, predictor=predictor)


def pictures_of(
    request: Request,
    *,
    prompts: Sequence[str] = (),
    backbone: Backbone | None,
    predictor: LatentPredictor | str | Path | None,
) -> list[Picture]:
    """The pictures of `run`; a `predictor` that is a name is the one that the request names."""
    loaded = None if isinstance(predictor, str | Path) else predictor
    events = run(request, prompts=prompts, backbone=backbone, predictor=loaded)
    return [event for event in events if isinstance(event, Picture)]


def carrying(values: Mapping[str, Any]) -> dict[str, Any]:
    """These fields of a Request, where `like` may be a picture or a file, as a request has them."""
    like = values.get("like")
    if like is None:
        return dict(values)
    return {**values, "like": carried(like.image if isinstance(like, Picture) else like, field="like")}


def named(
    values: Mapping[str, Any], backbone: Backbone | None, predictor: LatentPredictor | str | Path | None
) -> dict[str, Any]:
    """These fields of a Request with those that name the model and the predictor, as far as what is loaded has a name.
    UsageError where they ask for another dtype than that of the model."""
    names: dict[str, str] = {}
    if isinstance(backbone, str | Path) or hasattr(backbone, "components"):
        raise UsageError(
            f"backbone is {str(backbone)[:60]!r}; it must be a loaded model.",
            hint="Names go to `model`; wrap a pipeline: from_pipe(pipeline).",
            field="backbone",
        )
    if backbone is not None:
        names["model"] = backbone.name
        dtype = dtype_of(backbone)
        _check_dtype(values.get("dtype", "auto"), dtype)
        if dtype in get_args(DType):  # a pipeline that was loaded elsewhere may have any
            names["dtype"] = dtype
    name = predictor if predictor is None or isinstance(predictor, str | Path) else predictor.source
    if name is not None:
        names["predictor"] = str(name)
    return {**values, **names}


def run(
    request: Request,
    *,
    prompts: Sequence[str] = (),
    backbone: Backbone | None = None,
    predictor: LatentPredictor | None = None,
    only: int | None = None,
) -> Generator[Progress | Picture]:
    """Carry out `request`: Progress after every step, a Picture when one is finished.

    With `prompts` it is carried out for each of them in place of its own; the layout's source runs once for all.
    `only` makes just the picture of that index. A LoRA that the request names is on the backbone meanwhile, in place of
    one that `load_lora` loaded. Raises UsageError where another run on the same network is under way, that is has begun
    and was neither taken to its end nor closed, and one of them has such a LoRA.
    """
    if isinstance(prompts, str):
        raise UsageError("prompts is one text; it must be a list of them.", hint="Give [prompt].", field="prompt")
    if only is not None and not 0 <= only < request.count:
        raise UsageError(f"Picture {only} was asked for; the request makes {request.count}.", field="only")
    if backbone is None:
        backbone = load_backbone(request.model, device=request.device, dtype=request.dtype)
    else:
        check_given(backbone, request)
    lora = None if request.lora is None else wearing(request.lora, backbone, scale=request.lora_scale)
    with under_way(backbone, alone=lora is not None), lora or nullcontext():
        yield from _carried_out(request, backbone, predictor, prompts=prompts, only=only)


@contextmanager
def under_way(backbone: Backbone, *, alone: bool) -> Generator[None]:
    """Within the block a run is noted at the backbone's network; UsageError where one of several needs it alone."""
    others = _runs.setdefault(backbone.network, [])
    if others and (alone or any(others)):
        raise UsageError(
            f"Another run on {backbone.name!r} is under way, and the LoRA of one would change the other's pictures.",
            hint="Take that one to its end, or close() it, before this one begins.",
            field="lora",
        )
    others.append(alone)
    try:
        yield
    finally:
        others.remove(alone)


def check_given(backbone: Backbone, request: Request) -> None:
    """UsageError where `request` asks for another device or dtype than that of the model that was given with it."""
    _check_dtype(request.dtype, dtype_of(backbone))
    if not _is_on(backbone.device, request.device):
        raise UsageError(
            f"device is {request.device}, but the model that was given is on {backbone.device}.",
            hint="Leave the device out, or load the model there.",
            field="device",
        )


def _check_dtype(asked: str, own: str) -> None:
    if asked not in ("auto", own):
        raise UsageError(
            f"dtype is {asked}, but the model that was given is in {own}.",
            hint="Leave the dtype out, or load the model in it.",
            field="dtype",
        )


def _is_on(device: torch.device, asked: str) -> bool:
    kind, _, number = asked.partition(":")
    return asked == "auto" or (kind == device.type and number in ("", str(device.index or 0)))


def _carried_out(
    request: Request, backbone: Backbone, predictor: LatentPredictor | None, *, prompts: Sequence[str], only: int | None
) -> Iterator[Progress | Picture]:
    size = check_size(request.size or backbone.default_size, backbone)
    sketch = None if request.sketch is None else Sketch.from_json(request.sketch)
    given = request.layout or request.edit
    field = "layout" if request.layout is not None else "edit"
    image: Image.Image | None = None
    if given is not None:
        image = from_base64(given.picture, field=field)
        if request.layout is not None and image.size != size:
            raise UsageError(
                "size is {}x{}, but the picture to start from is carried at {}x{}.".format(*size, *image.size),
                hint="Leave the size out, or start from the picture's own file again.",
                field="size",
            )
    requests = [Request.checked(**{**request.model_dump(), "prompt": prompt}) for prompt in prompts] or [request]
    warn_of_request(requests, sketch, image, backbone)
    made_with = {"sketchguide": sketchguide.__version__, "torch": torch.__version__, **identity_of(backbone)}
    if request.tries == 1:  # else they are refused
        warn_of_unknown([one.prompt for one in requests if one.prompt.strip()], backbone, made_with["model"])
    if made_with["device"] == "cpu":
        made_with["threads"] = str(torch.get_num_threads())  # which round sums otherwise
    made_with |= {"solver": solver_name(request, backbone), "levels": _digest(levels_of(request, backbone))}
    picture, drawing, overlay = _laid_out(request, backbone, image, sketch, size)
    controls = controls_of(request, backbone, drawing, predictor)
    made_with |= controls.made_with
    recogniser = _recogniser(request, requests, controls.guides, backbone)
    if recogniser is not None:
        made_with["recogniser"] = fingerprint(recogniser.classifier)
    batch = batch_size(size, backbone, guided=_keeps_a_graph(controls.guides))
    starts = range(0, request.count, batch)
    chunks = [range(start, min(start + batch, request.count)) for start in starts]
    chunks = [chunk for chunk in chunks if only is None or only in chunk]
    batches = [(one, chunk) for one in requests for chunk in chunks]
    walked = request.steps if request.edit is None else steps_of(request.edit.amount, request)
    done, total = 0, len(batches) * walked
    if given is not None and given.source != "noised":
        total += walked if given.made is None else given.made.request.steps
    spent = Evaluations(0, 0)
    source: Borrowed | Change | None = None
    if picture is not None:
        again = len(batches) > 1 or recogniser is not None
        area = None if overlay is None else overlay.area
        preparing = _source(request, backbone, picture, drawing, predictor, area=area, keep=again)
        while source is None:
            try:
                moment = next(preparing)
            except StopIteration as end:
                source = end.value
            else:
                done += 1
                passes = Evaluations(0, 0, inversion=sum(moment.evaluations))
                yield Progress(done, total, moment.clean, (), passes)
    for one, chunk in batches:
        seeds = [request.seed + i for i in chunk]
        tried: Tried | None = None
        number = 1
        moments = partial(_moments, one, controls, seeds, source)
        wanted, easing = [one.prompt] * len(chunk), _follows(controls.guides)
        show = None if overlay is None else overlay.blended
        for event in walk_until_recognised(moments, backbone.decode, wanted, recogniser, show=show, easing=easing):
            if isinstance(event, Tried):
                tried = event
                continue
            done += 1
            if event.number > number:
                number, total = event.number, total + walked
            evaluations = spent.plus(event.before).plus(event.moment.evaluations).plus(_shared(source))
            yield Progress(done, total, event.moment.clean, tuple(seeds[row] for row in event.rows), evaluations)
        assert tried is not None, "it comes last"
        spent = spent.plus(tried.evaluations)
        finished = to_images(tried.pictures) if overlay is None else map(overlay.laid, tried.pictures)
        for index, made in zip(chunk, finished, strict=True):
            if only is None or index == only:
                row = index - chunk.start
                sure = tried.confidence[row] if tried.confidence else None
                if sure is not None and sure < request.sure:
                    message = (
                        f"The picture of seed {seeds[row]} may not show {one.prompt!r}: at the best of its tries it is "
                        f"recognised with {sure:.0%}."
                    )
                    warn(message)
                evaluations = tried.evaluations.plus(_shared(source))
                yield Picture(made, one, index, made_with, evaluations, tried.tries[row], sure)


class _LaidOut(NamedTuple):
    """What a request starts from, at the size that the model works at."""

    picture: Tensor | None  # (1, 3, H, W)
    drawing: SpatialMap | None
    overlay: Overlay | None  # of an edit


def _laid_out(
    request: Request, backbone: Backbone, image: Image.Image | None, sketch: Sketch | None, size: tuple[int, int]
) -> _LaidOut:
    if request.edit is None or image is None or sketch is None:
        picture = None if image is None else to_tensor([image])
        return _LaidOut(picture, None if sketch is None else sketch.rasterize(size=size), None)
    margin, padding = request.edit.margin, request.edit.padding_mask_crop
    sketch = sketch.on_canvas(image.width / image.height)
    region = seen_region(changed_region(sketch, image.size, margin), image.size, working=size, padding=padding)
    drawing = sketch.cropped(region.within(image.size)).rasterize(size=size)
    side = max(image.size) * size[0] / region.width
    area = drawn_area(torch.tensor(drawing.ink)[None, None], margin, side=side)
    seen = to_tensor([image.resize(size, Image.Resampling.LANCZOS, box=region)])
    return _LaidOut(seen, drawing, Overlay(image, region, seen, area, blending(area, backbone)))


def _keeps_a_graph(guides: Sequence[Guide]) -> bool:
    """Whether gradients go through the network; a classifier has one of its own, a small one."""
    return any(guide.strength and not isinstance(guide, ClassGuide) for guide in guides)


def _moments(
    request: Request,
    controls: Controls,
    seeds: Sequence[int],
    source: Borrowed | Change | None,
    rows: Sequence[int],
    number: int,
) -> Iterator[Moment]:
    """The walk of the pictures with the numbers `rows` among `seeds`, at try `number` of each."""
    guides, chosen = _tried(number, request, controls.guides, [seeds[row] for row in rows])
    if isinstance(source, Change) and (mask := source.mask(controls.told)) is not None:
        guides = [replace(guide, strength=Within(guide.strength, mask)) for guide in guides]
    prompts = [request.prompt] * len(rows)
    return walk(request, controls.told, prompts=prompts, seeds=chosen, guides=guides, source=source)


def _tried(
    number: int, request: Request, guides: Sequence[Pull], seeds: Sequence[int]
) -> tuple[Sequence[Pull], Sequence[int]]:
    """What pulls at try `number`, and from which seeds: a drawing pulls less, where none does the noise is other."""
    if _follows(guides):
        return weakened(guides, share_of(number, request.tries)), seeds
    return guides, [another(seed, number) for seed in seeds]


def _follows(guides: Sequence[Pull]) -> bool:
    """Whether a drawing pulls."""
    return any(isinstance(guide.strength, Proportional) and guide.strength for guide in guides)


def _shared(source: Borrowed | Change | None) -> Evaluations:
    """The network passes for the source, so far."""
    return Evaluations(0, 0) if source is None else source.evaluations


def _recogniser(
    request: Request, requests: Sequence[Request], guides: Sequence[Pull], backbone: Backbone
) -> Recogniser | None:
    """What pictures are to pass; None where each is tried once, and where another try would be no other picture."""
    if request.tries == 1:
        return None
    if not _follows(guides) and starts_from_source(request):
        message = "tries changes nothing: no drawing pulls, and every picture starts from the source's noise."
        warn(message)
        return None
    classifier = load_classifier(find_recogniser(request.recogniser, backbone), device=backbone.device)
    recogniser = Recogniser(classifier, request.tries, request.sure)
    recogniser.classes_of([one.prompt for one in requests])
    return recogniser


def _digest(levels: Sequence[Level]) -> str:
    """12 hex digits that change with the levels of noise, but not with their rounding."""
    return sha256(" ".join(f"{value:.4f}" for level in levels for value in level).encode()).hexdigest()[:12]


def _source(
    request: Request,
    backbone: Backbone,
    picture: Tensor,
    drawing: SpatialMap | None,
    predictor: LatentPredictor | None,
    *,
    area: Tensor | None,
    keep: bool,
) -> Generator[Moment, None, Borrowed | Change]:
    """What walks take from `picture` (1, 3, H, W); yields the moments of the walk that finds its latents."""
    given = request.layout or request.edit
    assert given is not None, "a picture is given for some use"
    recorded: Trajectory | None = None
    if given.made is None:
        clean = backbone.encode(picture)
    else:
        recorded = yield from _made_again(given.made, request, backbone, predictor)
        clean = recorded.at(levels_of(request, backbone)[-1])
        if float((backbone.decode(clean).clamp(-1, 1) - picture.to(clean)).abs().mean()) > 0.1:
            message = "The picture is not the one that its recipe makes: what is kept is of the latter."
            warn(message)
    if request.layout is not None:
        mask: Tensor | None = None
        if request.layout.near:
            mask = near_strokes(_ink_of(request.layout.drawn, picture, drawing), request.layout.near, backbone)
        borrowing = borrow(request.layout, request, backbone, clean, recorded=recorded, mask=mask, keep=keep)
        return (yield from borrowing)
    assert request.edit is not None, "what is no layout is an edit"
    return (yield from change(request.edit, request, backbone, clean, recorded=recorded, area=area))


def _made_again(
    recipe: Recipe, request: Request, backbone: Backbone, predictor: LatentPredictor | None
) -> Generator[Moment, None, Trajectory]:
    """The walk that the picture of `recipe` was made by, for use at the levels of `request`.

    `predictor` takes the place of the one that the recipe names, if it is the same.
    """
    made = recipe.request
    if recipe.sheet or made.layout is not None or made.edit is not None:
        what = "is a sheet of several" if recipe.sheet else "was itself made from another one"
        hint = "Take it with source `inverted`."
        raise UsageError(f"The picture {what}: its own latents are not at hand.", hint=hint, field="source")
    levels, size = levels_of(made, backbone), made.size or backbone.default_size
    if (request.size or backbone.default_size) != size:
        raise UsageError(f"The picture was made in {size[0]} × {size[1]}.", hint="Keep its size.", field="size")
    if not set(levels_of(request, backbone)) <= set(levels):
        raise UsageError(
            f"The picture was made at other noise levels: {made.steps} steps of {made.solver or 'the own solver'}.",
            hint="Walk both on the same levels: the same number of steps and the same solver.",
            field="steps",
        )
    drawing = None if made.sketch is None else Sketch.from_json(made.sketch).rasterize(size=size)
    if predictor is not None and fingerprint(predictor) != recipe.made_with.get("predictor"):
        predictor = None
    controls = controls_of(made, backbone, drawing, predictor)
    found = {"model": fingerprint_of_model(backbone), **controls.made_with}
    differing = [name for name, value in found.items() if recipe.made_with.get(name) != value]
    solver = solver_name(made, backbone)
    if recipe.made_with.get("solver", solver) != solver:
        differing.append("solver")
    if "model" in differing and recipe.made_with.get("dtype") != (dtype := dtype_of(backbone)):
        raise UsageError(
            f"The picture was made in {recipe.made_with.get('dtype')}, and the model is in {dtype}.",
            hint="Choose the same dtype, or take the picture with source `inverted`.",
            field="dtype",
        )
    if (made.lora, made.lora_scale) != (request.lora, request.lora_scale):
        differing = [*(name for name in differing if name != "model"), "LoRA"]  # of which the model's print is too
    if differing:
        raise UsageError(
            f"The picture was made with another {' and '.join(differing)}.",
            hint="Choose the same, or take the picture with source `inverted`.",
            field="source",
        )
    moments: list[Moment] = []
    guides, seeds = _tried(recipe.tried, made, controls.guides, [made.seed + recipe.index])
    for moment in walk(made, controls.told, prompts=[made.prompt], seeds=seeds, guides=guides):
        moments.append(moment)
        yield moment
    return Trajectory(first_latent(made, backbone, generators(seeds)), levels[0], moments)


def _ink_of(drawn: bool, picture: Tensor, drawing: SpatialMap | None) -> Tensor:
    """(1, 1, H, W) in [0, 1]: of the drawing to follow, else of a picture that is one."""
    if drawing is not None:
        return torch.tensor(drawing.ink)[None, None]
    if not drawn:
        raise UsageError(
            "near is given, but there are no strokes: the picture is no drawing.",
            hint="Give a drawing to follow too, or leave `near` at 0.",
            field="near",
        )
    return ((1 - picture.mean(dim=1, keepdim=True)) / 2).clamp(0, 1)
