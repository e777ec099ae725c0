"""What callers give beside the settings: a model, a predictor, pictures; as fields of a request, or held to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from sketchguide.backbones.base import Backbone
from sketchguide.defaults import DType
from sketchguide.errors import UsageError
from sketchguide.fingerprints import dtype_of
from sketchguide.images import carried
from sketchguide.loading import check_predictor, load_backbone
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.sketch import Sketch


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
    if backbone is not None and not hasattr(backbone, "predict"):
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
    _check_predictor(predictor)
    name = predictor if predictor is None or isinstance(predictor, str | Path) else predictor.source
    if name is not None:
        names["predictor"] = str(name)
    return {**values, **names}


def _check_predictor(given: object) -> None:
    if not isinstance(given, LatentPredictor | str | Path | None):
        raise UsageError(
            f"predictor is {str(given)[:60]!r}; it must be a loaded predictor, or the name of one.",
            hint="load_predictor(name, backbone) gives one.",
            field="predictor",
        )


def backbone_for(values: Mapping[str, Any], *sketches: Sketch | None, predictor: object = None) -> Backbone:
    """The model that these fields of a Request name, as `backbone_of` has it."""
    return backbone_of(Request.checked(**{**values, "prompt": "", "seed": 0}), *sketches, predictor=predictor)


def backbone_of(request: Request, *sketches: Sketch | None, predictor: object = None) -> Backbone:
    """The model that `request` names. Raises as `load_predictor`, before the model is fetched, where the drawing of the
    request or one of the `sketches` is to pull by a predictor that is not loaded yet.
    """
    own = None if request.sketch is None else Sketch.from_json(request.sketch)
    pulled = any(sketch is not None and not sketch.blank for sketch in (own, *sketches))
    if pulled and request.needs_predictor and not isinstance(predictor, LatentPredictor):
        check_predictor(request.predictor, request.model)
    return load_backbone(request.model, device=request.device, dtype=request.dtype)


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
