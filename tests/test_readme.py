"""The README is what people run: its example is run, and its commands are those of CI."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sketchguide
from sketchguide.classifiers import find_class_in, load_classifier
from sketchguide.cli import edit, finetune, generate, interpolate, translate
from sketchguide.defaults import EVERY, RECOGNISED, STEPS, STRENGTH, TRIES, WIDEN
from sketchguide.loading import load_backbone
from sketchguide.recognition import find_recogniser
from sketchguide.shipped import EMBEDDED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.strip().splitlines()) <= 10
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sketchguide, "generate", partial(sketchguide.generate, steps=6))
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["7 (128, 128)", "8 (128, 128)"]
    first, second = (Image.open(tmp_path / f"apple-{seed}.png").convert("RGB") for seed in (7, 8))
    assert first.tobytes() != second.tobytes()


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the source archive comes without docs")
def test_the_examples_of_the_page_about_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL):
        fewer = re.sub(r"steps=1\d", "steps=5", example)
        exec(compile(fewer, "python.md", "exec"), made)
    said = capsys.readouterr().out
    assert "5 of 5" in said
    assert said.endswith("(512, 512)\n")
    assert made["green"].image.tobytes() != made["mushroom"].image.tobytes()
    assert made["photo"].rasterize(size=(64, 64)).ink.max() > 0.5
    assert len(made["frames"]) == 2
    assert np.asarray(made["dark"].image).mean() < np.asarray(Image.open("apple.png")).mean()
    assert Path("cat-7.png").is_file()


def test_the_readme_names_exactly_the_two_set_up_commands():
    commands = re.findall(r"^    (pip install .*)$", README, re.MULTILINE)
    assert commands == [
        'pip install . && sketchguide generate "a red apple" --sketch examples/sketches/apple.svg -o apple.png',
        "pip install '.[test]' && pytest",
    ]
    if (ROOT / ".ci").exists():  # not in the source archive
        assert commands[1] in (ROOT / ".ci" / "run").read_text()


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the source archive comes without docs")
def test_every_file_and_heading_the_readme_and_docs_point_to_exists():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")):
            if target.startswith("http"):
                continue
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name} points to {target}"
            if heading:
                assert heading in headings(file.read_text(encoding="utf-8")), f"{page.name}: {target}#{heading}"


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the source archive comes without docs")
def test_the_docs_list_the_words_that_the_shipped_recogniser_knows():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    listed = " ".join(re.findall(r"^> (.*)$", page, re.MULTILINE)).split(", ")
    known = load_classifier(find_recogniser(None, load_backbone("icons-64"))).classes
    assert listed == sorted(name.strip() for names in known for name in names.split(","))


def test_the_readme_says_the_default_of_what_its_table_changes():
    tried, once = re.findall(r"`((?:--[a-z]+ \S+ ?)+)`", README[README.index("The defaults") : README.index("| you")])
    names = ("tries", "strength", "every", "steps")
    values = {name: setting.default for name, setting in zip(names, (TRIES, STRENGTH, EVERY, STEPS), strict=True)}
    for written, settings in ((tried, RECOGNISED), (once, values)):
        assert dict(re.findall(r"--(\w+) (\S+)", written)) == {
            name: str(value) for name, value in {**settings, "widen": WIDEN.default}.items()
        }


def test_prompts_of_examples_have_nothing_that_the_shipped_model_does_not_know():
    known = json.loads((EMBEDDED / "words.json").read_text())["words"]
    colours = "white black gray red orange yellow green blue purple pink brown"
    allowed = set(" ".join([*known, colours, "a an noto fluent3d on background"]).split())
    commands = (generate, translate, edit, interpolate, finetune)
    texts = [README, *(inspect.getdoc(one.command) or "" for one in commands)]
    texts += [page.read_text(encoding="utf-8") for page in (*ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.py"))]
    prompts = {prompt for text in texts for prompt in re.findall(r'"((?:an?|noto) [^"]+)"', text)}
    assert len(prompts) > 10
    for prompt in prompts:
        find_class_in(prompt, known)
        assert set(prompt.split()) <= allowed, prompt


def headings(text: str) -> list[str]:
    """Of a Markdown page, as GitHub names them in links."""
    return [
        re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    ]
