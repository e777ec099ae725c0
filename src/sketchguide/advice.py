"""What is told of a request before it is carried out: what in it will change nothing, or is odd."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from PIL import Image

from sketchguide.backbones.base import Backbone
from sketchguide.controls.features import choose_places
from sketchguide.defaults import ALPHA, PULLING, TAU_F
from sketchguide.errors import warn
from sketchguide.images import is_blank
from sketchguide.request import FOR_DRAWINGS, Layout, Request
from sketchguide.sizes import warn_of_size
from sketchguide.sketch import Sketch
from sketchguide.walking import has_negative_pass, starts_from_source

_MOST_INK = 0.45  # of a map; drawings by people and edge maps of icons have up to 0.36


_SYNTAX: Mapping[str, str] = MappingProxyType(  # of Stable Diffusion web UI and ComfyUI
    {
        r"\([^()]+: ?\d*\.?\d+\)": "words have no weights here",
        r"<(?:lora|lyco):[^<>]+>": "give the LoRA as lora, and its weight as lora_scale",
        r"\bembedding:\w+": "load the embedding on a pipeline in Python, and write its token",
        r"\bBREAK\b": "a prompt has one part here",
    }
)


@dataclass(frozen=True)
class Need:
    """What a setting changes nothing without."""

    words: str
    met: Callable[[Request, Backbone], bool]


def _pulled_before(request: Request) -> bool:
    """Whether the picture that it starts from was pulled to a drawing, and is to be walked again."""
    given = request.origin
    return given is not None and given.made is not None and given.made.request.sketch is not None


_SKETCH = Need("a sketch", lambda request, _: request.sketch is not None)
_DRAWING = replace(_SKETCH, words="a drawing")
_CONTROLNET = Need("controlnet", lambda request, _: request.controlnet is not None)
_T2I_ADAPTER = Need("t2i_adapter", lambda request, _: request.t2i_adapter is not None)
_CLASS = Need("a class", lambda request, _: request.class_name is not None)
_SKETCH_LOSS = Need("sketch_loss", lambda request, _: request.sketch_loss != 0)
_LIKE = Need("like", lambda request, _: request.like is not None)
_TRIES = Need("tries above 1", lambda request, _: request.tries > 1)

# Fields of a request, in the order in which they are told of.
NEEDS: Mapping[str, Need] = MappingProxyType(
    {
        "attention": _SKETCH,
        "attention_scale": Need("attention", lambda request, _: request.attention is not None),
        "controlnet": _SKETCH,
        **dict.fromkeys(("controlnet_scale", "controlnet_start", "controlnet_end", "controlnet_mode"), _CONTROLNET),
        "t2i_adapter": _SKETCH,
        **dict.fromkeys(("t2i_adapter_scale", "t2i_adapter_start", "t2i_adapter_end"), _T2I_ADAPTER),
        "negative_time": Need(
            "a negative pass",  # 0 is what it is without one, too
            lambda request, backbone: not request.negative_time or has_negative_pass(request, backbone),
        ),
        "lora_scale": Need("lora", lambda request, _: bool(request.lora)),
        "class_scale": _CLASS,
        "classifier": _CLASS,
        "sketch_loss": _SKETCH,
        "sketcher": _SKETCH_LOSS,
        "drawing_features": _SKETCH_LOSS,
        "like": _SKETCH_LOSS,
        "identity": _LIKE,
        "picture_features": _LIKE,
        "recogniser": _TRIES,
        "sure": _TRIES,
        "predictor": Need("a drawing", lambda request, _: request.sketch is not None or _pulled_before(request)),
        **dict.fromkeys(PULLING, _DRAWING),
    }
)


def warn_of_request(
    requests: Sequence[Request], sketch: Sketch | None, image: Image.Image | None, backbone: Backbone
) -> None:
    """Warn (SketchguideWarning) of what changes nothing in `requests`, which differ in their prompts alone, and of what
    is odd about them. `sketch` and `image`, the picture that they start from, are what they carry.
    """
    request = requests[0]
    if request.size is not None and request.origin is None:  # else it was told of before
        warn_of_size(request.size, backbone)
    warn_of_needs(request, backbone, *NEEDS)
    if sketch is not None:
        _warn_of_sketch(sketch)
    if image is not None and is_blank(image):
        warn("The picture is blank: it has nothing to keep.")
    if request.layout is not None:
        _warn_of_layout(request.layout, request, backbone)
    if request.edit is not None and request.edit.source == "noised" and request.edit.source_prompt:
        warn("source_prompt changes nothing: a source that is noised is not read.")
    if starts_from_source(request) and request.count > 1:
        warn("Every picture starts from the source's noise: with most solvers seeds change nothing.")
    _warn_of_guidance(request, backbone)
    texts = {"prompt": [one.prompt for one in requests], "negative prompt": [request.negative]}
    texts["source prompt"] = [] if request.origin is None else [request.origin.source_prompt]
    for name, asked in texts.items():
        if any(asked):
            warn_of_text(asked, backbone, name=name)


def warn_of_needs(request: Request, backbone: Backbone, *names: str) -> None:
    """Warn of those of these settings that are given and change nothing, since what they need is missing."""
    for name in request.changed(*names):
        if not NEEDS[name].met(request, backbone):
            warn(f"{name} changes nothing without {NEEDS[name].words}.")


def warn_of_text(prompts: Sequence[str], backbone: Backbone, *, name: str = "prompt") -> None:
    """Warn of the words of prompts that the model does not read, and of what web UIs would read otherwise."""
    for words in filter(None, backbone.unread(prompts)):
        warn(f"The {name} is too long; not read: {words!r}.")
    for text, way in (found for prompt in prompts for found in _syntax_in(prompt)):
        warn(f"{text!r} in the {name} is read as it stands: {way}.")


def _syntax_in(prompt: str) -> Iterator[tuple[str, str]]:
    """The first of each kind that is no words, and what there is for it here."""
    for pattern, way in _SYNTAX.items():
        if (found := re.search(pattern, prompt)) is not None:
            yield found[0], way


def _warn_of_sketch(sketch: Sketch) -> None:
    drawing = sketch.rasterize(size=(64, 64))
    if drawing.blank:
        warn("The sketch is blank: nothing will follow it.")
    elif (share := float(drawing.ink.mean())) > _MOST_INK:
        warn(
            f"The lines that were found in the sketch cover {share:.0%} of it, as on squared paper or in a photo "
            "of something else than a drawing. Trace a photo first."
        )


def _warn_of_layout(layout: Layout, request: Request, backbone: Backbone) -> None:
    if layout.decay is not None and layout.source_prompt == request.negative:
        warn("decay changes nothing: say what the source shows in source_prompt.")
    if layout.decay == "constant" and layout.alpha == 1:
        warn("decay changes nothing: constant at alpha 1 never leaves the plain negative prompt.")
    usual = FOR_DRAWINGS["tau_f"] if layout.drawn else TAU_F.default
    if layout.tau_f != usual and not (layout.features or choose_places(backbone.taps).features):
        warn(f"tau_f changes nothing: {backbone.name} has no features that are borrowed by default. Name some.")
    if layout.alpha != ALPHA.default and layout.decay is None:
        warn("alpha changes nothing without decay.")
    if not has_negative_pass(request, backbone):
        why = f"{backbone.name} is told the scale" if backbone.distilled else "scale is 1"
        if layout.decay is not None:
            warn(f"{why}: there is no negative prompt to mix the source prompt into.")
        if layout.branches != "both":
            warn(f"branches changes nothing: {why}, and there is no negative pass.")


def _warn_of_guidance(request: Request, backbone: Backbone) -> None:
    """Of the scale of classifier-free guidance, and of a negative prompt that is not read."""
    if backbone.distilled:
        if request.negative:
            warn(f"The negative prompt is not read: {backbone.name} is told the scale of guidance instead.")
    elif request.scale < 1:
        warn(
            f"scale is {request.scale:g}: below 1 the picture turns from the prompt to the negative one. Models whose "
            "makers say 0 mean 1."
        )
    elif request.scale == 1:
        unread = " and the negative prompt is not read" if request.negative else ""
        warn(f"scale is 1: the prompt steers only weakly{unread}, unless the model was distilled for it.")
