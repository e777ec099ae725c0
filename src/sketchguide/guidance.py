"""What acts on the pictures of a request: its guides, and the networks that the backbone is wrapped in."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sketchguide.adapters import Adapter, adapter_of
from sketchguide.attention import SketchAttention
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.told import Told
from sketchguide.backbones.wrapped import with_controlnet, with_sketch_attention, with_t2i_adapter
from sketchguide.classifiers import LatentClassifier
from sketchguide.controls.base import Guide
from sketchguide.controls.classes import ClassGuide
from sketchguide.controls.edges import LatentGuide, target_of
from sketchguide.controls.likeness import SketchGuide
from sketchguide.controls.strengths import Proportional, Score
from sketchguide.defaults import EVERY, HANDOVER, PULLING
from sketchguide.errors import SketchguideError, UsageError, warn
from sketchguide.fingerprints import fingerprint
from sketchguide.images import from_base64, to_tensor
from sketchguide.loading import load_predictor
from sketchguide.perception import Features, load_features
from sketchguide.predictors import LatentPredictor
from sketchguide.recognition import easing_of
from sketchguide.request import Request
from sketchguide.schedule import progress_at, steps_of, steps_until
from sketchguide.seeds import another
from sketchguide.shipped import find_features, find_part, has_predictor
from sketchguide.sketch import Sketch, SpatialMap
from sketchguide.sketchers import Sketcher

Drawn = LatentGuide | SketchGuide  # what pulls to a drawing


class Controls(NamedTuple):
    """What acts on the pictures of a request."""

    told: Backbone
    guides: list[Guide]
    made_with: dict[str, str]  # fingerprints of the networks among it


def controls_of(
    request: Request, backbone: Backbone, drawing: SpatialMap | None, predictor: LatentPredictor | None
) -> Controls:
    controls = Controls(backbone, [], {})
    if drawing is not None and not drawing.blank:  # an empty page would pull everything to paper
        predictor = _predictor(request, backbone, predictor)
        if predictor is not None:
            predictor.to(backbone.device).check_fits(backbone)
            controls.made_with["predictor"] = fingerprint(predictor)
            controls.guides.append(latent_guide(request, [drawing], backbone, predictor))
        if request.sketch_loss:
            guide, parts = _sketch_loss(request, drawing, backbone)
            controls.made_with.update(parts)
            controls.guides.append(guide)
        if request.attention is not None:
            attention = SketchAttention.load(find_part(request.attention, "sketch-attention", field="attention"))
            controls.made_with["attention"] = fingerprint(attention)
            attention = attention.to(backbone.device, backbone.dtype)
            ink = torch.tensor(drawing.ink)[None, None]
            told = with_sketch_attention(backbone, attention, ink, scale=request.attention_scale)
            controls = controls._replace(told=told)
        controls = _with_adapters(controls, request, drawing)
    if request.class_name is not None:
        named, model = request.classifier, backbone.name
        classifier = LatentClassifier.load(find_part(named, "latent-classifier", field="classifier", model=model))
        classifier.to(backbone.device).check_fits(backbone)
        controls.made_with["classifier"] = fingerprint(classifier)
        controls.guides.append(class_guide(request, [classifier.class_number(request.class_name)], classifier))
    return controls


def _with_adapters(controls: Controls, request: Request, drawing: SpatialMap) -> Controls:
    """`controls` with the ControlNet and the T2I-Adapter of `request`, which are shown the drawing."""
    told, made_with = controls.told, dict(controls.made_with)
    wraps: dict[Adapter, Callable[..., Backbone]] = {
        "controlnet": partial(with_controlnet, mode=request.controlnet_mode),
        "t2i_adapter": with_t2i_adapter,
    }
    for adapter, wrap in wraps.items():
        name, scale, *ends = (getattr(request, adapter + setting) for setting in ("", "_scale", "_start", "_end"))
        if name is None:
            continue
        network = adapter_of(adapter, name, told)
        made_with[adapter] = fingerprint(network)
        with _about(adapter):
            start, end = (progress_at(request, part) for part in ends)
            told = wrap(told, network, drawing, scale=scale, window=(start, end))
    return controls._replace(told=told, made_with=made_with)


def check_adapters(request: Request, backbone: Backbone) -> None:
    """Raises where the ControlNet or the T2I-Adapter that `request` names cannot be read or does not fit."""
    blank = Sketch(strokes=()).rasterize(size=backbone.default_size)
    _with_adapters(Controls(backbone, [], {}), request, blank)


@contextmanager
def _about(adapter: Adapter) -> Generator[None]:
    """Within the block errors are about the setting that names the adapter, or about its mode."""
    try:
        yield
    except SketchguideError as error:
        error.field = f"{adapter}_mode" if error.field == "mode" else adapter
        raise


def weakened(guides: Sequence[Guide], share: float) -> list[Guide]:
    """Those that pull to a drawing do it by `share` of their strength; the others stay as they are."""
    if share == 1:
        return list(guides)
    return [
        replace(guide, strength=guide.strength.times(share))
        if isinstance(guide, Drawn) and isinstance(guide.strength, Proportional)
        else guide
        for guide in guides
    ]


class Try(NamedTuple):
    """One of several tries of the same pictures."""

    controls: Controls
    seeds: Sequence[int]
    kept: int  # so many of its steps are those of the first try


def at_try(number: int, request: Request, controls: Controls, seeds: Sequence[int]) -> Try:
    """What acts at try `number`, and what it starts from: what follows the drawing does it less, and from some step of
    the first try on; where nothing does the noise is another."""
    if not follows(controls):
        return Try(controls, [another(seed, number) for seed in seeds], 0)
    kept, share = easing_of(number, request.tries)
    told, guides = _told_less(controls.told, share), weakened(controls.guides, share)
    following = steps_until(_followed_until(controls), request)
    return Try(controls._replace(told=told, guides=guides), seeds, int(kept * following))


def follows(controls: Controls) -> bool:
    """Whether a drawing pulls, or is shown to the network."""
    return _followed_until(controls) > 0


def _followed_until(controls: Controls) -> float:
    """The progress up to which a drawing pulls, or is shown to the network; 0 where none is."""
    pulling = [guide.window[1] for guide in controls.guides if isinstance(guide, Drawn) and guide.strength]
    told, showing = controls.told, list[float]()
    while isinstance(told, Told):
        showing += [told.window[1]] if told.scale else []
        told = told.inner
    return max(pulling + showing, default=0.0)


def _told_less(told: Backbone, share: float) -> Backbone:
    """`told` by `share` of its scale, and so what is within it, down to the backbone that was given."""
    if share == 1 or not isinstance(told, Told):
        return told
    return replace(told, inner=_told_less(told.inner, share), scale=share * told.scale)


def _predictor(request: Request, backbone: Backbone, loaded: LatentPredictor | None) -> LatentPredictor | None:
    """What pulls to the drawing, the one that is `loaded` if any is; none where nothing is to, or where another control
    takes its place: warns of the settings that change nothing then."""
    if request.strength == 0:
        why, meant = "strength is 0", {"strength"}
    elif loaded is not None:
        return loaded
    elif not request.needs_predictor and not has_predictor(backbone.name):
        why, meant = f"{backbone.name} has no predictor that pulls", set[str]()
    else:
        return load_predictor(request.predictor, backbone)
    meant |= {"stop", "every"} if request.sketch_loss else set()
    for name in request.changed(*PULLING):
        if name not in meant:
            warn(f"{name} changes nothing: {why}.")
    return None


def _sketch_loss(request: Request, drawing: SpatialMap, backbone: Backbone) -> tuple[SketchGuide, dict[str, str]]:
    """DiffSketching's two losses with the parts that `request` names, and the fingerprints of these."""
    device, model = backbone.device, backbone.name
    sketcher = Sketcher.load(find_part(request.sketcher, "sketcher", field="sketcher", model=model)).to(device)
    named = request.drawing_features
    named = find_features(named, "drawing-classifier", field="drawing_features", model=model)
    comparing = load_features(named, device=device, field="drawing_features")
    made_with = {"sketcher": fingerprint(sketcher), "drawing_features": fingerprint(comparing.network)}
    reference: Tensor | None = None
    pictures: Features | None = None
    if request.like is not None:
        named = find_features(request.picture_features, "classifier", field="picture_features", model=model)
        pictures = load_features(named, device=device, field="picture_features")
        made_with["picture_features"] = fingerprint(pictures.network)
        size = (drawing.ink.shape[1], drawing.ink.shape[0])
        reference = to_tensor([from_base64(request.like, field="like")], size=size).to(device)
    guide = sketch_guide(
        request,
        [drawing],
        backbone,
        sketcher,
        comparing,
        strength=request.sketch_loss,
        every=request.every or EVERY.default,
        reference=reference,
        pictures=pictures,
    )
    return guide, made_with


def latent_guide(
    request: Request, maps: Sequence[SpatialMap], backbone: Backbone, predictor: LatentPredictor
) -> LatentGuide:
    """The guide that `request` asks for, towards one map for all pictures or one for each."""
    pairs = [target_of(one, backbone, predictor, blank=request.blank, widen=request.widen) for one in maps]
    target, weight = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
    own = HANDOVER.default if predictor.config.clean_widths else 1.0
    handover = own if request.handover is None else request.handover
    end = progress_at(request, request.stop)
    if request.edit is not None:
        trained, amount = predictor.config.window[1], request.edit.amount
        if 1 - steps_of(amount, request) / request.steps >= trained:
            enough = math.floor((1 - trained) * request.steps + 1e-9) + 1
            raise UsageError(
                f"An edit of amount {amount:g} has less noise than this predictor was trained for.",
                hint=f"Give an amount of {enough / request.steps:.3g} or more.",
                field="amount",
            )
        end = min(end, trained)
    return LatentGuide(
        predictor,
        target,
        weight,
        window=(min(predictor.config.window[0], end), end),
        strength=Proportional(request.beta, request.even),
        every=request.pulling_every,
        handover=progress_at(request, handover),
    )


def sketch_guide(
    request: Request,
    maps: Sequence[SpatialMap],
    backbone: Backbone,
    sketcher: Sketcher,
    drawing: Features,
    *,
    strength: float,
    every: int,
    reference: Tensor | None = None,
    pictures: Features | None = None,
) -> SketchGuide:
    """DiffSketching's sketch loss towards one map for all pictures or one for each, with the window and the identity of
    `request`; the rest as in SketchGuide."""
    return SketchGuide(
        backbone.decode,
        sketcher,
        drawing,
        torch.stack([torch.tensor(one.ink)[None] for one in maps]).to(backbone.device),
        reference=reference,
        pictures=pictures,
        identity=request.identity,
        window=(0.0, progress_at(request, request.stop)),
        strength=Proportional(strength),
        every=every,
    )


def class_guide(request: Request, numbers: Sequence[int], classifier: LatentClassifier) -> ClassGuide:
    """Classifier guidance to one class for all pictures or one for each, with the scale of `request`."""
    return ClassGuide(classifier, numbers, window=classifier.config.window, strength=Score(request.class_scale))
