"""From a picture and a prompt to a picture: its layout is kept, what it shows becomes what the prompt says."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from sketchguide.arguments import backbone_for, carrying, named
from sketchguide.backbones.base import Backbone
from sketchguide.defaults import Polarity
from sketchguide.errors import UsageError, warn
from sketchguide.generation import pictures_of
from sketchguide.images import as_picture, from_ink, open_image, read_file, to_base64, to_images, to_tensor
from sketchguide.ink import PAPER_OF, looks_drawn
from sketchguide.pictures import Picture, carries_recipe, recall
from sketchguide.predictors import LatentPredictor
from sketchguide.request import FOR_DRAWINGS, Layout, LayoutSettings, Recipe, Request
from sketchguide.seeds import random_seed
from sketchguide.sizes import check_size, cut_off, fitting_size, warn_of_size
from sketchguide.sketch import Sketch, as_sketch, holds_strokes


def translate(
    image: Image.Image | Sketch | Picture | str | Path,
    prompt: str | Sequence[str],
    *,
    drawn: bool | None = None,
    polarity: Polarity = "auto",
    sketch: Sketch | str | Path | None = None,
    backbone: Backbone | None = None,
    predictor: LatentPredictor | str | Path | None = None,
    seed: int | None = None,
    **settings: Any,
) -> list[Picture]:
    """Make pictures of `prompt` with the layout of `image` by Plug-and-Play features (Tumanyan et al. 2023).

    `image` is a picture, a drawing, or a file of either; `drawn` says which, None looks, and of a picture of a drawing
    `polarity` says which is ink, as `Sketch.from_image` has it. Several prompts share one pass over the source; the
    pictures come prompt by prompt. With `sketch` they follow its lines too, by LGP.

    With `source="generated"` a Picture or a PNG that sketchguide wrote is shown by the latents that it was made by, in
    the same steps and with the same model, which are the defaults then.

    `settings` are the fields of `LayoutSettings` (`source`, `tau_f`, `tau_a`, `share`, `branches`, `near`, `decay`, …)
    and the other fields of `Request` (`steps`, `scale`, `count`, `size`, …). Without `size` the model's number of
    pixels is spread over the aspect of the picture; what then sticks out is cut off.

    Raises a SketchguideError; warns (SketchguideWarning) as `generate` does, of a blank picture, and where seeds
    change nothing.
    """
    prompts = [prompt] if isinstance(prompt, str) else _texts(prompt)
    request, backbone = request_of(
        image,
        prompts,
        drawn=drawn,
        polarity=polarity,
        sketch=sketch,
        backbone=backbone,
        predictor=predictor,
        seed=seed,
        **settings,
    )
    return pictures_of(request, prompts=prompts, backbone=backbone, predictor=predictor)


def request_of(
    image: Image.Image | Sketch | Picture | str | Path,
    prompts: Sequence[str],
    *,
    drawn: bool | None = None,
    polarity: Polarity = "auto",
    sketch: Sketch | str | Path | None = None,
    backbone: Backbone | None = None,
    predictor: LatentPredictor | str | Path | None = None,
    seed: int | None = None,
    **settings: Any,
) -> tuple[Request, Backbone]:
    """The request that `translate` carries out for each of the prompts, and the model for it: `backbone`, or the one
    that is named, loaded."""
    sketch = None if sketch is None else as_sketch(sketch)
    layout = {name: settings.pop(name) for name in LayoutSettings.model_fields if name in settings}
    values = carrying({"seed": random_seed() if seed is None else seed, **settings})
    if sketch is not None:
        values["sketch"] = sketch.to_json()
    _check(prompts, layout, values)
    values = named(values, backbone, predictor)
    if layout.get("source") == "generated":
        layout, values = as_made(image, layout, values)
    if isinstance(image, str | Path):
        source = open_source(image, drawn=drawn, polarity=polarity)
    elif isinstance(image, Picture):
        source = taken(image.image, drawn=bool(drawn), polarity=polarity)
    else:
        source = image if isinstance(image, Sketch) else taken(image, drawn=drawn, polarity=polarity)
    backbone = backbone or backbone_for(values, predictor=predictor)
    values["model"] = backbone.name
    return prepare(source, prompts[0], backbone, layout=layout, **values), backbone


def _texts(prompts: object) -> list[str]:
    if prompts is None or (isinstance(prompts, Sequence) and all(isinstance(one, str) for one in prompts)):
        return list(prompts or ())
    raise UsageError(f"prompt is {str(prompts)[:60]!r}; it must be a text, or a list of texts.", field="prompt")


def _check(prompts: Sequence[str], layout: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """UsageError for what needs neither the model nor the picture to be known as wrong."""
    if not prompts:
        raise UsageError("There is no prompt.", hint="Say what the picture is to show.", field="prompt")
    LayoutSettings.checked(**layout)
    for prompt in prompts:
        Request.checked(**{"seed": 0, **values, "prompt": prompt})


def as_made(
    image: Image.Image | Sketch | Picture | str | Path, settings: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of LayoutSettings or EditSettings, and of Request, with what made `image` where they name nothing."""
    if isinstance(image, Image.Image | Sketch):
        raise UsageError(
            "A generated source is a picture that sketchguide made.",
            hint="Give its PNG file, or the Picture.",
            field="source",
        )
    recipe: Recipe = image.recipe if isinstance(image, Picture) else recall(image)
    made = recipe.request
    same = {name: getattr(made, name) for name in ("model", "dtype", "lora", "lora_scale", "steps", "solver", "size")}
    return {"source_prompt": made.prompt, **settings, "made": recipe}, {**same, **values}


def open_source(path: str | Path, *, drawn: bool | None = None, polarity: Polarity = "auto") -> Image.Image | Sketch:
    """A picture, or the drawing that the file holds: SVG and ndjson do; a picture where `drawn` says so, None looks,
    but not at what sketchguide made.

    `polarity` is that of `Sketch.from_image`.
    """
    data = read_file(path)
    if holds_strokes(data):
        if drawn is False:
            raise UsageError(f"{path} holds strokes, no picture.", hint="Take it as a sketch.", field="drawn")
        return Sketch.open(path, polarity=polarity)
    if drawn is None and carries_recipe(data):
        drawn = False  # what sketchguide made is a picture, whatever it looks like
    if drawn is False:
        return open_image(path, paper="white")
    image = open_image(path, paper=PAPER_OF.get(polarity))
    if drawn or looks_drawn(image):
        return Sketch.from_image(image, polarity=polarity)
    with warnings.catch_warnings():  # what there is to warn of has been
        warnings.simplefilter("ignore")
        return open_image(path, paper="white")


def taken(image: Image.Image, *, drawn: bool | None = None, polarity: Polarity = "auto") -> Image.Image | Sketch:
    """`image`, as the drawing that it is: where `drawn` says so, None looks. `polarity` as in `open_source`."""
    guessed = as_picture(image)
    if drawn or (drawn is None and looks_drawn(guessed)):
        return Sketch.from_image(image, polarity=polarity)
    return as_picture(image, paper="white")


def prepare(
    source: Image.Image | Sketch, prompt: str, backbone: Backbone, *, layout: Mapping[str, Any], **values: Any
) -> Request:
    """The request for a picture of `prompt` with the layout of `source`, which it carries in the size it works at.

    `layout` has fields of LayoutSettings, `values` other fields of Request. Drawings have defaults of their own.
    """
    drawn = isinstance(source, Sketch)
    fitted = fit(source, backbone, size=values.pop("size", None))
    if not drawn and values.get("sketch") is not None:
        laid = laid_on(source, Sketch.from_json(values["sketch"]))
        values["sketch"] = laid.on_canvas(fitted.size[0] / fitted.size[1], cut=True).to_json()
    kept = Layout.checked(picture=fitted.picture, drawn=drawn, **{**(FOR_DRAWINGS if drawn else {}), **layout})
    return Request.checked(prompt=prompt, layout=kept, size=fitted.size, **values)


class Fitted(NamedTuple):
    """A picture as a request carries it."""

    picture: str  # PNG in base64
    size: tuple[int, int]


def fit(source: Image.Image | Sketch, backbone: Backbone, *, size: tuple[int, int] | None = None) -> Fitted:
    """`source` in a size that the model can make: `size`, else near its own aspect. Warns of what that changes."""
    drawn = isinstance(source, Sketch)
    width, height = (source.aspect, 1.0) if drawn else source.size
    size = check_size(size or fitting_size(width / height, backbone), backbone)
    if drawn:
        ink = torch.tensor(source.rasterize(size=size).ink)
        picture = from_ink(1 - ink[None, None])
    else:
        picture = to_tensor([source], size=size)
        if cut := cut_off(source.size, size):
            where = "the sides" if width * size[1] > height * size[0] else "top and bottom"
            warn(f"{cut:.0%} of the picture ({width} × {height}) is cut off at {where} to make {size[0]} × {size[1]}.")
    warn_of_size(size, backbone)
    (image,) = to_images(picture)
    return Fitted(to_base64(image), size)


def laid_on(image: Image.Image, sketch: Sketch) -> Sketch:
    """The drawing laid on the middle of a picture, on a canvas of its aspect. Warns where that is not the drawing's."""
    aspect = image.width / image.height
    if abs(math.log(sketch.aspect / aspect)) > 0.01:
        message = f"The drawing's canvas is {sketch.aspect:.2f} times as wide as high, the picture {aspect:.2f}"
        warn(f"{message}: it is laid on the middle of it.")
    return sketch.on_canvas(aspect)
