"""The scripts in benchmarks/ that compare many settings or predictors: they run, keep what they made, and say so."""

import json
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file

from sketchguide.classifiers import IconClassifier, save_classifier
from sketchguide.evaluation.drawings import Drawing, class_map, load_set
from sketchguide.files import locked
from sketchguide.loading import from_pipe, load_backbone
from sketchguide.methods import Built
from sketchguide.request import Request
from sketchguide.training.predictor import PredictorTraining
from support import MakePredictor, load_script, small_stable_diffusion

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
pytestmark = pytest.mark.shared
Study = Callable[..., ModuleType]


@cache
def read(name: str, data: Path, count: int, size: tuple[int, int]) -> list[Drawing]:
    return load_set(name, data, count=count, size=size)


def drawings(name: str, data: Path, *, count: int, size: tuple[int, int]) -> list[Drawing]:
    """`load_set`, which reads a large file, once for all tests."""
    return list(read(name, data, count, size))


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """`study("curves", "steps", …)`: the script of this name, as if called with the arguments."""

    def load(name: str, *arguments: str | Path) -> ModuleType:
        monkeypatch.syspath_prepend(str(FOLDER))
        module = load_script(FOLDER / f"{name}.py", monkeypatch)
        few = torch.rand((8, 512), generator=torch.Generator().manual_seed(0))
        # to see all of it takes a minute
        monkeypatch.setattr("sketchguide.evaluation.benchmark.artwork", lambda *_, **__: few)
        if name in ("curves", "predictors"):
            short = SimpleNamespace(checked=partial(Request.checked, steps=3))
            monkeypatch.setattr("sketchguide.evaluation.report.Request", short)
        for one in (module, sys.modules.get("judged")):
            if hasattr(one, "load_set"):
                monkeypatch.setattr(one, "load_set", drawings)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        return module

    return load


@pytest.fixture(scope="module")
def options(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    folder = tmp_path_factory.mktemp("study")
    model = small_stable_diffusion()
    model.unet.register_to_config(sample_size=8)  # its default of 32 takes minutes here
    model.save_pretrained(folder / "model")
    codes = {code for codes in class_map(shared / "data").values() for code in codes}
    save_classifier(IconClassifier(sorted(codes), size=32, channels=(8, 8)), folder / "judge.safetensors")
    few = ["--sketches", "2", "--shared", shared, "--model", folder / "model"]
    return [*few, "--classifier", folder / "judge.safetensors"]


def test_a_curve_over_training_pictures(
    study: Study, options: list[str | Path], boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "curve"
    curves = study("curves", "pictures", *options, "--pictures", boxes, "--out", out)
    monkeypatch.setattr(curves, "PICTURES", (4, 6))
    monkeypatch.setattr(curves, "PredictorTraining", lambda: PredictorTraining(steps=2, batch=4))
    curves.main()
    report = json.loads((out / "pictures.json").read_text())
    assert [row["method"].partition(":")[0] for row in report["rows"]] == ["text", "lgp", "lgp"]
    assert all(row["failed"] == 0 and row["f1"] is not None for row in report["rows"])
    assert (out / "pictures.png").stat().st_size > 0

    made = (out / "results.jsonl").read_text()
    monkeypatch.setattr(curves.PredictorRun, "__iter__", lambda _: pytest.fail("it is trained already"))
    curves.main()
    assert (out / "results.jsonl").read_text() == made


def test_a_curve_of_each_method_over_its_strength(
    study: Study,
    options: list[str | Path],
    make_predictor: MakePredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, lines, control = tmp_path / "curve", tmp_path / "lines", tmp_path / "control"
    make_predictor(taps=("mid_block.resnets.0",), channels=(32,)).save_pretrained(lines)
    unet: Any = load_backbone(options[options.index("--model") + 1]).network
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    torch.nn.init.normal_(network.controlnet_mid_block.weight, generator=torch.Generator().manual_seed(1))
    network.save_pretrained(control)
    curves = study("curves", "methods", *options, "--out", out, "--predictor", lines, "--controlnet", control)
    monkeypatch.setattr(curves, "SHARES", (0.5, 1.0))
    curves.main()
    rows = json.loads((out / "methods.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [
        "text",
        f"lgp:predictor={lines},strength=1.15",
        f"lgp:predictor={lines},every=1,widen=1,strength=0.75",
        f"controlnet:path={control},weight=0.5",
        f"controlnet:path={control},weight=0.5,negative_time=0.3",
        f"lgp:predictor={lines},strength=2.3",
        f"lgp:predictor={lines},every=1,widen=1,strength=1.5",
        f"controlnet:path={control},weight=1",
        f"controlnet:path={control},weight=1,negative_time=0.3",
    ]
    assert all(row["failed"] == 0 and row["f1"] is not None for row in rows)
    told = {row["method"]: row["kid"]["estimate"] for row in rows if row["method"].startswith("controlnet")}
    assert len({round(distance, 9) for distance in told.values()}) == 4, "each weight makes pictures of its own"
    assert (out / "methods.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "words"), [("curves", ["steps"]), ("predictors", ["--pictures", "nowhere"]), ("speed", [])]
)
def test_what_goes_wrong_is_told_without_a_trace(
    study: Study, options: list[str | Path], tmp_path: Path, name: str, words: list[str]
) -> None:
    wanted = [] if name == "speed" else [*options, "--out", tmp_path]
    with pytest.raises(SystemExit, match=r"^No model '.*no-model'"):
        study(name, *words, *wanted, "--model", tmp_path / "no-model").main()


def test_two_runs_do_not_share_a_folder(study: Study, options: list[str | Path], tmp_path: Path) -> None:
    for name, words in (("curves", ["steps"]), ("predictors", ["--pictures", "nowhere"])):
        script = study(name, *words, *options, "--out", tmp_path)
        with locked(tmp_path), pytest.raises(SystemExit, match="is at work in"):
            script.main()


def test_a_method_that_never_works_is_told_of(
    study: Study,
    options: list[str | Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    curves = study("curves", "steps", *options, "--out", tmp_path)
    build = curves.build_method

    def broken(_: Any) -> Any:
        raise TypeError("out of ideas")

    def fragile(label: str, backbone: Any) -> Built:
        return Built(broken) if label.startswith("lgp") else build("text:steps=1", backbone)

    monkeypatch.setattr(curves, "build_method", fragile)
    monkeypatch.setattr(curves, "STEPS", (2,))
    with pytest.raises(SystemExit, match=r"No picture of lgp:steps=2 could be made"):
        curves.main()
    said = capsys.readouterr()
    assert re.search(r"lgp:steps=2 failed on 2 drawings of quickdraw \(the first: .*\): TypeError: out of", said.err)
    assert "| quickdraw | text:steps=2 | 2 |" in said.out
    assert (tmp_path / "steps.json").exists()


def test_edits_made_with_other_defaults_are_refused(
    study: Study, options: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [one for one in options if one not in ("--sketches", "2")]
    edits = study("edits", *wanted, "--only", "drawings", "--count", "1", "--steps", "2", "--out", tmp_path / "edits")
    monkeypatch.setattr(edits, "PICTURES", {})
    monkeypatch.setattr(edits, "DRAWINGS", {edits.ALONE: "text", edits.PLAIN: "sdedit"})
    edits.main()
    edits.main()
    assert "1 edits of drawings" in (tmp_path / "edits" / "edits.md").read_text()
    monkeypatch.setattr("sketchguide.evaluation.alike.SDEDIT_AMOUNT", 0.5)
    with pytest.raises(SystemExit, match=r"unless_set\.amount was 0\.85, now 0\.5\. .* or give another --out"):
        edits.main()


@pytest.mark.parametrize("rounds", ["0", "-1"])
def test_no_rounds_of_the_clock_are_refused(study: Study, capsys: pytest.CaptureFixture[str], rounds: str) -> None:
    with pytest.raises(SystemExit):
        study("speed", "--rounds", rounds).main()
    assert f"--rounds is {rounds}; it must be at least 1." in capsys.readouterr().err


def test_a_command_that_fails_under_the_clock_says_why(study: Study) -> None:
    with pytest.raises(SystemExit, match=r"`sketchguide generate a cat --tempo 3` failed: .*no option --tempo"):
        study("speed").sketchguide("generate", "a cat", "--tempo", "3")


def test_a_word_that_the_judge_does_not_know_is_refused_before_the_tuning(
    study: Study, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_classifier(IconClassifier(("a", "b"), size=32, channels=(8, 8)), tmp_path / "judge.safetensors")
    options = ["--data", shared / "data", "--parts", tmp_path, "--squeezenet", tmp_path, "--out", tmp_path]
    tuning = study("diffsketching", *options, "--classifier", tmp_path / "judge.safetensors")
    monkeypatch.setattr(tuning, "load_backbone", lambda _: pytest.fail("the model is loaded"))
    with pytest.raises(SystemExit, match="knows no icon of 'duck'; choose another --word"):
        tuning.main()


def test_only_the_icons_that_the_judge_knows_are_asked_for(study: Study, shared: Path) -> None:
    word, codes = next((word, codes) for word, codes in class_map(shared / "data").items() if len(codes) > 1)
    judge = IconClassifier((codes[1], "another"), size=32, channels=(8, 8))
    assert study("diffsketching").known_codes(shared / "data", word, judge) == codes[1:2]


def test_predictors_beside_each_other(
    study: Study, options: list[str | Path], boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "predictors"
    predictors = study("predictors", *options, "--pictures", boxes, "--steps", "2", "--out", out)
    short = {"steps": 2, "batch": 4}
    names = {
        "ours": predictors.Variant(PredictorTraining(**short)),
        "plain": predictors.Variant(PredictorTraining(**short, normalize_taps=True, clean_widths=())),
        "spoilt": predictors.Variant(PredictorTraining(**short), predictors.SPOILT_EDGES),
        "faded": predictors.Variant(PredictorTraining(**short), predictors.DISTANCES, predictors.towards_faded),
    }
    monkeypatch.setattr(predictors, "variants", lambda *_: iter(names.items()))
    predictors.main()
    report: dict[str, Any] = json.loads((out / "predictors.json").read_text())
    training = report["training"]
    assert [one["predictor"] for one in training] == list(names)
    assert training[0]["parameters"] > training[1]["parameters"] > 0
    assert [one["held_out"] is None for one in training] == [False, False, True, True]
    assert [row["method"] for row in report["rows"]] == ["text", *names]
    assert all(row["failed"] == 0 and row["f1"] is not None for row in report["rows"])
    assert [one["other"] for one in report["comparisons"]] == ["text", "plain", "spoilt", "faded"]

    names["plain"] = predictors.Variant(PredictorTraining(**short))
    with pytest.raises(SystemExit, match="was trained otherwise"):
        predictors.main()
    earlier = json.loads((out / "0" / "training.json").read_text())
    del earlier["seconds"]
    (out / "0" / "training.json").write_text(json.dumps(earlier))
    with pytest.raises(SystemExit, match="by an earlier version; give another --out"):
        predictors.main()

    two = ["--only", "plain", "--trainings", "2", "--past", "3", "--out", tmp_path / "two"]
    again = study("predictors", *options, "--pictures", boxes, "--steps", "2", *two)
    monkeypatch.setattr(again, "variants", lambda *_: iter(names.items()))
    with pytest.raises(SystemExit, match="a multiple of 25"):
        again.main()
    monkeypatch.setattr(again, "BATCH", 2)
    monkeypatch.setattr("judged.BATCH", 2)
    again.main()
    one, other = (load_file(tmp_path / "two" / name / "predictor.safetensors") for name in ("1", "1-1"))
    assert any(not torch.equal(one[key], other[key]) for key in one)
    found = [json.loads(line) for line in (tmp_path / "two" / "results.jsonl").read_text().splitlines()]
    assert {(r["method"], r["drawing"][:4], r["seed"]) for r in found} == {
        (method, f"{3 + i:04d}", seed + i)
        for method in ("text", "ours", "plain")
        for i in range(2)
        for seed in (1000, 11_000)
    }


def test_what_a_pull_takes_of_memory_is_counted(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = study("memory", "--out", tmp_path / "memory.json")
    small = from_pipe(small_stable_diffusion())
    weights, plain, pulled, checkpointed = module.taken_by(small).values()
    assert weights == sum(tensor.nbytes for tensor in small.network.parameters()) / 2**20
    assert 2 * plain < checkpointed < pulled
    monkeypatch.setattr(module, "stable_diffusion", lambda _: small)
    module.main()
    assert json.loads((tmp_path / "memory.json").read_text())["size"] == list(small.default_size)
