"""Methods by the descriptions that people write: `lgp`, `lgp:strength=3,stop=0.5`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from sketchguide.adapters import Adapter, load_adapter
from sketchguide.attention import SketchAttention
from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import LatentClassifier, load_classifier
from sketchguide.defaults import PULLING
from sketchguide.errors import ModelNotFoundError, UsageError
from sketchguide.loading import load_predictor
from sketchguide.methods import (
    SDEDIT_AMOUNT,
    Batch,
    Built,
    Method,
    Trained,
    controlnet,
    latent_guidance,
    likeness,
    plug_and_play,
    sdedit,
    sketch_attention,
    t2i_adapter,
    text_to_image,
    towards_class,
    until_recognised,
)
from sketchguide.perception import load_features
from sketchguide.predictors import LatentPredictor
from sketchguide.recognition import Recogniser, find_recogniser
from sketchguide.request import FOR_DRAWINGS, LayoutSettings, Request
from sketchguide.sampling import Moment
from sketchguide.schedule import levels_of, steps_of
from sketchguide.shipped import find_features, find_part, own_predictor, shipped
from sketchguide.sketchers import Sketcher
from sketchguide.sources import places_of

PAPER: Mapping[str, str] = MappingProxyType(
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

# LGP draws the lines, so the features may give less: none of this was tuned (benchmarks/edits.py compares).
LGP_PNP: Mapping[str, Any] = MappingProxyType({**FOR_DRAWINGS, "source": "noised", "branches": "conditional"})

LAYOUT = tuple(LayoutSettings.model_fields)
WALKING = ("negative", "steps", "scale", "negative_time", "solver")  # settings of the request that act in every method
CLASSIFYING = ("class_scale", "classifier")  # either brings classifier guidance into any method
STEERING = (*WALKING, *PULLING)
TRYING = ("tries", "sure", "recogniser")  # for methods that can act less
OF_REQUESTS = (*STEERING, "class_scale", "tries", "sure")


class Asked(NamedTuple):
    """What a description asks for."""

    name: str
    options: Mapping[str, str]  # those that are no settings of a request
    backbone: Backbone
    request: Request


def _text(_: Asked) -> Built:
    return Built(text_to_image)


def _lgp(asked: Asked) -> Built:
    loaded, record = _predictor(asked, asked.options.get("predictor") or own_predictor(asked.backbone.name))
    return Built(latent_guidance(loaded), (record,))


def _lgp_paper(asked: Asked) -> Built:
    chosen = asked.options.get("predictor") or own_predictor(asked.backbone.name, "latent")
    loaded, record = _predictor(asked, chosen)
    if loaded.config.reads != "latent":
        raise UsageError(
            f"{chosen} reads {loaded.config.reads}; the paper's predictor reads latents.",
            hint="Train one with `sketchguide train --reads latent`.",
            field="method",
        )
    return Built(latent_guidance(loaded), (record,))


def _pnp(asked: Asked) -> Built:
    return Built(plug_and_play(_layout(asked, FOR_DRAWINGS)))


def _lgp_pnp(asked: Asked) -> Built:
    loaded, record = _predictor(asked, asked.options.get("predictor") or own_predictor(asked.backbone.name))
    return Built(plug_and_play(_layout(asked, LGP_PNP), loaded), (record,))


def _sketch_loss(asked: Asked) -> Built:
    device, model = asked.backbone.device, asked.backbone.name
    file = find_part(asked.options.get("sketcher"), "sketcher", field="method", model=model)
    sketcher = Sketcher.load(file).to(device)
    seeing = find_features(asked.options.get("drawing"), "drawing-classifier", field="method", model=model)
    drawing = load_features(seeing, device=device)
    networks = (Trained(sketcher, _report(file)), Trained(drawing.network, _report(Path(seeing))))
    return Built(likeness(sketcher, drawing), networks)


def _sketch_attention(asked: Asked) -> Built:
    file = find_part(asked.options.get("path"), "sketch-attention", field="method")
    attention = SketchAttention.load(file).to(asked.backbone.device, asked.backbone.dtype)
    return Built(sketch_attention(attention, _number(asked, "weight", 1)), (Trained(attention, _report(file)),))


def _sdedit(asked: Asked) -> Built:
    amount = _number(asked, "amount", SDEDIT_AMOUNT)
    steps_of(amount, asked.request)  # refuses one that is out of range
    return Built(sdedit(amount))


def _controlnet(asked: Asked) -> Built:
    weight = _number(asked, "weight", 1)
    peer = _peer(asked, "controlnet")
    mode = int(_number(asked, "mode", 0)) if "mode" in asked.options else None
    return Built(controlnet(peer.network, weight, mode), (peer,))


def _t2i_adapter(asked: Asked) -> Built:
    weight = _number(asked, "weight", 1)
    peer = _peer(asked, "t2i_adapter")
    return Built(t2i_adapter(peer.network, weight), (peer,))


class Kind(NamedTuple):
    """The methods of one name."""

    build: Callable[[Asked], Built]
    takes: tuple[str, ...] = ()  # besides WALKING and CLASSIFYING
    settings: Mapping[str, str] = MappingProxyType({})  # of the request, where they are not its defaults


METHODS: Mapping[str, Kind] = MappingProxyType(
    {
        "text": Kind(_text),
        "lgp": Kind(_lgp, ("predictor", *PULLING, *TRYING)),
        "lgp-paper": Kind(_lgp_paper, ("predictor", *PULLING, *TRYING), PAPER),
        "pnp": Kind(_pnp, LAYOUT),
        "lgp-pnp": Kind(_lgp_pnp, ("predictor", *LAYOUT, *PULLING, *TRYING)),
        "sketch-loss": Kind(_sketch_loss, ("sketcher", "drawing", "strength", "stop", "every", *TRYING)),
        "sketch-attention": Kind(_sketch_attention, ("path", "weight", *TRYING)),
        "sdedit": Kind(_sdedit, ("amount",)),
        "controlnet": Kind(_controlnet, ("path", "weight", "mode", *TRYING)),
        "t2i-adapter": Kind(_t2i_adapter, ("path", "weight", *TRYING)),
    }
)


def build_method(description: str, backbone: Backbone) -> Built:
    """The method that `description` names: `NAME` or `NAME:option=value,option=value`.

    Options are those of WALKING (`text:steps=20`), of CLASSIFYING (`lgp:class_scale=4`; `classifier` is a folder or
    file of `sketchguide component`) and those that METHODS lists, which act in that method: PULLING
    (`lgp:strength=3,stop=0.5`), `predictor` (shipped name, folder, hub id), `sketcher` and `drawing` (files of
    `sketchguide component`), `path` (for the peers a folder or hub id, as diffusers' `from_pretrained` reads them; for
    sketch attention a folder of `sketchguide component`, or its file), `weight`, `mode`, `amount`, TRYING
    (`lgp:tries=3,sure=0.7`; `recogniser` is a folder or file), and for Plug-and-Play the fields of LayoutSettings.
    Raises UsageError for anything else.
    """
    name, options = _parsed(description)
    kind = METHODS[name]
    settings = {**kind.settings, **{key: options[key] for key in OF_REQUESTS if key in options}}
    own = {key: value for key, value in options.items() if key not in OF_REQUESTS}
    asked = Asked(name, own, backbone, Request.checked(prompt="", seed=0, **settings))
    levels_of(asked.request, backbone)  # tells of a solver that the model has not
    if asked.request.tries == 1 and (idle := next((key for key in ("recogniser", "sure") if key in options), None)):
        raise UsageError(
            f"{idle!r} in {description!r} changes nothing: there is one try.",
            hint=f"Add tries=3, or leave {idle} out.",
            field="method",
        )
    built = kind.build(asked)
    if any(key in options for key in CLASSIFYING):
        file = find_part(own.get("classifier"), "latent-classifier", field="classifier", model=backbone.name)
        classifier = LatentClassifier.load(file).to(backbone.device)
        classifier.check_fits(backbone)
        built = built.within(lambda method: towards_class(method, classifier), Trained(classifier, _report(file)))
    if asked.request.tries > 1:
        file = find_recogniser(own.get("recogniser"), backbone)
        recogniser = Recogniser(load_classifier(file, device=backbone.device), asked.request.tries, asked.request.sure)
        record = Trained(recogniser.classifier, _report(file))
        until = asked.request.stop if "stop" in kind.takes else 1.0
        built = built.within(lambda method: until_recognised(method, recogniser, until=until), record)
    return built.within(lambda method: _with_settings(method, settings)) if settings else built


def _parsed(description: str) -> tuple[str, dict[str, str]]:
    """The name of a method, and the options that it is given; UsageError for what it does not take."""
    name, _, rest = description.partition(":")
    if name not in METHODS:
        raise UsageError(f"There is no method {name!r}.", hint=f"Choose from: {', '.join(METHODS)}.", field="method")
    taken = (*METHODS[name].takes, *WALKING, *CLASSIFYING)
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
    return name, options


def _with_settings(method: Method, settings: Mapping[str, str]) -> Method:
    def with_settings(batch: Batch) -> Iterator[Moment]:
        return method(replace(batch, request=Request.checked(**{**batch.request.model_dump(), **settings})))

    return with_settings


def _predictor(asked: Asked, chosen: str) -> tuple[LatentPredictor, Trained]:
    """The predictor called `chosen`, also with its record."""
    loaded = load_predictor(chosen, asked.backbone)
    folder = next((one.folder for one in shipped() if one.name == chosen), Path(chosen))
    return loaded, Trained(loaded, _read(folder / "training.json"))


def _layout(asked: Asked, usual: Mapping[str, Any]) -> LayoutSettings:
    """The settings of Plug-and-Play: those that are asked for, else the `usual` ones."""
    given = {key: value for key, value in asked.options.items() if key in LAYOUT}
    layout = LayoutSettings.checked(**{**usual, **given})
    places_of(layout, asked.backbone)  # refuses taps that the model has not
    return layout


def _peer(asked: Asked, adapter: Adapter) -> Trained:
    """What `path` names, with its record."""
    path = asked.options.get("path")
    if not path:
        raise ModelNotFoundError(
            f"{asked.name} needs a folder: {asked.name}:path=FOLDER.",
            hint="benchmarks/peers/train.py trains some for UNets; a hub id goes as well.",
            field="method",
        )
    return Trained(load_adapter(adapter, path, asked.backbone, field="method"), _read(Path(path) / "training.json"))


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


def _number(asked: Asked, name: str, usual: float) -> float:
    """The number that the option `name` is given, else the `usual` one."""
    text = asked.options.get(name, str(usual))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{name} is {text!r}; it must be a number.", field="method")
    return value
