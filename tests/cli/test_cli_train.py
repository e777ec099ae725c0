import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sketchguide.cli.component import NAMES
from sketchguide.cli.session import until_stopped
from sketchguide.defaults import TRAINING_STEPS
from sketchguide.errors import TrainingError
from sketchguide.files import locked
from sketchguide.predictors import LatentPredictor
from sketchguide.training.checkpoints import Checkpoints
from sketchguide.training.data import Pictures, find_examples, split
from sketchguide.training.parts import PARTS
from sketchguide.training.predictor import PredictorRun, PredictorTraining
from sketchguide.training.run import TrainingStep
from sketchguide.training.session import Session
from support import small_stable_diffusion

Run = Callable[..., Any]


def _log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _reached(folder: Path) -> int:
    """The step of the latest checkpoint of a run."""
    latest = Checkpoints(folder / "checkpoints").latest()
    assert latest is not None
    return latest.step


def _stop_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGTERM, times: int = 1) -> None:
    write = Session._write

    def write_and_stop(self: Session, line: Mapping[str, Any], *, scored: bool) -> None:
        write(self, line, scored=scored)
        if line["step"] == step:
            for _ in range(times):
                os.kill(os.getpid(), number)

    monkeypatch.setattr(Session, "_write", write_and_stop)


def test_training_makes_a_predictor_with_a_card_and_a_log(trained: tuple[Path, Any], model: Path):
    folder, result = trained
    assert result.code == 0, result.err
    assert "6 steps" in result.out
    assert f"Use it: sketchguide generate 'a red apple' --sketch apple.svg --model {model}" in result.out
    assert LatentPredictor.from_pretrained(folder).config.backbone == str(model)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sketchguide\n")
    for part in (str(model), "edges", "6 of batch 2", "held-out error", "cores", "down_blocks", "Licence"):
        assert part in card
    log = _log(folder)
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert 0 < log[-1]["held_out"] < 100
    assert f"| held-out error | {log[-1]['held_out']:.3f} |" in card
    useless = "Warning: The predictor reads no better than a constant: train longer or on more pictures.\n"
    assert result.err == (useless if log[-1]["held_out"] >= 1 else "")


@pytest.mark.parametrize(
    ("score", "words"), [(float("nan"), ["No edges were found"]), (1.0, ["no better than a constant"]), (0.99, [])]
)
def test_a_predictor_that_may_be_of_no_use_is_told(
    sketchguide: Run,
    training: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    score: float,
    words: list[str],
):
    monkeypatch.setattr(PredictorRun, "score", lambda *_: score)
    result = sketchguide(*training, "--steps", "1", "-o", tmp_path / "run", "--json")
    told = result.json["warnings"]
    assert len(told) == len(words)
    assert all(word in warning for word, warning in zip(words, told, strict=True))


def test_a_predictor_of_latents_is_trained_and_guides(
    sketchguide: Run, training: list[str], quick: list[str], drawing: Path, tmp_path: Path
):
    folder, picture = tmp_path / "latents", tmp_path / "picture.png"
    result = sketchguide(*training, "--steps", "2", "--reads", "latent", "-o", str(folder))
    assert result.code == 0, result.err
    assert LatentPredictor.from_pretrained(folder).config.reads == "latent"
    assert "| maps | edges, read as latents |" in (folder / "README.md").read_text()
    result = sketchguide(
        "generate", "a ball", *quick, "--sketch", str(drawing), "--predictor", str(folder), "-o", str(picture)
    )
    assert result.code == 0, result.err
    assert picture.exists()
    refused = sketchguide(*training, "--steps", "2", "--resume", "-o", str(folder))
    assert refused.code == 2
    assert "reads" in refused.err


def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(
    sketchguide: Run, training: list[str], trained: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "run"
    arguments = [*training, "--steps", "6", "-o", str(folder)]
    with monkeypatch.context() as patched:
        _stop_at(3, patched)
        result = sketchguide(*arguments)
    assert result.code == 143
    stopped, hint = result.err.splitlines()
    assert stopped == "Stopped."
    assert hint.startswith("Step 3 is saved. Go on with: sketchguide train ")
    assert hint.endswith("--resume")
    assert not (folder / "predictor.safetensors").exists()

    refused = sketchguide(*arguments)
    assert refused.code == 2
    assert "holds a run that has come to step 3" in refused.err
    changed = sketchguide(*arguments, "--rate", "0.1", "--resume")
    assert changed.code == 2
    assert "rate was 0.002, now 0.1" in changed.err

    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')  # of steps that were made but not saved
    result = sketchguide(*arguments, "--resume", "--json")
    assert result.code == 0
    assert result.json["predictor"] == str(folder)
    assert result.json["steps"] == 6
    assert [line["step"] for line in _log(folder)] == [1, 2, 3, 4, 5, 6]
    ours, theirs = (path / "predictor.safetensors" for path in (folder, trained[0]))
    assert ours.read_bytes() == theirs.read_bytes()


def test_fresh_starts_again(sketchguide: Run, training: list[str], tmp_path: Path):
    arguments = [*training, "-o", str(tmp_path / "run")]
    assert sketchguide(*arguments, "--steps", "2").code == 0
    assert sketchguide(*arguments, "--steps", "1", "--fresh").code == 0
    assert [line["step"] for line in _log(tmp_path / "run")] == [1]
    assert _reached(tmp_path / "run") == 1


def test_fresh_keeps_what_there_is_until_something_is_learned(
    sketchguide: Run, training: list[str], trained: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    arguments = [*training, "--steps", "40", "-o", str(folder), "--fresh"]
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    loss = PredictorRun.loss
    with monkeypatch.context() as patched:
        patched.setattr("sketchguide.training.run.MAX_SKIPS", 2)
        patched.setattr(PredictorRun, "loss", lambda run: loss(run) * float("nan"))
        assert sketchguide(*arguments).code == 1
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert _reached(folder) == 6
    _stop_at(1, monkeypatch)
    assert sketchguide(*arguments).code == 143
    assert {path.name for path in folder.iterdir()} == {"log.jsonl", "checkpoints"}
    assert [line["step"] for line in _log(folder)] == [1]
    assert _reached(folder) == 1


def test_a_default_that_has_changed_since_does_not_end_a_run(
    sketchguide: Run, training: list[str], trained: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    monkeypatch.setitem(PredictorTraining.__init__.__kwdefaults__, "normalize_taps", True)
    monkeypatch.setitem(PredictorTraining.__init__.__kwdefaults__, "widths", (8,))
    assert PredictorTraining().normalize_taps
    result = sketchguide(*training, "--steps", "6", "-o", folder, "--resume")
    assert result.code == 0, result.err
    assert LatentPredictor.from_pretrained(folder).config == LatentPredictor.from_pretrained(trained[0]).config


def test_a_second_signal_stops_within_a_step_and_saves_nothing_half_done(
    sketchguide: Run, training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _stop_at(2, monkeypatch, signal.SIGINT, times=2)
    monkeypatch.setattr("sketchguide.training.session.SAVE_EVERY", 0.0)
    result = sketchguide(*training, "--steps", "5", "-o", tmp_path / "run")
    assert result.code == 130
    assert "Step 1 is saved." in result.err
    assert _reached(tmp_path / "run") == 1


def test_a_stop_before_the_first_step_leaves_nothing(
    sketchguide: Run, training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sketchguide.loading.load_backbone", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    result = sketchguide(*training, "-o", tmp_path / "run")
    assert (result.code, result.err) == (130, "Stopped.\n")
    assert list(tmp_path.iterdir()) == []


def test_every_part_that_the_command_names_can_be_trained() -> None:
    assert tuple(PARTS) == NAMES


@pytest.mark.parametrize("command", [("train",), *(("component", part) for part in NAMES)], ids=" ".join)
def test_held_out_pictures_are_scored_and_never_trained_on(
    sketchguide: Run,
    pictures: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
):
    drawn: dict[str, set[Path]] = {"batch": set(), "fixed": set()}  # what there is to draw from

    def watch(name: str) -> None:
        make = getattr(Pictures, name)

        def watched(self: Pictures, *given: Any) -> Any:
            drawn[name] |= {one.path for one in self.examples}
            return make(self, *given)

        monkeypatch.setattr(Pictures, name, watched)

    watch("batch")
    watch("fixed")
    monkeypatch.setattr("sketchguide.training.told.ToldRun.score", lambda *_: 1.0)  # it takes most of the time
    options = ["--model", model, "--device", "cpu", "--batch", "2", "--steps", "1", "-o", tmp_path / "run"]
    result = sketchguide(*command, "--data", pictures, *options)
    assert result.code == 0, result.err
    training, held_out = ({one.path for one in part} for part in split(find_examples(pictures)))
    assert drawn == {"batch": training, "fixed": held_out}


def test_a_model_of_other_weights_does_not_go_on(sketchguide: Run, training: list[str], model: Path, tmp_path: Path):
    mine = tmp_path / "tiny"
    mine.symlink_to(model)
    arguments = [*training, "--model", str(mine), "--steps", "1", "-o", str(tmp_path / "run")]
    assert sketchguide(*arguments).code == 0
    mine.unlink()
    small_stable_diffusion(seed=1).save_pretrained(mine)
    result = sketchguide(*arguments, "--resume")
    assert result.code == 2
    assert "The settings are not those of the checkpoint: weights was" in result.err


def test_pictures_of_other_captions_do_not_go_on(sketchguide: Run, training: list[str], pictures: Path, tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    for number, file in enumerate(sorted(pictures.rglob("*.png"))[:4]):
        (data / f"{number}.png").write_bytes(file.read_bytes())
        (data / f"{number}.txt").write_text("a ball")
    arguments = [*training, "--data", str(data), "--steps", "1", "-o", str(tmp_path / "run")]
    assert sketchguide(*arguments).code == 0
    assert sketchguide(*arguments, "--resume").code == 0
    (data / "2.txt").write_text("a bell")
    result = sketchguide(*arguments, "--resume")
    assert result.code == 2
    assert "not those of the checkpoint: the pictures or their captions have changed." in result.err


def test_pictures_are_looked_at_before_the_run(
    sketchguide: Run, training: list[str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    for name in ("a.png", "b.png", "c.png"):
        (data / name).write_bytes(b"no picture")
        (data / name).with_suffix(".txt").write_text("a ball")
    (data / "red ball" / "0.txt").write_text("a red ball " * 100)
    monkeypatch.setattr(PredictorRun, "score", lambda *_: 0.5)
    arguments = [*training, "--data", str(data), "--steps", "1", "-o", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        patched.setattr("sketchguide.loading.load_backbone", None)  # it is not come to
        refused = sketchguide(*arguments)
    assert refused.code == 2
    assert refused.err.startswith(f"Error: 3 of 15 pictures cannot be used, and at most 10 % may fail: {data}/a.png is")
    assert not (tmp_path / "run").exists()
    (data / "b.png").unlink()
    (data / "c.png").unlink()
    result = sketchguide(*arguments, "--images", "500")
    assert result.code == 0, result.err
    few, left_out, cut = result.err.splitlines()
    assert few == f"Warning: --images is 500, but {data} has only 13."
    assert left_out == f"Warning: 1 picture is left out: {data}/a.png is not a readable picture."
    assert cut.startswith("Warning: Captions are longer than ")
    assert "about 1 of 12; the longest loses '" in cut
    (data / "a.png").unlink()
    assert sketchguide(*arguments, "--resume").code == 0


@pytest.mark.parametrize(("steps", "more"), [(3, " With other pictures the run starts again: give --fresh."), (0, "")])
def test_pictures_that_fail_late_may_need_a_fresh_start(tmp_path: Path, steps: int, more: str):
    class Failing:
        step, skipped, seconds, settings = 0, 0, 0.0, SimpleNamespace(steps=1000)

        def __iter__(self) -> Iterator[TrainingStep]:
            for self.step in range(1, steps + 1):
                yield TrainingStep(self.step, 1.0, 0)
            raise TrainingError("2 of 12 pictures cannot be read.", hint="Repair or remove these files.", field="data")

        def state(self) -> dict[str, Any]:
            return {}

    kept: Any = SimpleNamespace(save=lambda *_: None)
    session = Session(Failing(), kept, {}, None, None, tmp_path / "log.jsonl")
    with pytest.raises(TrainingError) as caught:
        list(until_stopped(session, []))
    assert caught.value.hint == f"Repair or remove these files.{more}"


def test_steps_that_changed_nothing_are_told(
    sketchguide: Run, training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loss = PredictorRun.loss
    monkeypatch.setattr(PredictorRun, "loss", lambda run: loss(run) * (float("nan") if run.step == 1 else 1))
    monkeypatch.setattr(PredictorRun, "score", lambda *_: 0.5)
    result = sketchguide(*training, "--steps", "3", "-o", tmp_path / "run", "--json")
    assert result.code == 0, result
    assert result.json["warnings"] == ["1 of 3 steps changed nothing: loss or gradient was not finite."]


def test_a_picture_with_several_captions_counts_once(
    sketchguide: Run, training: list[str], pictures: Path, tmp_path: Path
):
    data = tmp_path / "data"
    data.mkdir()
    files = sorted(pictures.rglob("*.png"))[:4]
    for file in files:
        (data / file.name).write_bytes(file.read_bytes())
    lines = [{"file_name": file.name, "text": text} for file in files for text in ("a thing", "a shape", "a toy")]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = sketchguide(*training, "--data", data, "--batch", "12", "--steps", "4", "-o", tmp_path / "run")
    assert result.code == 0, result.err
    facts = json.loads((tmp_path / "run" / "training.json").read_text())
    assert facts["training_images"] + facts["held_out_images"] == len(files)


def test_minutes_shorten_the_run_and_the_schedule(sketchguide: Run, training: list[str], tmp_path: Path):
    folder = tmp_path / "run"
    result = sketchguide(*training, "--minutes", "0.02", "-o", folder, "--json")
    assert result.code == 0
    steps = result.json["steps"]
    assert 0 < steps < TRAINING_STEPS.default
    latest = Checkpoints(folder / "checkpoints").latest()
    assert latest is not None
    assert (latest.step, latest.meta["steps"], latest.meta["config"]["steps"]) == (
        steps,
        steps,
        TRAINING_STEPS.default,
    )
    assert _log(folder)[-1]["held_out"] is not None
    again = sketchguide(*training, "--minutes", "0.02", "-o", folder, "--resume", "--json")
    same = ("steps", "loss", "held_out")
    assert [again.json[name] for name in same] == [result.json[name] for name in same]


def test_two_runs_in_one_folder(sketchguide: Run, training: list[str], tmp_path: Path):
    with locked(tmp_path / "run" / "checkpoints"):
        result = sketchguide(*training, "-o", tmp_path / "run")
    assert result.code == 2
    assert "Another run" in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "0"], "steps is 0"),
        (["--batch", "1"], "batch is 1"),
        (["--rate", "nan"], "rate is nan"),
        (["--images", "0"], "images is 0"),
        (["--minutes", "-1"], "minutes is -1"),
        (["--minutes", "nan"], "minutes is nan"),
        (["--seed", "-1"], "seed is -1"),
        (["--dtype", "int8"], "dtype is 'int8'"),
        (["--map", "depth"], "Unknown map 'depth'"),
        (["--reads", "lines"], "reads is 'lines'"),
        (["--data", "nowhere"], "does not exist"),
        (["--resume", "--fresh"], "exclude each other"),
    ],
)
def test_wrong_training_options(sketchguide: Run, training: list[str], tmp_path: Path, options: list[str], words: str):
    result = sketchguide(*training, "-o", tmp_path / "run", *options)
    assert result.code == 2
    assert words in result.err.splitlines()[0]
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_used(sketchguide: Run, training: list[str], trained: tuple[Path, Any], tmp_path: Path):
    (tmp_path / "file").write_text("")
    result = sketchguide(*training, "-o", tmp_path / "file")
    assert (result.code, result.err.splitlines()[0]) == (
        2,
        f"Error: The output {tmp_path}/file is a file, not a folder.",
    )
    result = sketchguide(*training, "-o", "/proc/run")
    assert result.code == 1
    assert "/proc/run" in result.err
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "predictor.safetensors").write_bytes((trained[0] / "predictor.safetensors").read_bytes())
    result = sketchguide(*training, "-o", tmp_path / "done")
    assert result.code == 2
    assert "holds a predictor" in result.err
    assert [path.name for path in (tmp_path / "done").iterdir()] == ["predictor.safetensors"]


@pytest.mark.parametrize("name", ["model", "output"])
def test_a_folder_that_is_called_as_an_option_is(
    sketchguide: Run, training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "predictor.safetensors").write_bytes(b"")
    result = sketchguide(*training, "-o", name)
    assert result.err.splitlines()[0] == f"Error: The folder {name} holds a predictor."


@pytest.mark.parametrize("name", ["README.md", "training.json", "log.jsonl"])
def test_files_of_others_are_not_overwritten(sketchguide: Run, training: list[str], tmp_path: Path, name: str):
    (tmp_path / name).write_text("mine\n")
    result = sketchguide(*training, "-o", tmp_path)
    assert result.code == 2
    assert f"holds a {name}, which the run would overwrite" in result.err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine\n"


def test_ctrl_c_in_a_terminal_saves_the_run(training: list[str], tmp_path: Path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "sketchguide.cli", *training, "--steps", "100000", "-o", str(folder)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # other tests have the other cores
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=alone) as process:
        deadline = time.monotonic() + 300
        while not (folder / "log.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    latest = Checkpoints(folder / "checkpoints").latest()
    assert latest is not None
    assert f"Step {latest.step} is saved. Go on with: sketchguide train" in err
    assert _log(folder)[-1]["step"] == latest.step
