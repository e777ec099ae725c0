"""Bad input: one clear sentence, exit code 2 for wrong use and 1 for failure, no traceback."""

import io
import json
import logging
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import logging as hub_logging
from PIL import Image

from sketchguide.cli import main
from sketchguide.cli.report import hush_libraries
from sketchguide.defaults import SYNONYMS
from sketchguide.predictors import LatentPredictor

Run = Callable[..., Any]

ON_LINUX = pytest.mark.skipif(not Path("/proc").exists(), reason="this system has no /proc")
FULL = Path("/dev/full")  # a device on which no room is left


def _fails(result: Any, code: int, words: str) -> None:
    assert result.code == code, result
    assert result.out == ""
    first, *rest = result.err.splitlines()
    assert first.startswith("Error: ")
    assert words in first
    assert len(rest) <= 1


def _huge_png() -> bytes:
    """A picture of 10,000 x 10,000 pixels that has none of them."""
    parts = [b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND"]
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.svg", None, "no file"),
        ("empty.png", b"", "is empty"),
        ("corrupt.png", b"\x89PNG\r\n\x1a\nnonsense", "corrupt.png"),
        ("text.png", b"not a picture", "not a readable picture"),
        ("broken.svg", b"<svg><path", "not well-formed SVG"),
        ("huge.png", _huge_png(), "at most 36 million"),
        ("scan.pdf", b"%PDF-1.7\n", "is a PDF document, which is not read."),
        ("photo.heic", b"\0\0\0\x18ftypheic" + bytes(200), "is a HEIC or AVIF picture, which is not read."),
    ],
)
def test_sketches_that_cannot_be_used(sketchguide: Run, tmp_path: Path, name: str, content: bytes | None, words: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = sketchguide("generate", "a", "--sketch", tmp_path / name, "-o", tmp_path / "out.png")
    _fails(result, 2, words)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "0"], "Error: --steps is 0"),
        (["--class-scale", "200"], "Error: --class-scale is 200"),
        (["--negative-time", "-0.1"], "Error: --negative-time is -0.1"),
        (["--steps", "1000000000"], "steps is 1000000000"),
        (["--steps", "many"], "--steps is 'many'; it must be a whole number."),
        (["--count", "1.5"], "--count is '1.5'; it must be a whole number."),
        (["--strength", "hard"], "--strength is 'hard'; it must be a number."),
        (["--polarity", "dark"], "--polarity is 'dark'; it must be one of auto, dark-on-light, light-on-dark."),
        (["--size", "5000x5000"], "--size is 5000x5000; each side must be 16 to 4096 pixels."),
        (["--strength", "nan"], "strength is nan"),
        (["--strength", "-1"], "strength is -1"),
        (["--scale", "inf"], "scale is inf"),
        (["--stop", "1.5"], "stop is 1.5"),
        (["--seed", "-1"], "seed is -1"),
        (["--count", "1000000"], "count is 1000000"),
        (["--size", "64"], "size is '64'"),
        (["--size", "100000x8"], "size is"),
        (["--dtype", "int8"], "dtype is 'int8'"),
        (["--stepz", "3"], "--stepz"),
        (["--negative", "a\x00b"], "negative is"),
        (["--from", "missing.png"], "no file"),
    ],
)
def test_options_out_of_range(sketchguide: Run, tmp_path: Path, options: list[str], words: str):
    _fails(sketchguide("generate", "a", *options, "-o", tmp_path / "out.png"), 2, words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "65x64"], "size is 65x64"),
        (["--solver", "magic"], "Unknown solver 'magic'"),
        (["--device", "toaster"], "No device 'toaster'"),
    ],
)
def test_options_that_the_model_refuses(
    sketchguide: Run, quick: list[str], tmp_path: Path, options: list[str], words: str
):
    _fails(sketchguide("generate", "a", *quick, *options, "-o", tmp_path / "out.png"), 2, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate"], "no prompt"),
        (["generate", "red", "apple"], "The prompt has several words."),
        (["interpolate", "3", "8", "-o", "a.png"], "There is no prompt."),
        (["generate", "a", "--sketch", "b.svg", "--sketch", "c.svg"], "--sketch is given 2 times"),
        (["edit", "a.png", "a", "--sketch=b.svg", "--sketch=c.svg"], "--sketch is given 2 times"),
        (["generate", "a", "--lora", "b", "--lora", "b"], "A LoRA is named twice: give each once"),
        (
            ["generate", "a", "--lora", "b", "--lora-scale", "1", "--lora-scale", "2"],
            "2 times --lora-scale for 1 times lora: give one for",
        ),
        (["train", "-o", "x"], "--data"),
        (["paint"], "paint"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_use(sketchguide: Run, arguments: list[str], words: str):
    _fails(sketchguide(*arguments), 2, words)
    result = sketchguide(*arguments, "--json")
    assert result.code == 2
    assert result.err == ""
    assert set(result.json["error"]) == {"code", "message", "hint", "field"}
    assert result.json["error"]["code"] == "usage"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["generate", "a duck", "b.svg"], "If it is the drawing, give it as --sketch b.svg."),
        (["generate", "b.svg"], "If it is the drawing, give it as --sketch b.svg."),
        (["edit", "a duck", "b.svg"], "The picture comes first: b.svg 'a duck'."),
        (["edit", "a.png", "a duck", "b.svg"], "If it is the drawing, give it as --sketch b.svg."),
        (["translate", "b.svg", "a duck", "b.svg"], "If it is the drawing, give it as --sketch b.svg."),
        (
            ["finetune", "--sketch", "a.svg", "b.svg", "-o", "x"],
            "If it is the drawing, give it as --sketch b.svg, and --sketch anew for each other one.",
        ),
    ],
)
def test_a_drawing_in_the_place_of_the_prompt(
    sketchguide: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], hint: str
):
    """A shell makes `--sketch a.svg b.svg` of `--sketch *.svg`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.svg").touch()
    (tmp_path / "duck").touch()  # a word that happens to be a file's name
    result = sketchguide(*arguments)
    _fails(result, 2, "b.svg is a file, and stands where the prompt is.")
    assert hint in result.err
    assert "stands where" not in sketchguide("generate", "duck", "--steps", "0").err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["generate", "a", "--sketch"], "`sketchguide generate --help` lists what there is."),
        (["generate", "a", "--zzz"], "`sketchguide generate --help` lists what there is."),
        (["generate", "a", "--stepz", "3"], "Did you mean --steps or --stop or --sure?"),
        (["generate", "a", "--beta", "5"], "Did you mean --strength?"),
        (["generate", "--prompt", "a"], 'The prompt goes without an option, in quotes: "a red apple".'),
        (["generate", "a", "--resolution=64x64"], "Did you mean --size?"),
        (["interpolate", "1", "2", "--cfg", "4"], "Did you mean --scale?"),
        (["generate", "a", "-n", "3"], "Did you mean --count?"),
        (["generate", "a", "--cfg_scale", "3"], "Did you mean --scale?"),
        (["generate", "a", "--negative_time", "0"], "Did you mean --negative-time?"),
        (["edit", "a.png", "a", "--denoising-strength", "0.5"], "Did you mean --amount?"),
        (["generate", "a", "--denoising-strength", "0.5"], "--amount is an option of `sketchguide edit`."),
        (["generate", "a", "--lowvram"], "Offload the pipeline in Python, and give it to from_pipe()."),
        (
            ["interpolate", "1", "2", "--hires"],
            "Enlarge the picture elsewhere, and then: sketchguide edit LARGE.png PROMPT "
            "--margin 1 --amount 0.4 --size WxH.",
        ),
        (["train", "--denoise", "4"], "--amount is an option of `sketchguide edit`."),
        (["generate", "a", "--tau-f", "1"], "That is an option of `sketchguide translate`."),
        (["translate", "a.png", "a", "--margin", "1"], "That is an option of `sketchguide edit`."),
        (["edit", "a.png", "a", "--only-masked"], "Did you mean --padding-mask-crop?"),
        (["--quick"], "That is an option of `sketchguide bench`."),
        (["generate", "red", "apple", "--seed", "3"], 'Put it in quotes: sketchguide generate "red apple".'),
        (["edit", "a.png", "a", "cat"], 'Put it in quotes: sketchguide edit a.png "a cat".'),
        (["interpolate", "3", "8", "--prompt", "a", "duck", "-o", "d.png"], 'Put it in quotes: --prompt "a duck".'),
        (["generate", "a", "--polarity", "dark"], "Did you mean dark-on-light?"),
        (["translate", "a.png", "a", "--as", "scetch"], "Did you mean sketch?"),
        (["generate", "a", "--polarity", "red"], "`sketchguide generate --help` lists what there is."),
        (
            ["generate", "a", "-o", "new/"],
            "Pictures are written as PNG, which carries what is needed to make them again. For a folder, give a file "
            "in one that exists: new/picture.png.",
        ),
        (
            ["generate", "a", "--as", "sketch"],
            "Did you mean --class or --stop or --sure? That is an option of `sketchguide translate`, "
            "`sketchguide interpolate`.",
        ),
    ],
)
def test_a_wrong_option_is_answered_with_the_right_one(sketchguide: Run, arguments: list[str], hint: str):
    result = sketchguide(*arguments)
    assert (result.code, result.err.splitlines()[1]) == (2, hint)


def test_options_that_others_call_otherwise_are_there(sketchguide: Run):
    for option in {f"--{name.replace('_', '-')}" for name in SYNONYMS.values()}:
        commands = (["generate", "a"], ["edit", "a.png", "a"], ["interpolate", "1", "2"])
        said = [sketchguide(*command, option).err for command in commands]
        assert not all("There is no option" in one for one in said)


@pytest.mark.skipif(not FULL.exists(), reason="this system has none")
@pytest.mark.parametrize(
    "arguments",
    [["env"], ["env", "--json"], ["models", "--json"]],
)
def test_a_full_disk_behind_stdout_is_told_by_every_command(arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    told = io.StringIO()
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "stderr", told)
        assert main(arguments) == 1
    assert told.getvalue() == "Error: Nothing can be written to stdout: No space left on device.\n"


@pytest.mark.skipif(not FULL.exists(), reason="this system has none")
@pytest.mark.parametrize("arguments", [["--version"], ["generate", "--help"], ["component", "--help"]])
def test_a_full_disk_behind_stdout_is_told_in_a_sentence(arguments: list[str]):
    with FULL.open("w") as full:
        run = [sys.executable, "-m", "sketchguide", *arguments]
        done = subprocess.run(run, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: Nothing can be written to stdout: No space left on device.\n")


@pytest.mark.skipif(not FULL.exists(), reason="this system has none")
def test_an_error_that_stdout_does_not_take_is_told_beside_it():
    with FULL.open("w") as full:
        run = [sys.executable, "-m", "sketchguide", "generate", "--json"]
        done = subprocess.run(run, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    first, second, _ = done.stderr.splitlines()
    assert (done.returncode, first) == (2, "Error: Nothing can be written to stdout: No space left on device.")
    assert second == "Error: There is no prompt."


@pytest.mark.parametrize("arguments", [["env"], ["env", "--json"]])
def test_a_pipe_that_nobody_reads_is_left_quietly_by_every_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
):
    told = io.StringIO()
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(sys, "stderr", told)
        with pytest.raises(SystemExit) as left:
            main(arguments)
    assert (left.value.code, told.getvalue()) == (1, "")


@pytest.mark.parametrize("arguments", [["generate", "--help"], ["generate", "--json"]])
def test_a_pipe_that_nobody_reads_is_left_quietly(arguments: list[str]):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = [sys.executable, "-m", "sketchguide", *arguments]
        done = subprocess.run(run, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("output", "code", "words"),
    [
        ("", 2, "is a folder"),
        ("none/out.png", 2, "does not exist"),
        ("file.txt/out.png", 2, "is not a folder"),
        ("out.jpg", 2, "does not end in .png"),
        pytest.param("/proc/out.png", 1, "Nothing can be written at /proc", marks=ON_LINUX),
        ("n" * 300 + ".png", 1, "File name too long"),
    ],
)
def test_outputs_that_cannot_be_written(sketchguide: Run, tmp_path: Path, output: str, code: int, words: str):
    (tmp_path / "file.txt").write_text("")
    _fails(sketchguide("generate", "a", "-o", tmp_path / output), code, words)


def test_unknown_models(sketchguide: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    out = ["-o", tmp_path / "out.png"]
    _fails(sketchguide("generate", "a", "--model", "nosuch", *out), 2, "No model 'nosuch'")
    _fails(sketchguide("generate", "a", "--model", tmp_path, *out), 2, "no model_index.json")
    _fails(sketchguide("generate", "a", "--model", "../../nosuch", *out), 2, "No model '../../nosuch'")
    _fails(sketchguide("generate", "a", "--model", "nobody/nothing", *out), 2, "nobody/nothing")


def test_predictors_that_cannot_be_used(
    sketchguide: Run, quick: list[str], drawing: Path, trained: tuple[Path, Any], tmp_path: Path
):
    def generate_with(predictor: Path) -> Any:
        more = ["--sketch", drawing, "--predictor", predictor, "-o", tmp_path / "out.png"]
        return sketchguide("generate", "a", *quick, *more)

    _fails(generate_with(tmp_path / "none"), 2, "No predictor at")

    file = tmp_path / "predictor.safetensors"
    whole = (trained[0] / "predictor.safetensors").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    _fails(generate_with(tmp_path), 1, "no readable safetensors file")
    file.write_bytes(pickle.dumps({"weights": [1.0]}))
    _fails(generate_with(tmp_path), 1, "no readable safetensors file")

    predictor = LatentPredictor.from_pretrained(trained[0])
    config = predictor.config
    object.__setattr__(config, "taps", ("no_such_block", *config.taps[1:]))
    predictor.save_pretrained(tmp_path)
    _fails(generate_with(tmp_path), 2, "does not fit")


def test_model_files_that_are_damaged(sketchguide: Run, model: Path, tmp_path: Path):
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    arguments = ["generate", "a", "--model", copy, "-o", tmp_path / "out.png"]
    _fails(sketchguide(*arguments), 1, str(file))
    file.write_bytes(pickle.dumps({"weights": [1.0]}))
    _fails(sketchguide(*arguments), 1, str(file))


def test_a_picture_without_a_recipe(sketchguide: Run, tmp_path: Path):
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    _fails(sketchguide("generate", "--from", tmp_path / "plain.png", "-o", tmp_path / "o.png"), 2, "carries no")


def test_errors_are_one_json_object_on_stdout(sketchguide: Run, tmp_path: Path):
    result = sketchguide("generate", "a", "--steps", "0", "-o", tmp_path / "out.png", "--json")
    assert (result.code, result.err) == (2, "")
    assert result.json["error"]["field"] == "steps"
    assert result.json["warnings"] == []


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), "out_of_memory", "memory"),
        (MemoryError(), "out_of_memory", "memory"),
        (KeyError("x"), "internal", "KeyError"),
    ],
)
def test_failures_nobody_foresaw(
    sketchguide: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, words: str
):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("sketchguide.generation.run", fail)
    result = sketchguide("generate", "a", "-o", tmp_path / "out.png")
    _fails(result, 1, words)
    assert ("report it with the output of `sketchguide env`" in result.err) == (code == "internal")
    assert json.loads(sketchguide("generate", "a", "-o", tmp_path / "out.png", "--json").out)["error"]["code"] == code


def test_the_debug_variable_shows_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from sketchguide.cli import main

    monkeypatch.setenv("SKETCHGUIDE_DEBUG", "1")
    assert main(["generate", "a", "--steps", "0", "-o", str(tmp_path / "out.png")]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_tries_of_the_hub_library_are_not_told_of():
    before = hub_logging.get_verbosity()
    try:
        hush_libraries()
        assert not hub_logging.get_logger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)
    finally:
        hub_logging.set_verbosity(before)
