import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sketchguide as package
from sketchguide.cli import bench
from sketchguide.cli.environment import environment
from sketchguide.extractors import EXTRACTORS
from sketchguide.request import Checked, EditSettings, LayoutSettings, Request
from sketchguide.solvers import SOLVERS
from sketchguide.training.predictor import PredictorTraining

Run = Callable[..., Any]

HELP = """
import sys
from sketchguide.cli import main
MAKING = ("generate", "translate", "edit", "interpolate", "serve")
EVERY = (*MAKING, "train", "finetune", "component", "bench", "models", "env")
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
        "icons-64": "model",
        "icons-64-edges": "predictor",
        "icons-64-edges-latent": "predictor",
        "icons-64-parts": "parts",
    }
    assert "sketcher" in found["icons-64-parts"]["parts"]
    assert "sketcher" in sketchguide("models").out


def test_models_lists_what_the_hub_cached(sketchguide: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import huggingface_hub

    for name, file in (("good", "model_index.json"), ("reader", "predictor.safetensors"), ("other", "config.json")):
        folder = tmp_path / f"models--owner--{name}"
        snapshot = folder / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / file).write_text('{"_class_name": "StableDiffusionPipeline"}')
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
