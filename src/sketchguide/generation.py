"""From a request to pictures: the whole job in one call."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor, nn

import sketchguide
from sketchguide.advice import warn_of_request
from sketchguide.arguments import backbone_of, carrying, check_given, named
from sketchguide.backbones.around import Remembering
from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import load_classifier
from sketchguide.controls.base import Guide, of_network
from sketchguide.controls.strengths import Within
from sketchguide.errors import UsageError, warn
from sketchguide.fingerprints import fingerprint, identity_of
from sketchguide.guidance import Controls, at_try, controls_of, follows
from sketchguide.images import to_images
from sketchguide.levels import Level
from sketchguide.lora import wearing
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.recognition import (
    Recogniser,
    Tried,
    find_recogniser,
    resumed,
    walk_until_recognised,
    warn_of_unknown,
)
from sketchguide.request import Request
from sketchguide.sampling import Evaluations, Moment
from sketchguide.schedule import levels_of, solver_name, steps_walked
from sketchguide.seeds import random_seed
from sketchguide.sizes import batch_size, check_size
from sketchguide.sketch import Sketch, as_sketch
from sketchguide.sources import Borrowed, Change
from sketchguide.starting import laid_out, picture_to_start_from, source_of, steps_to_find
from sketchguide.usual import usual_settings
from sketchguide.walking import starts_from_source, walk

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


def run(
    request: Request,
    *,
    prompts: Sequence[str] = (),
    backbone: Backbone | None = None,
    predictor: LatentPredictor | None = None,
    only: int | None = None,
    guides: Sequence[Guide] = (),
) -> Generator[Progress | Picture]:
    """Carry out `request`: Progress after every step, a Picture when one is finished.

    With `prompts` it is carried out for each of them in place of its own; the layout's source runs once for all.
    `only` makes just the picture of that index. `guides` pull all pictures besides what the request asks for; they are
    dataclasses, and no part of the recipe. A LoRA that the request names is on the backbone meanwhile, in place of
    one that `load_lora` loaded. Raises UsageError where another run on the same network is under way, that is has begun
    and was neither taken to its end nor closed, and one of them has such a LoRA.
    """
    if isinstance(prompts, str):
        raise UsageError("prompts is one text; it must be a list of them.", hint="Give [prompt].", field="prompt")
    if only is not None and not 0 <= only < request.count:
        raise UsageError(f"Picture {only} was asked for; the request makes {request.count}.", field="only")
    if others := [guide for guide in guides if not _is_movable(guide)]:
        raise UsageError(
            f"The guide {others[0]!r} is no dataclass that is given a strength.",
            hint="Decorate its class with @dataclass, let strength be a field of it, and give an object.",
            field="guides",
        )
    if backbone is None:
        backbone = backbone_of(request, predictor=predictor)
    else:
        check_given(backbone, request)
    with under_way(backbone, alone=bool(request.lora)), wearing(request.loras, backbone):
        yield from _carried_out(request, Remembering(backbone), predictor, guides, prompts=prompts, only=only)


def _is_movable(guide: object) -> bool:
    """Whether the same guide can be made with another strength, as edits need it."""
    if isinstance(guide, type) or not is_dataclass(guide):
        return False
    return any(one.name == "strength" and one.init for one in fields(guide))


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


def _carried_out(
    request: Request,
    backbone: Backbone,
    predictor: LatentPredictor | None,
    guides: Sequence[Guide],
    *,
    prompts: Sequence[str],
    only: int | None,
) -> Iterator[Progress | Picture]:
    size = check_size(request.size or backbone.default_size, backbone)
    sketch = None if request.sketch is None else Sketch.from_json(request.sketch)
    image = picture_to_start_from(request, size)
    said = [Request.checked(prompt=prompt, seed=0).prompt for prompt in prompts]
    made_with = {"sketchguide": sketchguide.__version__, "torch": torch.__version__, **identity_of(backbone)}
    if not guides:
        usual = usual_settings(request, said or [request.prompt], sketch, backbone, made_with["model"])
        request = request.model_copy(update=usual)
    requests = [request.model_copy(update={"prompt": prompt}) for prompt in said] or [request]
    warn_of_request(requests, sketch, image, backbone)
    if request.tries == 1:  # else they are refused
        warn_of_unknown([one.prompt for one in requests if one.prompt.strip()], backbone, made_with["model"])
    if made_with["device"] == "cpu":
        made_with["threads"] = str(torch.get_num_threads())  # which round sums otherwise
    made_with |= {"solver": solver_name(request, backbone), "levels": _digest(levels_of(request, backbone))}
    start = laid_out(request, backbone, image, sketch, size)
    controls = controls_of(request, backbone, start.drawing, predictor)
    made_with |= controls.made_with
    controls.guides.extend(guides)
    recogniser = _recogniser(request, requests, controls, backbone)
    if recogniser is not None:
        made_with["recogniser"] = fingerprint(recogniser.classifier)
    batch = batch_size(size, backbone, guided=_keeps_a_graph(controls.guides))
    chunks = [range(first, min(first + batch, request.count)) for first in range(0, request.count, batch)]
    chunks = [chunk for chunk in chunks if only is None or only in chunk]
    batches = [(one, chunk) for one in requests for chunk in chunks]
    walked = steps_walked(request)
    done, total = 0, len(batches) * walked + steps_to_find(request)
    spent = Evaluations(0, 0)
    source: Borrowed | Change | None = None
    keep = len(batches) > 1 or recogniser is not None
    for event in source_of(request, backbone, start, predictor, keep=keep):
        if not isinstance(event, Moment):
            source = event
            continue
        done += 1
        yield Progress(done, total, event.clean, (), Evaluations(0, 0, inversion=sum(event.evaluations)))
    for one, chunk in batches:
        seeds = [request.seed + i for i in chunk]
        tried: Tried | None = None
        number = 1
        moments = partial(_moments, one, controls, seeds, source)
        wanted, easing = [one.prompt] * len(chunk), follows(controls)
        show = None if start.overlay is None else start.overlay.blended
        for event in walk_until_recognised(moments, backbone.decode, wanted, recogniser, show=show, easing=easing):
            if isinstance(event, Tried):
                tried = event
                continue
            done += 1
            if event.number > number:
                number = event.number
                total += walked - at_try(number, one, controls, seeds).kept
            evaluations = spent.plus(event.before).plus(event.moment.evaluations).plus(_shared(source))
            yield Progress(done, total, event.moment.clean, tuple(seeds[row] for row in event.rows), evaluations)
        assert tried is not None, "it comes last"
        spent = spent.plus(tried.evaluations)
        finished = to_images(tried.pictures) if start.overlay is None else map(start.overlay.laid, tried.pictures)
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


def _keeps_a_graph(guides: Sequence[Guide]) -> bool:
    """Whether gradients go through the network."""
    return any(guide.strength and of_network(guide) for guide in guides)


def _moments(
    request: Request,
    controls: Controls,
    seeds: Sequence[int],
    source: Borrowed | Change | None,
    rows: Sequence[int],
    number: int,
    first: Sequence[Tensor],
) -> Iterator[Moment]:
    """The walk of the pictures with the numbers `rows` among `seeds`, at try `number` of each; `first` as in Walk."""
    controls, chosen, kept = at_try(number, request, controls, [seeds[row] for row in rows])
    guides = controls.guides
    if isinstance(source, Change) and (mask := source.mask(controls.told)) is not None:
        guides = [replace(cast(Any, guide), strength=Within(guide.strength, mask)) for guide in guides]
    prompts = [request.prompt] * len(rows)
    begun = resumed(first, rows, kept)
    return walk(request, controls.told, prompts=prompts, seeds=chosen, guides=guides, source=source, begun=begun)


def _shared(source: Borrowed | Change | None) -> Evaluations:
    """The network passes for the source, so far."""
    return Evaluations(0, 0) if source is None else source.evaluations


def _recogniser(
    request: Request, requests: Sequence[Request], controls: Controls, backbone: Backbone
) -> Recogniser | None:
    """What pictures are to pass; None where each is tried once, and where another try would be no other picture."""
    if request.tries == 1:
        return None
    draws = backbone.solvers[solver_name(request, backbone)].draws
    if not follows(controls) and starts_from_source(request) and not draws:
        message = "tries changes nothing: no drawing is followed, and every picture starts from the source's noise."
        warn(message)
        return None
    classifier = load_classifier(find_recogniser(request.recogniser, backbone), device=backbone.device)
    recogniser = Recogniser(classifier, request.tries, request.sure)
    recogniser.classes_of([one.prompt for one in requests])
    return recogniser


def _digest(levels: Sequence[Level]) -> str:
    """12 hex digits that change with the levels of noise, but not with their rounding."""
    return sha256(" ".join(f"{value:.4f}" for level in levels for value in level).encode()).hexdigest()[:12]
