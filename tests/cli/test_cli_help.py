import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sketchguide as package
from sketchguide.cli import NARROWEST, bench, finetune
from sketchguide.cli.environment import environment
from sketchguide.extractors import EXTRACTORS
from sketchguide.request import Checked, EditSettings, LayoutSettings, Request
from sketchguide.solvers import SOLVERS
from sketchguide.training.finetune import FineTuning
from sketchguide.training.predictor import PredictorTraining

Run = Callable[..., Any]

HELP = """
import sys
from sketchguide.cli import main
MAKING = ("generate", "translate", "edit", "interpolate", "serve")
EVERY = (*MAKING, "trace", "train", "finetune", "component", "bench", "models", "env")
for command in ([], *([one] for one in EVERY)):
    assert main([*command, "--help"]) == 0
assert main(["--version"]) == 0
heavy = {"torch", "numpy", "scipy", "diffusers", "transformers", "PIL", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"sketchguide {package.__version__}" in done.stdout


def test_the_package_runs_as_a_module():
    run = [sys.executable, "-m", "sketchguide"]
    assert subprocess.run([*run, "--version"], capture_output=True, text=True, check=True).stdout == (
        f"sketchguide {package.__version__}\n"
    )
    assert subprocess.run([*run, "paint"], capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize(
    "command",
    [
        "generate",
        "translate",
        "edit",
        "interpolate",
        "trace",
        "train",
        "finetune",
        "component",
        "bench",
        "serve",
        "models",
        "env",
    ],
)
def test_help_shows_examples_first(sketchguide: Run, command: str):
    text = sketchguide(command, "--help").out
    assert 0 < text.index(f"sketchguide {command} ", text.index("Usage:") + 30) < text.index("─ Options ─")


NARROW = """
from sketchguide.cli import main
for command in ("generate", "translate", "edit", "serve", "train", "finetune", "component", "bench"):
    assert main([command, "--help"]) == 0
"""


def test_help_on_a_narrow_terminal_has_the_names_whole():
    """Its lines are longer than the terminal's rather than cut."""
    narrow = os.environ | {"COLUMNS": "40", "PYTHONIOENCODING": "utf-8"}
    run = [sys.executable, "-c", NARROW]
    text = subprocess.run(run, capture_output=True, text=True, encoding="utf-8", env=narrow, check=True).stdout
    assert not re.findall(r"│ +-\S*…", text)
    assert "--drawing-features " in text
    assert max(map(len, text.splitlines())) == NARROWEST


def test_no_command_gives_the_help(sketchguide: Run):
    assert sketchguide().out == sketchguide("--help").out
    assert sketchguide().code == 0


SETTINGS = {"generate": Checked, "translate": LayoutSettings, "edit": EditSettings}


@pytest.mark.parametrize("command", list(SETTINGS))
def test_help_shows_every_setting(sketchguide: Run, monkeypatch: pytest.MonkeyPatch, command: str):
    monkeypatch.setenv("COLUMNS", "300")
    text = sketchguide(command, "--help").out
    fields = {**Request.model_fields, **SETTINGS[command].model_fields}
    for name in fields.keys() - {"layout", "edit"}:
        option = {"class_name": "class", "prompt": "{prompt}", "sketch": "sketch"}.get(name, name).replace("_", "-")
        assert f"--{option} " in text or option == "{prompt}"
        if isinstance(fields[name].default, int | float):
            assert f"default {fields[name].default}" in text
    assert all(solver in text for solver in SOLVERS)


def test_help_of_train_shows_the_true_defaults(sketchguide: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "300")
    settings = PredictorTraining()
    text = sketchguide("train", "--help").out
    assert all(f"default {value}" in text for value in (settings.steps, settings.batch, settings.rate))
    assert all(name in text for name in EXTRACTORS)


def test_help_of_bench_shows_the_true_defaults(sketchguide: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "300")
    text = sketchguide("bench", "--help").out
    assert text.count("default 1000") == 1
    assert "default 0" not in text
    defaults = {name: one.default for name, one in inspect.signature(bench.command).parameters.items()}
    assert (defaults["seed"], defaults["sketches"]) == (1000, None)
    assert f"Default: {bench.SKETCHES}, with --quick {bench.QUICK}." in text


@pytest.mark.parametrize(
    ("command", "option", "words"),
    [
        ("finetune", "rank", "at least 1. [default: 8]"),
        ("finetune", "levels", "at least 1, for some models 2. [default: 8]"),
        ("finetune", "last", "at least 1. [default: 2]"),
        ("finetune", "rate", "above 0 to 1. Default: 3e-3 for adapters, 1e-4 for all weights."),
        ("finetune", "batch", "at least 1. Default: 4, or 1 with fewer than 4 drawings."),
        ("finetune", "seed", "0 to 4294967295, default 0."),
        ("train", "seed", "0 to 4294967295, default 0."),
        ("interpolate", "seed", "0 to 4294967295, default 0."),
        ("interpolate", "steps", "1 to 1000, default 30. More take longer."),
        (
            "interpolate",
            "scale",
            "0 to 50. Default 4.0 between seeds or drawings; 1 between pictures: with any other value the two ends "
            "change.",
        ),
        (
            "interpolate",
            "lora-scale",
            "-4 to 4, default 1.0. 0 is the model as it was. Of several: once for all, or for each.",
        ),
        (
            "generate",
            "strength",
            "0 to 20, default 2.3 (1.15 times what --every says, less below 12 steps). 0 ignores it.",
        ),
        ("generate", "sketch-loss", "compares that with yours. 0 to 20, default 0.0. Alone with --strength 0."),
        ("generate", "identity", "the rest keeps to the drawing. 0 to 1, default 0.4."),
    ],
)
def test_help_says_the_range_and_once_the_default(
    sketchguide: Run, monkeypatch: pytest.MonkeyPatch, command: str, option: str, words: str
):
    monkeypatch.setenv("COLUMNS", "300")
    lines = sketchguide(command, "--help").out.splitlines()
    (line,) = (line for line in lines if re.match(rf"│[ *]+--{option} ", line))
    assert line.rstrip(" │").endswith(words)
    assert line.casefold().count("default") == 1


def test_the_defaults_of_finetune_are_those_of_its_settings():
    given = inspect.signature(finetune.command).parameters
    for one in dataclasses.fields(FineTuning):
        if one.name in given:
            assert given[one.name].default == one.default, one.name


def test_env_tells_versions_but_no_secrets(sketchguide: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = sketchguide("env", "--json").json
    assert found["packages"]["sketchguide"] == package.__version__
    assert found["packages"]["torch"]
    assert found["packages"]["rich"]
    assert "pytest" not in found["packages"]
    assert found["warnings"] == []
    text = sketchguide("env").out
    assert f"python: {sys.version.split()[0]}" in text
    assert "hf_secret" not in text + str(found)


def test_env_hides_the_home_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/home/alice/.cache/hub")
    assert environment()["hub cache"] == "~/.cache/hub"


def test_models_lists_what_comes_with_the_package(sketchguide: Run):
    found = {one["name"]: one for one in sketchguide("models", "--json").json["models"] if one["where"] == "shipped"}
    assert {name: one["kind"] for name, one in found.items()} == {
        "icons-128": "model",
        "icons-128-parts": "parts",
        "icons-64": "model",
        "icons-64-edges": "predictor",
        "icons-64-edges-latent": "predictor",
        "icons-64-parts": "parts",
    }
    assert "sketcher" in found["icons-64-parts"]["parts"]
    assert "sketcher" in sketchguide("models").out


def test_models_lists_what_the_hub_cached(sketchguide: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import huggingface_hub

    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    parts |= {"tokenizer": "CLIPTokenizer"}
    index = {"_class_name": "StableDiffusionPipeline", **{name: ["diffusers", kind] for name, kind in parts.items()}}
    files = {"good": "model_index.json", "begun": "model_index.json", "video": "model_index.json"}
    files |= {"reader": "predictor.safetensors", "other": "config.json"}
    for name, file in files.items():
        folder = tmp_path / f"models--owner--{name}"
        snapshot = folder / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / file).write_text(json.dumps(index | ({"unet": ["diffusers", "UNet3D"]} if name == "video" else {})))
        (snapshot / "unet").mkdir()
        if name != "begun":
            (snapshot / "unet" / "weights.safetensors").touch()
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("a" * 40)
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: scan(tmp_path))
    found = [one for one in sketchguide("models", "--json").json["models"] if one["where"] == "hub cache"]
    assert [(one["name"], one["kind"], one["pipeline"]) for one in found] == [
        ("owner/good", "model", "StableDiffusionPipeline"),
        ("owner/reader", "predictor", ""),
    ]
    assert "owner/good" in sketchguide("models").out
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: scan(tmp_path / "none"))
    assert "owner/good" not in sketchguide("models").out
