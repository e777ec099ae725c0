"""Changing a picture by a drawing on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sketchguide.arguments import backbone_for, carrying, named
from sketchguide.backbones.base import Backbone
from sketchguide.errors import UsageError, warn
from sketchguide.generation import pictures_of
from sketchguide.images import as_picture, carried, to_base64
from sketchguide.overlays import region_changed, seen_aspect, seen_region
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Edit, EditSettings, Request
from sketchguide.seeds import random_seed
from sketchguide.sizes import check_size, cut_off, fitting_size, warn_of_size
from sketchguide.sketch import Sketch, as_sketch
from sketchguide.starting import mask_of
from sketchguide.translation import as_made, laid_on

MASK_SIDE = 2048  # pixels of the longer side of a mask that a request carries
COARSE = 2.0  # times that what changes may be enlarged without a warning


def edit(
    image: Image.Image | Picture | str | Path,
    prompt: str,
    *,
    sketch: Sketch | str | Path | None = None,
    mask: Image.Image | str | Path | None = None,
    backbone: Backbone | None = None,
    predictor: LatentPredictor | str | Path | None = None,
    seed: int | None = None,
    **settings: Any,
) -> list[Picture]:
    """Change `image` so that it follows `sketch`, drawn on a canvas of its aspect, and shows `prompt` there.

    What is inside the drawing, and near it, is walked again from its own latents; the rest keeps its pixels. The lines
    pull by LGP, and by sketch attention where `attention` names some; `strength=0` leaves it to that alone.

    With `mask`, a picture of the aspect of `image` or its file, what is white in it changes instead, and there need be
    no sketch. Neither need there be one with `margin=1`, which changes everything: image-to-image by the prompt alone.

    The pictures have the size of `image`, upright, in RGB. The model works at `size` (width, height), by default its
    own number of pixels in the picture's aspect, and what it changes is scaled to the picture's pixels. With
    `padding_mask_crop=32` it sees a crop instead, what changes with 32 pixels around it, so that a small part of a
    large picture is drawn with all of the model's pixels (the parameter of diffusers' inpainting pipelines).

    With `source="generated"` a Picture or a PNG that sketchguide wrote keeps the latents that it was made by.

    `settings` are the fields of `EditSettings` (`amount`, `margin`, `source`, `source_prompt`, `padding_mask_crop`) and
    the other fields of `Request` (`strength`, `attention`, `attention_scale`, `scale`, `steps`, `count`, `size`, …).

    Raises a SketchguideError; warns (SketchguideWarning) as `generate` does, where what would change does not fit the
    size, and where it is drawn at less than half the picture's resolution.
    """
    request, backbone = request_of(
        image, prompt, sketch=sketch, mask=mask, backbone=backbone, predictor=predictor, seed=seed, **settings
    )
    return pictures_of(request, backbone=backbone, predictor=predictor)


def request_of(
    image: Image.Image | Picture | str | Path,
    prompt: str,
    *,
    sketch: Sketch | str | Path | None = None,
    mask: Image.Image | str | Path | None = None,
    backbone: Backbone | None = None,
    predictor: LatentPredictor | str | Path | None = None,
    seed: int | None = None,
    **settings: Any,
) -> tuple[Request, Backbone]:
    """The request that `edit` carries out, and the model for it: `backbone`, or the one that is named, loaded."""
    sketch = None if sketch is None else as_sketch(sketch)
    values = carrying({"seed": random_seed() if seed is None else seed, **settings})
    changes = {name: values.pop(name) for name in EditSettings.model_fields if name in values}
    if mask is not None:
        changes["mask"] = carried(mask, field="mask", side=MASK_SIDE)
    _check(prompt, changes, values, drawn=sketch is not None)
    values = named(values, backbone, predictor)
    if changes.get("source") == "generated":
        changes, values = as_made(image, changes, values)
    opened = as_picture(image.image if isinstance(image, Picture) else image, paper="white")
    backbone = backbone or backbone_for(values, sketch, predictor=predictor)
    values["model"] = backbone.name
    return _prepared(opened, prompt, sketch, backbone, changes=changes, **values), backbone


def _check(prompt: str, changes: Mapping[str, Any], values: Mapping[str, Any], *, drawn: bool) -> None:
    """UsageError for what needs neither the model nor the picture to be known as wrong; `drawn`: there is a sketch."""
    asked = EditSettings.checked(**changes)
    if not drawn and asked.mask is None and asked.margin < 1:
        raise UsageError(
            "Nothing says what is to change.",
            hint="Give a sketch, a mask or both; a margin of 1 changes the whole picture (image-to-image).",
            field="sketch",
        )
    Request.checked(**{"seed": 0, **values, "prompt": prompt})


def _prepared(
    image: Image.Image,
    prompt: str,
    sketch: Sketch | None,
    backbone: Backbone,
    *,
    changes: Mapping[str, Any],
    **values: Any,
) -> Request:
    """The request for `image` changed to show `prompt`, which it carries in its own size; the sketch is laid on it.

    `changes` has fields of EditSettings, `values` other fields of Request, of which `size` is what the model works at.
    Warns where that leaves something out, or is much coarser than the picture.
    """
    size, laid = values.pop("size", None), None if sketch is None else laid_on(image, sketch)
    kept = Edit.checked(picture=to_base64(image), **changes)
    if (mask := mask_of(kept)) is not None:
        _check_mask(mask, image)
        if "margin" in changes:
            warn("margin changes nothing: the mask says what changes.")
    padding = kept.padding_mask_crop
    changed = region_changed(mask, laid, image.size, kept.margin)
    aspect = seen_aspect(changed, image.size, own=backbone.default_size, padding=padding)
    size = check_size(size or fitting_size(aspect, backbone), backbone)
    warn_of_size(size, backbone)
    seen, made = seen_region(changed, image.size, working=size, padding=padding), "{} × {}".format(*size)
    if (outside := changed.outside(seen)) > 0.01:
        message = f"{outside:.0%} of what would change lies outside the part of the picture that makes {made}"
        warn(f"{message}: it stays as it was.")
    if (times := seen.width / size[0]) >= COARSE:
        cropping = " With padding_mask_crop it sees only what changes, and draws it finer."
        finer = "" if padding is not None or kept.margin >= 1 else cropping
        warn(f"{backbone.name} works at {made}: what changes is drawn in that and enlarged {times:.1f} times.{finer}")
    drawing = None if laid is None else laid.to_json()
    return Request.checked(prompt=prompt, sketch=drawing, edit=kept, size=size, **values)


def _check_mask(mask: Image.Image, image: Image.Image) -> None:
    """UsageError where it has not the aspect of the picture."""
    if cut_off(mask.size, image.size) > 0.02:
        raise UsageError(
            f"The mask is {mask.width} × {mask.height}, the picture {image.width} × {image.height}.",
            hint="Save it in the size of the picture, or in its shape.",
            field="mask",
        )
