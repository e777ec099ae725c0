"""Changing a picture by a drawing on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sketchguide.backbones.base import Backbone
from sketchguide.errors import warn
from sketchguide.generation import Picture, carrying, named, pictures_of
from sketchguide.images import as_picture
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Edit, EditSettings, Request
from sketchguide.seeds import random_seed
from sketchguide.sketch import Sketch, as_sketch
from sketchguide.translation import as_made, backbone_for, fit, laid_on


def edit(
    image: Image.Image | Picture | str | Path,
    prompt: str,
    *,
    sketch: Sketch | str | Path,
    backbone: Backbone | None = None,
    predictor: LatentPredictor | str | Path | None = None,
    seed: int | None = None,
    **settings: Any,
) -> list[Picture]:
    """Change `image` so that it follows `sketch`, drawn on a canvas of its aspect, and shows `prompt` there.

    What is inside the drawing, and near it, is walked again from its own latents; the rest keeps its pixels. The lines
    pull by LGP, and by sketch attention where `attention` names some; `strength=0` leaves it to that alone.

    With `source="generated"` a Picture or a PNG that sketchguide wrote keeps the latents that it was made by.

    `settings` are the fields of `EditSettings` (`amount`, `margin`, `source`, `source_prompt`) and the other fields of
    `Request` (`strength`, `attention`, `attention_scale`, `scale`, `steps`, `count`, …). Sizes are as in `translate`.

    Raises a SketchguideError; warns (SketchguideWarning) as `translate` does, and of a picture that comes back smaller.
    """
    sketch = as_sketch(sketch)
    values = carrying({"seed": random_seed() if seed is None else seed, **settings})
    changes = {name: values.pop(name) for name in EditSettings.model_fields if name in values}
    check(prompt, changes, values)
    values = named(values, backbone, predictor)
    if changes.get("source") == "generated":
        changes, values = as_made(image, changes, values)
    opened = as_picture(image.image if isinstance(image, Picture) else image, paper="white")
    backbone = backbone or backbone_for(values)
    values["model"] = backbone.name
    request = prepare(opened, prompt, sketch, backbone, changes=changes, **values)
    return pictures_of(request, backbone=backbone, predictor=predictor)


def check(prompt: str, changes: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """UsageError for what needs neither the model nor the picture to be known as wrong."""
    EditSettings.checked(**changes)
    Request.checked(**{"seed": 0, **values, "prompt": prompt})


def prepare(
    image: Image.Image,
    prompt: str,
    sketch: Sketch,
    backbone: Backbone,
    *,
    changes: Mapping[str, Any],
    **values: Any,
) -> Request:
    """The request for `image` changed to show `prompt`, which it carries in the size it works at.

    `changes` has fields of EditSettings, `values` other fields of Request. The sketch is laid on the picture, then cut
    to that size as the picture is.
    """
    fitted = fit(image, backbone, size=values.pop("size", None))
    laid = laid_on(image, sketch, fitted.size)
    if max(image.size) > max(fitted.size):
        asked, made = ("{} × {}".format(*size) for size in (image.size, fitted.size))
        warn(f"The picture is {asked}; it is changed, and given back, at the {made} that {backbone.name} works in.")
    kept = Edit.checked(picture=fitted.picture, **changes)
    return Request.checked(prompt=prompt, sketch=laid.to_json(), edit=kept, size=fitted.size, **values)
