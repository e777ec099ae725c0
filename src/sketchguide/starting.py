"""What a request starts from: the picture that it carries, made ready for its walks."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sketchguide.areas import blending, drawn_area, near_strokes
from sketchguide.backbones.base import Backbone
from sketchguide.errors import UsageError, warn
from sketchguide.fingerprints import dtype_of, fingerprint, fingerprint_of_model
from sketchguide.guidance import at_try, controls_of
from sketchguide.images import from_base64, to_tensor
from sketchguide.inversion import Trajectory
from sketchguide.loading import load_predictor
from sketchguide.overlays import Overlay, masked_area, region_changed, seen_region
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Edit, Recipe, Request
from sketchguide.sampling import Begun, Moment
from sketchguide.schedule import levels_of, solver_name, steps_walked
from sketchguide.seeds import generators
from sketchguide.sketch import Sketch, SpatialMap
from sketchguide.sources import Borrowed, Change, borrow, change
from sketchguide.walking import first_latent, walk

_BLANK = 0.05  # the most ink near which nothing is borrowed


def picture_to_start_from(request: Request, size: tuple[int, int]) -> Image.Image | None:
    """The one that `request` carries; UsageError where a layout's is not of the `size` (width, height) to make."""
    given = request.origin
    if given is None:
        return None
    image = from_base64(given.picture, field="edit" if request.layout is None else "layout")
    if request.layout is not None and image.size != size:
        raise UsageError(
            "size is {}x{}, but the picture to start from is carried at {}x{}.".format(*size, *image.size),
            hint="Leave the size out, or start from the picture's own file again.",
            field="size",
        )
    return image


def steps_to_find(request: Request) -> int:
    """How many steps the walk takes that finds the latents of what `request` starts from."""
    given = request.origin
    if given is None or given.source == "noised":
        return 0
    return steps_walked(request) if given.made is None else given.made.request.steps


class Start(NamedTuple):
    """What a request starts from, at the size that the model works at."""

    picture: Tensor | None  # (1, 3, H, W)
    drawing: SpatialMap | None
    overlay: Overlay | None  # of an edit


def laid_out(
    request: Request, backbone: Backbone, image: Image.Image | None, sketch: Sketch | None, size: tuple[int, int]
) -> Start:
    """`image` and `sketch` at the `size` (width, height) that the model works at; of an edit the part that it sees.

    Raises UsageError for an edit by a blank drawing, or a mask of which the model sees nothing.
    """
    if request.edit is None or image is None:
        picture = None if image is None else to_tensor([image])
        return Start(picture, None if sketch is None else sketch.rasterize(size=size), None)
    sketch = None if sketch is None else sketch.on_canvas(image.width / image.height)
    mask = mask_of(request.edit)
    changed = region_changed(mask, sketch, image.size, request.edit.margin)
    region = seen_region(changed, image.size, working=size, padding=request.edit.padding_mask_crop)
    drawing = None if sketch is None else sketch.cropped(region.within(image.size)).rasterize(size=size)
    if drawing is not None and drawing.blank and sketch is not None and not sketch.blank:
        warn("Nothing of the drawing lies in what the model sees of the picture: no line is followed.")
    if mask is not None:
        area = masked_area(mask, region, image.size, size=size)
        if drawing is not None and not drawing.blank and float((torch.tensor(drawing.ink) * area[0, 0]).max()) < _BLANK:
            warn("Nothing of the drawing lies in what the mask changes: it is pulled to blank paper there.")
    else:
        side = max(image.size) * size[0] / region.width
        ink = torch.zeros(1, 1, *size[::-1]) if drawing is None else torch.tensor(drawing.ink)[None, None]
        area = drawn_area(ink, request.edit.margin, side=side)
    seen = to_tensor([image.resize(size, Image.Resampling.LANCZOS, box=region)])
    overlay = Overlay(image, region, seen, area, blending(area, backbone))
    if mask is not None and (most := overlay.most) < 0.5:
        what = "changes hardly" if most else "does not change"
        warn(
            f"What is white in the mask is thinner than the model sees, and {what}: widen it, or show it a crop with "
            "padding_mask_crop."
        )
    return Start(seen, drawing, overlay)


def mask_of(edit: Edit) -> Image.Image | None:
    return None if edit.mask is None else from_base64(edit.mask, field="mask")


def source_of(
    request: Request, backbone: Backbone, start: Start, predictor: LatentPredictor | None, *, keep: bool
) -> Iterator[Moment | Borrowed | Change]:
    """What walks take from the picture of `start`, which comes last, after the moments of the walk that finds its
    latents; nothing where there is no picture. `keep` as in PlugAndPlay.

    Raises UsageError where the picture was made by another model, at other levels or in another size than `request`
    has, and where borrowing near strokes finds none; TapError for features that are not there. Warns of a picture that
    was painted over since.
    """
    given = request.origin
    if given is None or start.picture is None:
        return
    recorded: Trajectory | None = None
    if given.made is None:
        clean = backbone.encode(start.picture)
    else:
        recorded = yield from _made_again(given.made, request, backbone, predictor)
        clean = recorded.at(levels_of(request, backbone)[-1])
        if float((backbone.decode(clean).clamp(-1, 1) - start.picture.to(clean)).abs().mean()) > 0.1:
            message = "The picture is not the one that its recipe makes: what is kept is of the latter."
            warn(message)
    if request.layout is not None:
        mask: Tensor | None = None
        if request.layout.near:
            ink = _ink_of(request.layout.drawn, start.picture, start.drawing)
            mask = near_strokes(ink, request.layout.near, backbone)
            if float(mask.max()) < _BLANK:
                raise _no_strokes("the drawing is blank")
        yield (yield from borrow(request.layout, request, backbone, clean, recorded=recorded, mask=mask, keep=keep))
    elif request.edit is not None:
        area = None if start.overlay is None else start.overlay.area
        yield (yield from change(request.edit, request, backbone, clean, recorded=recorded, area=area))


def _made_again(
    recipe: Recipe, request: Request, backbone: Backbone, predictor: LatentPredictor | None
) -> Generator[Moment, None, Trajectory]:
    """The walk that the picture of `recipe` was made by, for use at the levels of `request`.

    `predictor`, or the one that the request names, takes the place of the one that the recipe names, if it is the same:
    the recipe's name holds in the folder where the picture was made.
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
    if drawing is not None and predictor is None and request.predictor not in (None, made.predictor):
        predictor = load_predictor(request.predictor, backbone)
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
    if "model" in differing and made.loras != request.loras:
        differing = [*(name for name in differing if name != "model"), "LoRA"]  # of which the model's print is too
    if differing:
        raise UsageError(
            f"The picture was made with another {' and '.join(differing)}.",
            hint="Choose the same, or take the picture with source `inverted`.",
            field="source",
        )
    moments: list[Moment] = []
    last = at_try(recipe.tried, made, controls, [made.seed + recipe.index])
    first = at_try(1, made, controls, last.seeds)
    for one, steps in ((first, last.kept), (last, len(levels))):
        begun = Begun(moments[-1].latent, len(moments)) if moments else None
        of, seeds = one.controls, last.seeds
        walked = walk(made, of.told, prompts=[made.prompt], seeds=seeds, guides=of.guides, begun=begun)
        for moment in islice(walked, steps):
            moments.append(moment)
            yield moment
    return Trajectory(first_latent(made, backbone, generators(seeds)), levels[0], moments)


def _ink_of(drawn: bool, picture: Tensor, drawing: SpatialMap | None) -> Tensor:
    """(1, 1, H, W) in [0, 1]: of the drawing to follow, else of a picture that is one."""
    if drawing is not None:
        return torch.tensor(drawing.ink)[None, None]
    if not drawn:
        raise _no_strokes("the picture is no drawing")
    return ((1 - picture.mean(dim=1, keepdim=True)) / 2).clamp(0, 1)


def _no_strokes(why: str) -> UsageError:
    return UsageError(
        f"near is given, but there are no strokes: {why}.",
        hint="Give a drawing to follow too, or leave `near` at 0.",
        field="near",
    )
