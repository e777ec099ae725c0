"""Every script in examples/ is short and runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_example_runs_and_writes_a_picture(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert len(script.read_text().splitlines()) < 40
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    (picture,) = tmp_path.glob("*.png")
    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(maxcolors=2**24)
    assert colours is not None
    assert len(colours) > 100
