"""What a request means where it leaves open settings that go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import classes_in, find_class_in
from sketchguide.defaults import RECOGNISED
from sketchguide.errors import UsageError
from sketchguide.recognition import find_recogniser, words_of
from sketchguide.request import Request
from sketchguide.sketch import Sketch


def usual_settings(
    request: Request, prompts: Sequence[str], sketch: Sketch | None, backbone: Backbone, fingerprint: str
) -> dict[str, Any]:
    """Those of RECOGNISED, where `request` gives none of them, or a number of tries alone, `sketch` pulls by LGP and
    nothing else does, and the model, of that `fingerprint`, is a shipped one as it was trained whose recogniser knows
    what all `prompts` name. Nothing otherwise.
    """
    given = {name: value for name in RECOGNISED if (value := _given(request, name)) is not None}
    others = request.changed("class_name", "sketch_loss", "attention", "controlnet", "t2i_adapter")
    drawn = sketch is not None and not sketch.blank and request.origin is None and not others
    if not drawn or given.keys() - {"tries"} or given.get("tries") == 1 or not words_of(fingerprint):
        return {}
    classes = classes_in(find_recogniser(request.recogniser, backbone))
    try:
        for prompt in prompts:
            find_class_in(prompt, classes)
    except UsageError:
        return {}
    return {**RECOGNISED, **given}


def _given(request: Request, name: str) -> Any:
    return getattr(request, name) if name in request.model_fields_set else None
