import json
import subprocess
import sys
from importlib import import_module

import pytest

import sketchguide

NAMES = [
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


def test_the_public_list_is_exact_and_sorted() -> None:
    assert sketchguide.__all__ == NAMES
    assert sorted(NAMES) == NAMES
    assert list(sketchguide._HOMES) == NAMES
    assert set(NAMES) <= set(dir(sketchguide))


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_those_of_their_modules(name: str) -> None:
    home = import_module(f"sketchguide.{sketchguide._HOMES[name]}")
    assert getattr(sketchguide, name) is getattr(home, name)
    assert home.__name__ == getattr(home, name).__module__


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sketch_to_image'"):
        sketchguide.sketch_to_image  # noqa: B018


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = "import json, sys, sketchguide; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert not {"torch", "diffusers", "transformers", "numpy", "PIL", "pydantic", "scipy"} & set(loaded)
    assert "sketchguide" in loaded
