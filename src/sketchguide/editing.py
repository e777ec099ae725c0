"""Changing a picture by a drawing on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sketchguide.backbones.base import Backbone
from sketchguide.generation import Picture, run
from sketchguide.images import open_image
from sketchguide.loading import load_backbone
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Edit, EditSettings, Request
from sketchguide.seeds import random_seed
from sketchguide.sketch import Sketch
from sketchguide.translation import fit


def edit(
    image: Image.Image | str | Path,
    prompt: str,
    *,
    sketch: Sketch | str | Path,
    backbone: Backbone | None = None,
    predictor: LatentPredictor | None = None,
    seed: int | None = None,
    **settings: Any,
) -> list[Picture]:
    """Change `image` so that it follows `sketch`, drawn on a canvas of its aspect, and shows `prompt` there.

    What is inside the drawing, and near it, is walked again from its own latents; the rest keeps its pixels. The lines
    pull by LGP, and by sketch attention where `attention` names some; `strength=0` leaves it to that alone.

    `settings` are the fields of `EditSettings` (`amount`, `margin`, `source`, `source_prompt`) and the other fields of
    `Request` (`strength`, `attention`, `attention_scale`, `scale`, `steps`, `count`, …). Sizes are as in `translate`.

    Raises a SketchguideError; warns (SketchguideWarning) as `translate` does.
    """
    opened = open_image(image) if isinstance(image, str | Path) else image
    sketch = sketch if isinstance(sketch, Sketch) else Sketch.open(sketch)
    values: dict[str, Any] = {"seed": random_seed() if seed is None else seed, **settings, "sketch": sketch.to_json()}
    changes = {name: values.pop(name) for name in EditSettings.model_fields if name in values}
    check(prompt, changes, values)
    if backbone is None:
        known: dict[str, Any] = {name: values[name] for name in ("device", "dtype") if name in values}
        backbone = load_backbone(values.get("model", Request.model_fields["model"].default), **known)
    values["model"] = backbone.name
    request = prepare(opened, prompt, backbone, changes=changes, **values)
    return [event for event in run(request, backbone=backbone, predictor=predictor) if isinstance(event, Picture)]


def check(prompt: str, changes: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """UsageError for what needs neither the model nor the picture to be known as wrong."""
    EditSettings.checked(**changes)
    Request.checked(**{"seed": 0, **values, "prompt": prompt})


def prepare(
    image: Image.Image, prompt: str, backbone: Backbone, *, changes: Mapping[str, Any], **values: Any
) -> Request:
    """The request for `image` changed to show `prompt`, which it carries in the size it works at.

    `changes` has fields of EditSettings, `values` other fields of Request, the sketch among them.
    """
    fitted = fit(image, backbone, size=values.pop("size", None))
    kept = Edit.checked(picture=fitted.picture, **changes)
    return Request.checked(prompt=prompt, edit=kept, size=fitted.size, **values)
