"""Ways to make pictures follow drawings, all called alike, so that they can be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import diffusers
import torch
from torch import Tensor, nn

from sketchguide.attention import SketchAttention
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.wrapped import CONTROLNETS, with_controlnet, with_sketch_attention, with_t2i_adapter
from sketchguide.classifiers import LatentClassifier, find_class_in, load_classifier
from sketchguide.controls.base import Guide
from sketchguide.defaults import PULLING
from sketchguide.errors import ModelNotFoundError, SketchguideError, UsageError, WeightsError, reason_of
from sketchguide.files import is_file
from sketchguide.generation import walk
from sketchguide.guidance import class_guide, latent_guide, sketch_guide, weakened
from sketchguide.images import from_ink
from sketchguide.loading import find_features, find_part, load_predictor, own_predictor, shipped
from sketchguide.perception import Features, load_features
from sketchguide.predictors import LatentPredictor
from sketchguide.recognition import Recogniser, Tried, find_recogniser, share_of, walk_until_recognised
from sketchguide.request import FOR_DRAWINGS, LayoutSettings, Request
from sketchguide.sampling import Moment
from sketchguide.sketch import SpatialMap
from sketchguide.sketchers import Sketcher
from sketchguide.sources import Borrowed, Change, borrow, levels_of, near_strokes, places_of, steps_of
from sketchguide.weights import read_weights


@dataclass(frozen=True)
class Batch:
    """Pictures to make: row i shows `prompts[i]`, follows `maps[i]` and starts from `seeds[i]`.

    Methods that begin with a picture get the drawing, dark ink on white paper, or `pictures[i]`. `request` has every
    other setting; its own prompt, seed, sketch and layout are not looked at. `guides` pull beside those of the method.
    Methods that can act less than they are set to do it by `share`.
    """

    backbone: Backbone
    request: Request
    prompts: Sequence[str]
    maps: Sequence[SpatialMap]
    seeds: Sequence[int]
    pictures: Tensor | None = None  # (B, 3, H, W) in [-1, 1]
    guides: Sequence[Guide] = ()
    share: float = 1.0

    def walk(self, *, guides: Sequence[Guide] = (), source: Borrowed | Change | None = None) -> Iterator[Moment]:
        """`generation.walk` of these pictures."""
        every = [*guides, *self.guides]
        return walk(self.request, self.backbone, prompts=self.prompts, seeds=self.seeds, guides=every, source=source)

    def of(self, rows: Sequence[int], share: float) -> Batch:
        """These of the pictures, by `share` of what acts on all."""
        return replace(
            self,
            prompts=[self.prompts[row] for row in rows],
            maps=[self.maps[row] for row in rows],
            seeds=[self.seeds[row] for row in rows],
            pictures=None if self.pictures is None else self.pictures[list(rows)],
            share=share * self.share,
        )

    @property
    def ink(self) -> Tensor:
        """The drawings (B, 1, H, W) in [0, 1], ink 1."""
        return torch.stack([torch.tensor(one.ink)[None] for one in self.maps]).to(self.backbone.device)

    @property
    def clean(self) -> Tensor:
        """The latents (B, C, h, w) of the pictures."""
        return self.backbone.encode(from_ink(1 - self.ink) if self.pictures is None else self.pictures)


Method = Callable[[Batch], Iterator[Moment]]

SDEDIT_AMOUNT = 0.85


def text_to_image(batch: Batch) -> Iterator[Moment]:
    """The prompt alone: the floor."""
    return batch.walk()


def latent_guidance(predictor: LatentPredictor) -> Method:
    """LGP (Voynov et al. 2022) with the settings of the request."""

    def method(batch: Batch) -> Iterator[Moment]:
        guide = latent_guide(batch.request, batch.maps, batch.backbone, predictor)
        return batch.walk(guides=weakened([guide], batch.share))

    return method


def likeness(sketcher: Sketcher, drawing: Features) -> Method:
    """DiffSketching's sketch loss on the predicted picture, without training; settings as for LGP."""

    def method(batch: Batch) -> Iterator[Moment]:
        request = batch.request
        guide = sketch_guide(request, batch.maps, batch.backbone, sketcher, drawing)
        return batch.walk(guides=weakened([guide], batch.share))

    return method


def sdedit(amount: float = SDEDIT_AMOUNT) -> Method:
    """Image-to-image from the picture itself (SDEdit, Meng et al. 2022)."""

    def method(batch: Batch) -> Iterator[Moment]:
        source = Change(batch.clean, steps_of(amount, batch.request))
        return batch.walk(source=source)

    return method


def plug_and_play(settings: LayoutSettings, predictor: LatentPredictor | None = None) -> Method:
    """The layout of the picture by its features (Tumanyan et al. 2023); with a predictor, the lines by LGP as well."""
    if settings.source == "generated":
        raise UsageError(
            "A drawing was not generated: it has no latents of its own.",
            hint="Choose source=inverted or source=noised.",
            field="source",
        )

    def method(batch: Batch) -> Iterator[Moment]:
        mask = near_strokes(batch.ink, settings.near, batch.backbone) if settings.near else None
        borrowed = yield from borrow(settings, batch.request, batch.backbone, batch.clean, mask=mask)
        guides = [] if predictor is None else [latent_guide(batch.request, batch.maps, batch.backbone, predictor)]
        yield from batch.walk(guides=weakened(guides, batch.share), source=borrowed)

    return method


def controlnet(network: nn.Module, weight: float = 1.0, mode: int | None = None) -> Method:
    """A ControlNet of diffusers (Zhang et al. 2023), shown white ink on black; `mode` as in `with_controlnet`."""
    return _told(weight, lambda told, hint, scale: with_controlnet(told, network, hint, scale=scale, mode=mode))


def t2i_adapter(network: nn.Module, weight: float = 1.0) -> Method:
    """A diffusers T2IAdapter (Mou et al. 2023), shown white ink on black."""
    config: Any = network.config
    return _told(
        weight,
        lambda told, hint, scale: with_t2i_adapter(told, network, hint, scale=scale),
        channels=config.in_channels,
    )


def sketch_attention(attention: SketchAttention, weight: float = 1.0) -> Method:
    """DiffSketching's attention to the drawing (Wang et al. 2022)."""

    def method(batch: Batch) -> Iterator[Moment]:
        told = with_sketch_attention(batch.backbone, attention, batch.ink, scale=weight * batch.share)
        return replace(batch, backbone=told).walk()

    return method


def towards_class(method: Method, classifier: LatentClassifier) -> Method:
    """`method` with classifier guidance beside it (Dhariwal & Nichol 2021), each picture to what its prompt names."""

    def towards(batch: Batch) -> Iterator[Moment]:
        numbers = [find_class_in(prompt, classifier.config.classes) for prompt in batch.prompts]
        guide = class_guide(batch.request, numbers, classifier)
        return method(replace(batch, guides=[*batch.guides, guide]))

    return towards


def until_recognised(method: Method, recogniser: Recogniser) -> Method:
    """`method`, and pictures that do not show what their prompt names again, with less of it; the last moment alone has
    all of them."""

    def trying(batch: Batch) -> Iterator[Moment]:
        def walk(rows: Sequence[int], number: int) -> Iterator[Moment]:
            return method(batch.of(rows, share_of(number, recogniser.tries)))

        moment: Moment | None = None
        for event in walk_until_recognised(walk, batch.backbone.decode, batch.prompts, recogniser):
            if isinstance(event, Tried):
                assert moment is not None, "the first try comes before"
                yield moment._replace(latent=event.latent, clean=event.latent, evaluations=event.evaluations)
            else:
                moment = event.moment
                yield moment

    return trying


def _told(weight: float, wrap: Callable[[Backbone, Tensor, float], Backbone], *, channels: int = 3) -> Method:
    def method(batch: Batch) -> Iterator[Moment]:
        told = wrap(batch.backbone, batch.ink.expand(-1, channels, -1, -1), weight * batch.share)
        return replace(batch, backbone=told).walk()

    return method


PAPER = MappingProxyType(
    {
        "strength": "1.6",
        "stop": "0.5",
        "scale": "8",
        "blank": "1",
        "widen": "1",
        "every": "1",
        "even": "0",
        "handover": "1",
        "negative_time": "0",
    }
)

LAYOUT = tuple(LayoutSettings.model_fields)

# LGP draws the lines, so the features may give less: none of this was tuned (benchmarks/edits.py compares).
LGP_PNP: Mapping[str, Any] = MappingProxyType({**FOR_DRAWINGS, "source": "noised", "branches": "conditional"})

WALKING = ("negative", "steps", "scale", "negative_time", "solver")  # settings of the request that act in every method
CLASSIFYING = ("class_scale", "classifier")  # either brings classifier guidance into any method
STEERING = (*WALKING, *PULLING)
TRYING = ("tries", "sure", "recogniser")  # for methods that can act less

# Name -> what it takes besides WALKING and CLASSIFYING.
METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text": (),
        "lgp": ("predictor", *PULLING, *TRYING),
        "lgp-paper": ("predictor", *PULLING, *TRYING),
        "pnp": LAYOUT,
        "lgp-pnp": ("predictor", *LAYOUT, *PULLING, *TRYING),
        "sketch-loss": ("sketcher", "drawing", "strength", "stop", "every", *TRYING),
        "sketch-attention": ("path", "weight", *TRYING),
        "sdedit": ("amount",),
        "controlnet": ("path", "weight", "mode", *TRYING),
        "t2i-adapter": ("path", "weight", *TRYING),
    }
)


class Trained(NamedTuple):
    """A network, and what is on record about its training."""

    network: nn.Module
    training: Mapping[str, Any]  # training.json beside the network, or the report of a part; empty where it has none


class Built(NamedTuple):
    """A method, and the networks that it brings along."""

    method: Method
    networks: tuple[Trained, ...] = ()


def build_method(description: str, backbone: Backbone) -> Built:
    """The method that `description` names: `NAME` or `NAME:option=value,option=value`.

    Options are those of WALKING (`text:steps=20`), of CLASSIFYING (`lgp:class_scale=4`; `classifier` is a folder or
    file of `sketchguide component`) and those that METHODS lists, which act in that method: PULLING
    (`lgp:strength=3,stop=0.5`), `predictor` (shipped name, folder, hub id), `sketcher` and `drawing` (files of
    `sketchguide component`), `path` (for the peers a folder that diffusers' `from_pretrained` reads, for sketch
    attention one of `sketchguide component`, or its file), `weight`, `mode`, `amount`, TRYING (`lgp:tries=3,sure=0.7`;
    `recogniser` is a folder or file), and for Plug-and-Play the fields of LayoutSettings.
    Raises UsageError for anything else.
    """
    name, _, rest = description.partition(":")
    if name not in METHODS:
        raise UsageError(f"There is no method {name!r}.", hint=f"Choose from: {', '.join(METHODS)}.", field="method")
    taken = (*METHODS[name], *WALKING, *CLASSIFYING)
    options: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or key not in taken:
            raise UsageError(
                f"{part!r} in {description!r} is no setting of {name}.",
                hint=f"Write option=value, as steps=20. {name} takes {', '.join(taken)}.",
                field="method",
            )
        if not value and key != "negative":
            raise UsageError(
                f"{key!r} in {description!r} has no value.", hint=f"Write {key}=VALUE, or leave it out.", field="method"
            )
        if key in options:
            raise UsageError(f"{key!r} is given twice in {description!r}.", hint="Give it once.", field="method")
        options[key] = value
    classifying = any(key in options for key in CLASSIFYING)
    named = options.pop("classifier", None)
    recognising = options.pop("recogniser", None)
    settings = {key: options.pop(key) for key in (*STEERING, "class_scale", "tries", "sure") if key in options}
    if name == "lgp-paper":
        settings = {**PAPER, **settings}
    asked = Request.checked(prompt="", seed=0, **settings)
    levels_of(asked, backbone)  # tells of a solver that the model has not
    if asked.tries == 1 and (idle := "recogniser" if recognising else "sure" if "sure" in settings else ""):
        raise UsageError(
            f"{idle!r} in {description!r} changes nothing: there is one try.",
            hint=f"Add tries=3, or leave {idle} out.",
            field="method",
        )
    networks: list[Trained] = []
    match name:
        case "text":
            method: Method = text_to_image
        case "lgp" | "lgp-paper":
            chosen = options.get("predictor") or own_predictor(backbone, "ink" if name == "lgp" else "latent")
            predictor = load_predictor(chosen, backbone)
            if name == "lgp-paper" and predictor.config.reads != "latent":
                raise UsageError(
                    f"{chosen} reads {predictor.config.reads}; the paper's predictor reads latents.",
                    hint="Train one with `sketchguide train --reads latent`.",
                    field="method",
                )
            networks.append(Trained(predictor, _record(chosen)))
            method = latent_guidance(predictor)
        case "pnp":
            layout = LayoutSettings.checked(**{**FOR_DRAWINGS, **options})
            places_of(layout, backbone)
            method = plug_and_play(layout)
        case "lgp-pnp":
            chosen = options.pop("predictor", None) or own_predictor(backbone)
            predictor = load_predictor(chosen, backbone)
            networks.append(Trained(predictor, _record(chosen)))
            layout = LayoutSettings.checked(**{**LGP_PNP, **options})
            places_of(layout, backbone)
            method = plug_and_play(layout, predictor)
        case "sketch-loss":
            file = find_part(options.get("sketcher"), "sketcher", field="method", model=backbone.name)
            sketcher = Sketcher.load(file).to(backbone.device)
            seeing = find_features(options.get("drawing"), "drawing-classifier", field="method", model=backbone.name)
            drawing = load_features(seeing, device=backbone.device)
            networks += [Trained(sketcher, _report(file)), Trained(drawing.network, _report(Path(seeing)))]
            method = likeness(sketcher, drawing)
        case "sketch-attention":
            file = find_part(options.get("path"), "sketch-attention", field="method")
            attention = SketchAttention.load(file).to(backbone.device, backbone.dtype)
            networks.append(Trained(attention, _report(file)))
            method = sketch_attention(attention, _number("weight", options.get("weight", "1")))
        case "sdedit":
            amount = _number("amount", options.get("amount", str(SDEDIT_AMOUNT)))
            steps_of(amount, asked)
            method = sdedit(amount)
        case _:
            weight = _number("weight", options.get("weight", "1"))
            kind = CONTROLNETS.get(backbone.family, "ControlNetModel") if name == "controlnet" else "T2IAdapter"
            peer = _loaded(name, kind, options.get("path"), backbone)
            networks.append(Trained(peer, _record(options["path"])))
            if name == "controlnet":
                mode = _number("mode", options["mode"]) if "mode" in options else None
                method = controlnet(peer, weight, None if mode is None else int(mode))
            else:
                method = t2i_adapter(peer, weight)
    if classifying:
        file = find_part(named, "latent-classifier", field="classifier", model=backbone.name)
        classifier = LatentClassifier.load(file).to(backbone.device)
        classifier.check_fits(backbone)
        networks.append(Trained(classifier, _report(file)))
        method = towards_class(method, classifier)
    if asked.tries > 1:
        file = find_recogniser(recognising, backbone)
        classifier = load_classifier(file, device=backbone.device)
        networks.append(Trained(classifier, _report(file)))
        method = until_recognised(method, Recogniser(classifier, asked.tries, asked.sure))
    if not settings:
        return Built(method, tuple(networks))

    def with_settings(batch: Batch) -> Iterator[Moment]:
        return method(replace(batch, request=Request.checked(**{**batch.request.model_dump(), **settings})))

    return Built(with_settings, tuple(networks))


def _record(name: str) -> Mapping[str, Any]:
    """`training.json` in the folder called `name`, or in that of the shipped predictor of that name."""
    return _read(next((one.folder for one in shipped() if one.name == name), Path(name)) / "training.json")


def _report(part: Path) -> Mapping[str, Any]:
    """What `sketchguide component` says of a part, beside it."""
    return _read(part.with_name(f"{part.stem}-report.json"))


def _read(record: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise UsageError(f"{record} cannot be read or is damaged.", hint="Delete it.", field="method") from error
    return cast("dict[str, Any]", found)


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{name} is {text!r}; it must be a number.", field="method")
    return value


def _loaded(name: str, kind: str, path: str | None, backbone: Backbone) -> nn.Module:
    """What that class of diffusers loads from the folder `path`, for the method called `name`."""
    if not path or not is_file(Path(path) / "config.json"):
        needed = f"{name} needs a folder: {name}:path=FOLDER."
        raise ModelNotFoundError(
            f"{path} is no folder that a {kind} can be loaded from." if path else needed,
            hint="Give one that was made for this model; benchmarks/peers/train.py trains some for UNets.",
            field="method",
        )
    try:
        for file in Path(path).glob("*.safetensors"):
            read_weights(file, field="method")  # refuses damage, and values that are not finite
        network = getattr(diffusers, kind).from_pretrained(path, use_safetensors=True, dtype=backbone.dtype)
        return network.to(backbone.device)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        if isinstance(error, SketchguideError):
            raise
        raise WeightsError(
            f"{path} does not load as a {kind}: {reason_of(error)}",
            hint="Train it again, or get it again.",
            field="method",
        ) from error
