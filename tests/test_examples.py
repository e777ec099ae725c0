"""Every script in examples/ is short and runs."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sketchguide
from sketchguide import generate, translate
from sketchguide.defaults import FEW_STEPS, STEPS

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def in_few_steps(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **named: make(*given, **(named | {"steps": 6}))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_example_runs_and_writes_a_picture(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert len(script.read_text().splitlines()) < 40
    monkeypatch.chdir(tmp_path)
    if script.stem == "compare":  # four pictures, of which each takes as long as the next
        monkeypatch.setattr(sketchguide, "generate", in_few_steps(generate))
    if script.stem == "guided":  # more steps than few, for which there are other defaults
        monkeypatch.setattr("sketchguide.defaults.STEPS", STEPS._replace(default=FEW_STEPS + 1))
    if script.stem == "translate":
        for make in (generate, translate):
            monkeypatch.setattr(sketchguide, make.__name__, in_few_steps(make))
    made = runpy.run_path(str(script))
    if script.stem == "guided":
        drawing = EXAMPLES / "sketches" / "sailboat.svg"
        (picture,) = generate("a sailboat", sketch=drawing, backbone=made["backbone"], seed=7, steps=FEW_STEPS + 1)
        difference = np.abs(np.asarray(made["previews"][-1]).astype(int) - np.asarray(picture.image))
        assert difference.max() <= 1
    (picture,) = tmp_path.glob("*.png")
    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(maxcolors=2**24)
    assert colours is not None
    assert len(colours) > 100
