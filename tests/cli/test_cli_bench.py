import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sketchguide.classifiers import IconClassifier, save_classifier
from sketchguide.errors import UsageError
from sketchguide.evaluation import drawings
from sketchguide.evaluation.alike import forget
from sketchguide.evaluation.drawings import Drawing
from sketchguide.fingerprints import fingerprint
from sketchguide.sketch import SpatialMap

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def bench(model: Path, trained: tuple[Path, Any]) -> list[str]:
    """A comparison that takes a moment."""
    lgp = f"lgp:steps=3,predictor={trained[0]}"
    options = ["--model", model, "--device", "cpu", "--sketches", 3, "--batch", 2]
    return [str(one) for one in ["bench", *options, "--method", "text:steps=3", "--method", lgp]]


@pytest.fixture(scope="module", autouse=True)
def quick_drawings(loaded_once: Callable[..., Any]) -> Iterator[None]:
    """The model draws its own set in three steps, and the same set once; it is loaded once."""
    own, made = drawings.own_edges, dict[tuple[Any, ...], list[Any]]()

    def once(backbone: Any, **asked: Any) -> list[Any]:
        key = (backbone.name, *(tuple(value) if isinstance(value, tuple | list) else value for value in asked.values()))
        if key not in made:
            made[key] = own(backbone, steps=3, **asked)
        return list(made[key])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(drawings, "own_edges", once)
        patched.setattr("sketchguide.loading.load_backbone", loaded_once)
        yield


@pytest.fixture(scope="module")
def done(sketchguide: Run, bench: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("bench") / "run"
    return folder, sketchguide(*bench, "-o", folder, "--json")


def test_it_leaves_figures_pictures_and_sheets(done: tuple[Path, Any]):
    folder, result = done
    assert result.code == 0, result.err
    rows = result.json["rows"]
    assert [row["method"].partition(":")[0] for row in rows] == ["text", "lgp", "ground truth"]
    assert all(row["drawings"] == 3 and row["failed"] == 0 for row in rows)
    assert rows[2]["f1"]["estimate"] > 0.98
    assert rows[0]["ratio"]["estimate"] == 1
    assert len((folder / "results.jsonl").read_text().splitlines()) == 9
    assert "| own | text:steps=3 | 3 |" in (folder / "table.md").read_text()
    assert json.loads((folder / "summary.json").read_text())["rows"] == rows
    (beside,) = result.json["comparisons"]  # the last method, where there is no plain lgp
    assert beside["method"] == rows[1]["method"]
    assert beside["other"] == rows[0]["method"]
    assert beside["f1"]["estimate"] == pytest.approx(rows[1]["f1"]["estimate"] - rows[0]["f1"]["estimate"])
    assert f"| set | {beside['method']} less |" in (folder / "table.md").read_text()
    with Image.open(folder / "own.png") as sheet:
        assert sheet.size[0] > 64
    text, lgp = result.json["costs"]
    assert (text["parameters"], text["memory"], text["seconds"]) == (0, 1, 1)
    assert lgp["parameters"] > 1000
    assert lgp["images"] > 0
    assert lgp["training_seconds"] > 0
    assert lgp["memory"] > 1
    (warning,) = result.json["warnings"]
    assert warning.startswith("Without --weights the edges are found as in training")


def test_a_second_run_keeps_the_first(sketchguide: Run, bench: list[str], done: tuple[Path, Any]):
    folder, first = done
    before = (folder / "results.jsonl").read_text()
    again = sketchguide(*bench, "-o", folder, "--json")
    assert again.json["rows"] == first.json["rows"]
    assert (folder / "results.jsonl").read_text() == before


def test_the_method_to_compare_must_be_one_of_them(sketchguide: Run, bench: list[str], done: tuple[Path, Any]):
    result = sketchguide(*bench, "-o", done[0], "--compare", "pnp")
    assert result.code == 2
    assert "--compare pnp is none of the methods.\nChoose one of text:steps=3, lgp:" in result.err


def test_other_settings_do_not_mix(sketchguide: Run, bench: list[str], done: tuple[Path, Any]):
    result = sketchguide(*bench, "-o", done[0], "--seed", "3")
    assert result.code == 2
    assert "seed was 1000, now 3" in result.err
    assert "--fresh" in result.err


def test_another_predictor_under_the_same_name_is_noticed(sketchguide: Run, bench: list[str], done: tuple[Path, Any]):
    file = done[0] / "config.json"
    config = json.loads(file.read_text())
    (lgp,) = config["networks"]
    file.write_text(json.dumps(config | {"networks": {lgp: "0123456789ab"}}))
    result = sketchguide(*bench, "-o", done[0])
    file.write_text(json.dumps(config))
    assert result.code == 2
    assert f"The network of {lgp} is another one" in result.err


def test_another_edge_detector_is_noticed(sketchguide: Run, bench: list[str], done: tuple[Path, Any]):
    file = done[0] / "config.json"
    config = json.loads(file.read_text())
    assert config["judges"] == {"edges": "edges"}
    file.write_text(json.dumps(config | {"judges": {"edges": "0123456789ab"}}))
    result = sketchguide(*bench, "-o", done[0])
    file.write_text(json.dumps(config))
    assert result.code == 2
    assert "judges" in result.err


def test_another_classifier_is_noticed(sketchguide: Run, bench: list[str], done: tuple[Path, Any], tmp_path: Path):
    classifier = IconClassifier(("circle", "square"), size=32, channels=(4,))
    save_classifier(classifier, tmp_path / "judge.safetensors")
    result = sketchguide(*bench, "-o", done[0], "--classifier", tmp_path / "judge.safetensors")
    assert result.code == 2
    assert f"judges.recognised was not set, now {fingerprint(classifier)}" in result.err


@pytest.mark.parametrize(("known", "warned"), [("1f34e", False), ("circle", True)])
def test_a_classifier_that_knows_nothing_that_is_drawn_is_told_of_before_pictures_are_made(
    sketchguide: Run,
    bench: list[str],
    done: tuple[Path, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: str,
    warned: bool,
):
    blank = SpatialMap(np.zeros((64, 64), np.float32), np.ones((64, 64), np.float32))
    drawings = [Drawing("apple", "an apple", blank, ("1f34e",))]
    monkeypatch.setattr("sketchguide.evaluation.drawings.load_set", lambda *_, **__: drawings)
    save_classifier(IconClassifier((known, "square"), size=32, channels=(4,)), tmp_path / "judge.safetensors")
    options = ["--set", "quickdraw", "--data", tmp_path, "--classifier", tmp_path / "judge.safetensors"]
    result = sketchguide(*bench, *options, "-o", done[0])
    assert "judges.recognised was not set" in result.err
    assert ("--classifier knows none of the things that are drawn" in result.err) == warned


def test_a_mistake_beside_fresh_loses_nothing(sketchguide: Run, bench: list[str], done: tuple[Path, Any]):
    before = (done[0] / "results.jsonl").read_text()
    result = sketchguide(*bench, "-o", done[0], "--fresh", "--set", "own-blurred")
    assert result.code == 2
    assert "There is no set of drawings 'own-blurred'" in result.err
    assert (done[0] / "results.jsonl").read_text() == before


def test_a_method_whose_memory_cannot_be_measured_costs_that_figure_alone(
    sketchguide: Run, bench: list[str], done: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any) -> None:
        raise TypeError("no memory of it")

    monkeypatch.setattr("sketchguide.evaluation.costs.peak_memory", fail)
    result = sketchguide(*bench, "-o", done[0], "--json")
    assert result.code == 0, result.err
    assert [row["memory"] for row in result.json["costs"]] == [None, None]


def test_names_of_methods_are_shown_as_they_are(sketchguide: Run, bench: list[str], tmp_path: Path):
    options = [*bench[: bench.index("--method")], "--sketches", "1", "--method", "text:steps=1,negative=a [/b]"]
    result = sketchguide(*options, "-o", tmp_path)
    assert result.code == 0, result.err
    assert "text:steps=1,negative=a [/b]" in result.out


def test_a_config_of_something_else_is_kept(sketchguide: Run, bench: list[str], tmp_path: Path):
    (tmp_path / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    for more in ([], ["--fresh"]):
        result = sketchguide(*bench, "--sketches", "1", "-o", tmp_path, *more)
        assert result.code == 2
        assert "config.json is not of a benchmark" in result.err
        assert "ControlNetModel" in (tmp_path / "config.json").read_text()


def test_no_more_pictures_are_made_at_once_than_asked_for(
    sketchguide: Run, bench: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any, batch: int, **__: Any) -> None:
        raise UsageError(f"{batch} at once")

    monkeypatch.setattr("sketchguide.evaluation.drawings.own_edges", refuse)
    assert "2 at once" in sketchguide(*bench, "-o", tmp_path).err


def test_own_drawings_can_be_spoiled(sketchguide: Run, bench: list[str], tmp_path: Path):
    few = [*bench, "--sketches", "1", "-o", str(tmp_path), "--json"]
    result = sketchguide(*few, "--set", "own", "--set", "own-thick")
    assert result.code == 0, result.err
    rows = {(row["set"], row["method"]): row for row in result.json["rows"]}
    text, lgp = bench[bench.index("--method") + 1], bench[-1]
    assert rows["own", text]["f1"] == rows["own-thick", text]["f1"]  # held to the lines as they were meant
    assert rows["own", lgp]["f1"] != rows["own-thick", lgp]["f1"]


def test_drawings_of_ones_own_are_measured(sketchguide: Run, bench: list[str], drawing: Path, tmp_path: Path):
    folder = tmp_path / "mine"
    (folder / "round").mkdir(parents=True)
    (folder / "round" / "a.svg").write_bytes(drawing.read_bytes())
    line = Image.new("L", (64, 64), 255)
    line.paste(0, (10, 30, 54, 33))
    line.save(folder / "line.png")
    (folder / "line.txt").write_text("a road")
    line.save(folder / "red-apple_2.png")
    options = [*bench[: bench.index("--method") + 2], "--drawings", folder, "-o", tmp_path / "run", "--json"]
    result = sketchguide(*options)
    assert result.code == 0, result.err
    (row,) = result.json["rows"]
    assert (row["set"], row["drawings"]) == ("drawings", 3)
    assert row["right"] is None
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    assert {json.loads(one)["prompt"] for one in lines} == {"a road", "round", "red apple"}
    assert sketchguide(*options, "--set", "drawings-thick").code == 0
    inside = sketchguide(*bench, "--drawings", folder, "-o", folder / "run")
    assert inside.code == 2
    assert "would be taken for drawings" in inside.err
    (folder / "12.svg").write_bytes(drawing.read_bytes())
    assert "1 picture in" in sketchguide(*options[:-3], "-o", tmp_path / "numbered").err
    none = sketchguide(*bench, "--drawings", tmp_path / "none", "-o", tmp_path / "other", "--json")
    assert (none.code, none.json["error"]["field"]) == (2, "drawings")
    refused = sketchguide(*bench, "--set", "drawings", "-o", tmp_path / "other")
    assert refused.code == 2
    assert "The set 'drawings' needs a folder. Give --drawings FOLDER." in " ".join(refused.err.split())


def test_a_method_that_never_works_costs_its_own_rows_alone(
    sketchguide: Run, bench: list[str], done: tuple[Path, Any], trained: tuple[Path, Any]
):
    broken = f"lgp:steps=3,stop=1,predictor={trained[0]}"
    result = sketchguide(*bench, "--method", broken, "-o", done[0], "--json")
    assert result.code == 1
    assert result.json["error"]["message"] == f"No picture of {broken} on own could be made."
    rows = {row["method"]: row for row in result.json["rows"]}
    assert (rows[broken]["drawings"], rows[broken]["failed"]) == (0, 3)
    assert [row for row in result.json["rows"] if row["method"] != broken] == done[1].json["rows"]
    (warning,) = (one for one in result.json["warnings"] if "was trained for 0 to 0.9" in one)
    assert warning.startswith(f"{broken} failed on 3 drawings of own (the first: 0000-a-red-apple): ")
    assert result.json["costs"][2]["memory"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "magic"], "There is no method 'magic'"),
        (["--set", "quickdraw"], "The set 'quickdraw' needs data."),
        (["--set", "quickdraw", "--data", "nowhere"], "is missing"),
        (["--weights", "nowhere"], "nowhere"),
        (["--weights", "nowhere"], "Without --data there is no artwork to compare with, and so no KID."),
        (["--classifier", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--set", "icon"], "There is no set of drawings 'icon'"),
        (["--set", "own", "--set", "own-blurred"], "There is no set of drawings 'own-blurred'"),
        (["--sketches", "0"], "--sketches is '0'; it must be at least 1."),
        (
            ["--seed", "4294967295", "--seeds", "2", "--sketches", "3"],
            "The last picture would have seed 4294977297; 4294967295 is",
        ),
    ],
)
def test_bad_input(sketchguide: Run, model: Path, tmp_path: Path, options: list[str], message: str):
    result = sketchguide("bench", "-o", tmp_path / "run", "--model", model, *options, "--method", "text:steps=1")
    assert result.code == 2 if "--weights" not in options and "--classifier" not in options else result.code != 0
    assert message in result.err
    assert not (tmp_path / "run").exists()


def test_a_file_for_a_folder_is_wrong_use(sketchguide: Run, bench: list[str], tmp_path: Path):
    (tmp_path / "README.md").write_text("keep me")
    result = sketchguide(*bench, "-o", tmp_path / "README.md")
    assert result.code == 2
    assert "README.md is a file, not a folder." in result.err
    assert (tmp_path / "README.md").read_text() == "keep me"


def test_what_fresh_cannot_remove_is_named(sketchguide: Run, bench: list[str], done: tuple[Path, Any], tmp_path: Path):
    shutil.copytree(done[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "table.md").unlink()
    (tmp_path / "table.md").mkdir()
    result = sketchguide(*bench, "--sketches", "1", "-o", tmp_path, "--fresh")
    assert result.code == 1
    assert "table.md cannot be removed" in result.err
    assert (tmp_path / "results.jsonl").exists()


def test_fresh_leaves_nothing_of_what_the_command_wrote(done: tuple[Path, Any], tmp_path: Path):
    shutil.copytree(done[0], tmp_path, dirs_exist_ok=True)
    forget(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["lock"]  # which the command holds


def test_quick_leaves_the_numbers_that_are_given(sketchguide: Run, bench: list[str], tmp_path: Path):
    options = [*bench[: bench.index("--method") + 2], "--sketches", "1", "--seeds", "2", "--quick"]
    result = sketchguide(*options, "-o", tmp_path, "--json")
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert sorted(one["seed"] for one in lines if one["method"].startswith("text")) == [1000, 11000]
