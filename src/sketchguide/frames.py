"""The pictures between two: of seeds, of drawings, or of pictures."""

from __future__ import annotations

import math
import operator
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

from PIL import Image
from torch import Tensor

from sketchguide.advice import warn_of_needs, warn_of_text
from sketchguide.arguments import backbone_of, check_given, named
from sketchguide.backbones.around import Remembering
from sketchguide.backbones.base import Backbone
from sketchguide.controls.edges import LatentGuide
from sketchguide.defaults import INTERPOLATING, PULLING, SCALE, SEED, Polarity
from sketchguide.errors import UsageError, warn
from sketchguide.generation import Progress, under_way
from sketchguide.guidance import latent_guide
from sketchguide.images import to_images, to_tensor
from sketchguide.interpolation import INTERPOLATIONS, between
from sketchguide.inversion import ascend
from sketchguide.loading import load_predictor
from sketchguide.lora import wearing
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.sampling import Evaluations, Moment
from sketchguide.schedule import levels_of
from sketchguide.seeds import generators
from sketchguide.sizes import batch_size, check_size, cut_off
from sketchguide.sketch import Sketch, SpatialMap, as_sketch
from sketchguide.translation import open_source, taken
from sketchguide.walking import first_latent, has_negative_pass, walk_from

End = SupportsIndex | Image.Image | Picture | Sketch | str | Path
"""A seed, or a picture or drawing, or a file of either."""

MOST_FRAMES = 100
REFINE = 4  # network passes per step of the inversion


def interpolate(
    first: End,
    second: End,
    prompt: str | None = None,
    *,
    sketch: Sketch | str | Path | Sequence[Sketch | str | Path] | None = None,
    frames: int = 9,
    way: str = "spherical",
    drawn: bool | None = None,
    backbone: Backbone | None = None,
    predictor: LatentPredictor | str | Path | None = None,
    **settings: Any,
) -> list[Image.Image]:
    """`frames` pictures, 2 to 100, from `first` to `second`, both included: between two seeds, two pictures, two
    drawings, or a seed and a picture. A picture, or a file of one, may look drawn: `drawn` says whether it is a
    drawing, None looks.

    The noise of the first and of the last one is mixed in `way`: "spherical", "linear" (which pales in the middle) or
    "trigonometric" (DiffSketching, 2305.18812). A picture's is found by inversion; between drawings it is that of
    `seed` everywhere, and the frames follow the first, less and less, and the second more and more. Every frame follows
    `sketch`; of two drawings there it follows first the one and then the other.

    `settings` are fields of `Request`: `seed`, `steps`, `scale`, `size`, `model`, `lora`, `negative`, `strength` and
    the others that `defaults.INTERPOLATING` lists. `scale` is 1 where a picture is an end, since with any other it
    would not come back; the prompt may then be left out.

    Raises a SketchguideError; warns (SketchguideWarning) of what changes nothing, is cut off or is not read.
    """
    events = frames_between(
        first,
        second,
        prompt,
        sketch=sketch,
        frames=frames,
        way=way,
        drawn=drawn,
        backbone=backbone,
        predictor=predictor,
        **settings,
    )
    return [event for event in events if isinstance(event, Image.Image)]


def frames_between(
    first: End,
    second: End,
    prompt: str | None = None,
    *,
    sketch: Sketch | str | Path | Sequence[Sketch | str | Path] | None = None,
    frames: int = 9,
    way: str = "spherical",
    drawn: bool | None = None,
    polarity: Polarity = "auto",
    backbone: Backbone | None = None,
    predictor: LatentPredictor | str | Path | None = None,
    **settings: Any,
) -> Generator[Progress | Image.Image]:
    """What `interpolate` does: Progress after every step, of an inversion too, and a picture when one is finished.

    `polarity` is that of `Sketch.open`, for files.
    """
    if unknown := [name for name in settings if name not in INTERPOLATING]:
        raise UsageError(
            f"interpolate takes no {unknown[0]}.", hint=f"It takes {', '.join(INTERPOLATING)}.", field=unknown[0]
        )
    _check_frames(frames)
    if way not in INTERPOLATIONS:
        raise UsageError(f"There is no way {way!r}.", hint=f"Choose: {', '.join(INTERPOLATIONS)}.", field="way")
    ends = _ends(first, second, _drawings(sketch, polarity), drawn=drawn, polarity=polarity)
    settings = {name: value for name, value in settings.items() if value is not None}
    seeded = "seed" in settings
    values = named({"seed": SEED.default, **settings}, backbone, predictor)
    inverted = any(isinstance(end, Image.Image) for end in ends.between)
    if prompt is None and not inverted:
        raise UsageError(
            "There is no prompt.",
            hint='Say what the pictures show: "a duck"; "" has them show anything.',
            field="prompt",
        )
    values = {"scale": 1.0 if inverted else SCALE.default, **values, "solver": "ddim"}
    request = Request.checked(prompt=prompt or "", **values)
    if backbone is None:
        backbone = backbone_of(request, *ends.drawings, predictor=predictor)
    else:
        check_given(backbone, request)
    _warn(request, ends, backbone, seeded=seeded, predictor=predictor, polarity=polarity, way=way)
    with under_way(backbone, alone=bool(request.lora)), wearing(request.loras, backbone):
        yield from _drawn(ends, request, Remembering(backbone), predictor, frames=frames, way=way)


def _check_frames(frames: object) -> None:
    if not isinstance(frames, int) or not 2 <= frames <= MOST_FRAMES:
        raise UsageError(f"frames is {frames!r}; it must be 2 to {MOST_FRAMES}.", field="frames")


class _Ends(NamedTuple):
    """What frames are made between."""

    between: tuple[int | Image.Image, int | Image.Image]
    drawings: Sequence[Sketch]  # none, one, or the one that they come from and the one that they go to
    seeds: bool  # of the request are the ends


def _drawings(given: Any, polarity: Polarity) -> list[Sketch]:
    if given is None:
        return []
    several = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if len(several) > 2:
        raise UsageError(f"{len(several)} drawings were given; two are the most.", field="sketch")
    return [Sketch.open(one, polarity=polarity) if isinstance(one, str | Path) else as_sketch(one) for one in several]


def _ends(first: End, second: End, drawings: Sequence[Sketch], *, drawn: bool | None, polarity: Polarity) -> _Ends:
    given = {"first": first, "second": second}
    opened = {name: _opened(end, name, drawn=drawn, polarity=polarity) for name, end in given.items()}
    sketches = {name: end for name, end in opened.items() if isinstance(end, Sketch)}
    others = [end for end in opened.values() if not isinstance(end, Sketch)]
    if not sketches:
        return _Ends((others[0], others[1]), drawings, seeds=False)
    if others or drawings:
        name = next(iter(sketches))
        called = given[name] if isinstance(given[name], str | Path) else f"the {name} one"
        raise UsageError(
            f"The two ends must both be drawings, with none beside them, or neither; {called} is taken for one.",
            hint="Give drawings for seeds or pictures as sketch (--sketch); drawn=False (--as picture) says that a "
            "picture only looks drawn.",
            field=name,
        )
    return _Ends((SEED.default, SEED.default), list(sketches.values()), seeds=True)


def _opened(end: object, name: str, *, drawn: bool | None, polarity: Polarity) -> int | Image.Image | Sketch:
    if isinstance(end, str | Path):
        return open_source(end, drawn=drawn, polarity=polarity)
    if isinstance(end, SupportsIndex):
        seed = operator.index(end)
        if not SEED.low <= seed <= SEED.high:
            raise UsageError(f"The seed {seed} is out of range: {SEED.low} to {SEED.high}.", field=name)
        return seed
    if isinstance(end, Picture):
        return taken(end.image, drawn=bool(drawn))
    if isinstance(end, Image.Image):
        return taken(end, drawn=drawn)
    if isinstance(end, Sketch):
        return end
    raise UsageError(
        f"An end is a seed, a picture, a drawing, or a file of either, not a {type(end).__name__}.", field=name
    )


def _warn(
    request: Request,
    ends: _Ends,
    backbone: Backbone,
    *,
    seeded: bool,
    predictor: LatentPredictor | str | Path | None,
    polarity: Polarity,
    way: str,
) -> None:
    if not request.prompt.strip():
        warn("The prompt is empty: the pictures show anything.")
    idle = [("predictor", predictor is not None), ("polarity", polarity != "auto")]
    idle += [(name, True) for name in request.changed(*PULLING)]
    for name in (name for name, given in idle if given and not ends.drawings):
        warn(f"{name} changes nothing without a drawing.")
    if ends.drawings and not request.beta:
        warn("strength is 0: the pictures follow no drawing.")
    if seeded and not ends.seeds:
        warn("seed changes nothing: the two ends say where the noise comes from.")
    if ends.seeds and way != "spherical":
        warn("way changes nothing: between two drawings the noise is one and the same.")
    warn_of_needs(request, backbone, "negative_time", "lora_scale")
    warn_of_text([request.prompt], backbone)
    if request.negative and not has_negative_pass(request, backbone):
        warn("negative changes nothing without a negative pass.")
    elif request.negative:
        warn_of_text([request.negative], backbone, name="negative prompt")


def _drawn(
    ends: _Ends,
    request: Request,
    backbone: Backbone,
    predictor: LatentPredictor | str | Path | None,
    *,
    frames: int,
    way: str,
) -> Iterator[Progress | Image.Image]:
    size = check_size(request.size or backbone.default_size, backbone)
    guide = _guide([drawing.rasterize(size=size) for drawing in ends.drawings], request, backbone, predictor, frames)
    between_these = [request.seed if ends.seeds else end for end in ends.between]
    batch = batch_size(size, backbone, guided=guide is not None)
    walks = sum(isinstance(end, Image.Image) for end in between_these) + math.ceil(frames / batch)
    done, total, spent = 0, walks * request.steps, Evaluations(0, 0)
    noises: list[Tensor] = []
    for end in between_these:
        if not isinstance(end, Image.Image):
            noises.append(first_latent(request, backbone, generators([end])))
            continue
        moment: Moment | None = None
        before = spent
        for moment in _inverted(end, request, backbone, size):
            done += 1
            spent = before.plus(Evaluations(0, 0, inversion=sum(moment.evaluations)))
            yield Progress(done, total, moment.clean, (), spent)
        assert moment is not None, "there is one step at least"
        noises.append(moment.latent)
    latent = between(noises[0], noises[1], frames=frames, way=way)
    for start in range(0, frames, batch):
        rows = slice(start, start + batch)
        moment, before = None, spent
        for moment in walk_from(request, backbone, latent[rows], guides=[] if guide is None else [guide.of(rows)]):
            done += 1
            spent = before.plus(moment.evaluations)
            yield Progress(done, total, moment.clean, (), spent)
        assert moment is not None, "there is one step at least"
        yield from to_images(backbone.decode(moment.latent))


def _guide(
    maps: Sequence[SpatialMap],
    request: Request,
    backbone: Backbone,
    predictor: LatentPredictor | str | Path | None,
    frames: int,
) -> LatentGuide | None:
    """From the first drawing to the last one, a target for each frame."""
    if not maps or not request.beta:
        return None
    if any(one.blank for one in maps):
        warn("A sketch is blank: the pictures follow none.")
        return None
    if isinstance(predictor, LatentPredictor):
        predictor.to(backbone.device).check_fits(backbone)
    else:
        predictor = load_predictor(request.predictor, backbone)
    return latent_guide(request, [maps[0], maps[-1]], backbone, predictor).interpolated(frames)


def _inverted(end: Image.Image, request: Request, backbone: Backbone, size: tuple[int, int]) -> Iterator[Moment]:
    """The way up to the noise (1, C, h, w) from which a picture comes back."""
    if cut_off(end.size, size):
        warn(f"A picture of {end.width} × {end.height} is cut at the middle to fit {size[0]} × {size[1]}.")
    told = backbone.describe([request.prompt])
    clean = backbone.encode(to_tensor([end], size=size))
    return ascend(backbone, clean, levels_of(request, backbone), told, iterations=REFINE)
