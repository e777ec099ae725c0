"""Sketch-guided text-to-image diffusion: a drawing and a prompt become a picture.

    from sketchguide import Sketch, generate

    (picture,) = generate("a red apple", sketch=Sketch.open("apple.svg"), seed=7)
    picture.save("apple.png")

Names are imported when they are first used, so that `import sketchguide` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sketchguide.backbones.base import Backbone
    from sketchguide.backbones.wrapped import with_controlnet, with_t2i_adapter
    from sketchguide.classifiers import LatentClassifier
    from sketchguide.controls.base import Guide, Injection, Step, Strength
    from sketchguide.controls.classes import ClassGuide
    from sketchguide.controls.edges import LatentGuide, target_of
    from sketchguide.controls.features import NegativePrompt, PlugAndPlay
    from sketchguide.controls.likeness import SketchGuide
    from sketchguide.controls.strengths import Proportional, Score
    from sketchguide.editing import edit
    from sketchguide.errors import SketchguideError, SketchguideWarning
    from sketchguide.frames import interpolate
    from sketchguide.generation import Progress, generate, run
    from sketchguide.inversion import Noised, invert
    from sketchguide.levels import Level
    from sketchguide.loading import from_pipe, load_backbone, load_predictor
    from sketchguide.lora import load_lora, unload_lora
    from sketchguide.pictures import Picture, recall
    from sketchguide.predictors import LatentPredictor
    from sketchguide.request import Request
    from sketchguide.sampling import sample
    from sketchguide.sketch import Sketch, SpatialMap, read_ndjson
    from sketchguide.sketchers import Sketcher
    from sketchguide.strokes import Stroke
    from sketchguide.taps import tapped
    from sketchguide.tracing import trace
    from sketchguide.translation import translate

__version__ = "0.1.0"

_HOMES = {
    "Backbone": "backbones.base",
    "ClassGuide": "controls.classes",
    "Guide": "controls.base",
    "Injection": "controls.base",
    "LatentClassifier": "classifiers",
    "LatentGuide": "controls.edges",
    "LatentPredictor": "predictors",
    "Level": "levels",
    "NegativePrompt": "controls.features",
    "Noised": "inversion",
    "Picture": "pictures",
    "PlugAndPlay": "controls.features",
    "Progress": "generation",
    "Proportional": "controls.strengths",
    "Request": "request",
    "Score": "controls.strengths",
    "Sketch": "sketch",
    "SketchGuide": "controls.likeness",
    "Sketcher": "sketchers",
    "SketchguideError": "errors",
    "SketchguideWarning": "errors",
    "SpatialMap": "sketch",
    "Step": "controls.base",
    "Strength": "controls.base",
    "Stroke": "strokes",
    "edit": "editing",
    "from_pipe": "loading",
    "generate": "generation",
    "interpolate": "frames",
    "invert": "inversion",
    "load_backbone": "loading",
    "load_lora": "lora",
    "load_predictor": "loading",
    "read_ndjson": "sketch",
    "recall": "pictures",
    "run": "generation",
    "sample": "sampling",
    "tapped": "taps",
    "target_of": "controls.edges",
    "trace": "tracing",
    "translate": "translation",
    "unload_lora": "lora",
    "with_controlnet": "backbones.wrapped",
    "with_t2i_adapter": "backbones.wrapped",
}

__all__ = [
    "Backbone",
    "ClassGuide",
    "Guide",
    "Injection",
    "LatentClassifier",
    "LatentGuide",
    "LatentPredictor",
    "Level",
    "NegativePrompt",
    "Noised",
    "Picture",
    "PlugAndPlay",
    "Progress",
    "Proportional",
    "Request",
    "Score",
    "Sketch",
    "SketchGuide",
    "Sketcher",
    "SketchguideError",
    "SketchguideWarning",
    "SpatialMap",
    "Step",
    "Strength",
    "Stroke",
    "edit",
    "from_pipe",
    "generate",
    "interpolate",
    "invert",
    "load_backbone",
    "load_lora",
    "load_predictor",
    "read_ndjson",
    "recall",
    "run",
    "sample",
    "tapped",
    "target_of",
    "trace",
    "translate",
    "unload_lora",
    "with_controlnet",
    "with_t2i_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sketchguide' has no attribute {name!r}")
    value = getattr(import_module(f"sketchguide.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
