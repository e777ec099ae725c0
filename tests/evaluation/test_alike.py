from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from sketchguide.classifiers import IconClassifier
from sketchguide.defaults import STRENGTH
from sketchguide.errors import OutputError, UsageError
from sketchguide.evaluation.alike import fingerprints, forget, keep_alike, made_with
from sketchguide.evaluation.benchmark import Judges, Result, picture_of
from sketchguide.evaluation.detectors import Detector, Tin2
from sketchguide.extractors import EXTRACTORS
from sketchguide.methods import Batch, Built, Trained
from sketchguide.request import Request
from sketchguide.sampling import Moment
from support import Tiny

CONFIG = {"seed": 1, "batch": 2}


def nothing(batch: Batch) -> Iterator[Moment]:
    raise AssertionError(batch)


def methods(*networks: nn.Module) -> dict[str, Built]:
    return {"text": Built(nothing), "sketch-loss": Built(nothing, tuple(Trained(one, {}) for one in networks))}


def kept(folder: Path) -> dict[str, dict[str, str]]:
    return json.loads((folder / "config.json").read_text())


def test_every_network_of_a_method_must_stay_what_it_was(tmp_path: Path):
    sketcher, classifier = nn.Linear(2, 3), nn.Linear(3, 4)
    both = methods(sketcher, classifier)
    keep_alike(tmp_path, CONFIG, both, afresh="--fresh")
    assert kept(tmp_path) == {**CONFIG, "networks": fingerprints(both)}
    assert list(kept(tmp_path)["networks"]) == ["sketch-loss", "sketch-loss (2)"]
    keep_alike(tmp_path, CONFIG, both, afresh="--fresh")
    with pytest.raises(UsageError, match=r"The network of sketch-loss \(2\) is another one"):
        keep_alike(tmp_path, CONFIG, methods(sketcher, nn.Linear(3, 4)), afresh="--fresh")
    with pytest.raises(UsageError, match="The network of sketch-loss is another one"):
        keep_alike(tmp_path, CONFIG, methods(nn.Linear(2, 3), classifier), afresh="--fresh")


def test_a_folder_that_knows_one_network_of_two_learns_the_other(tmp_path: Path):
    sketcher, classifier = nn.Linear(2, 3), nn.Linear(3, 4)
    keep_alike(tmp_path, CONFIG, methods(sketcher), afresh="--fresh")
    keep_alike(tmp_path, CONFIG, methods(sketcher, classifier), afresh="--fresh")
    assert kept(tmp_path)["networks"] == fingerprints(methods(sketcher, classifier))
    keep_alike(tmp_path, CONFIG, {}, afresh="--fresh")
    assert kept(tmp_path)["networks"] == fingerprints(methods(sketcher, classifier))


def test_the_file_is_replaced_by_a_whole_one_and_only_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keep_alike(tmp_path, CONFIG, {}, afresh="--fresh")
    before = (tmp_path / "config.json").read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    keep_alike(tmp_path, CONFIG, {}, afresh="--fresh")
    with pytest.raises(OutputError, match=r"config\.json' cannot be written"):
        keep_alike(tmp_path, CONFIG, methods(nn.Linear(2, 3)), afresh="--fresh")
    assert (tmp_path / "config.json").read_text() == before


def detector(seed: int) -> Detector:
    network = Tin2().eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng))
    return Detector(network)


def classifier(seed: int) -> IconClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IconClassifier(("circle", "square"), size=32, channels=(4,))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Judges(detector(1), classifier(1)), "edges"),
        (Judges(EXTRACTORS["edges"], classifier(1)), "edges"),
        (Judges(detector(0), classifier(2)), "recognised"),
        (Judges(detector(0)), "recognised"),
    ],
    ids=["other edges", "edges of training", "other classifier", "no classifier"],
)
def test_results_of_another_judge_are_refused(tiny: Tiny, tmp_path: Path, other: Judges, named: str):
    def keep(judges: Judges) -> None:
        request = Request.checked(prompt="", seed=1)
        keep_alike(tmp_path, made_with(tiny(), request, judges, batch=2), {}, afresh="--fresh")

    keep(Judges(detector(0), classifier(1)))
    keep(Judges(detector(0), classifier(1)))
    with pytest.raises(UsageError, match=rf"not those of the results in \S+: judges\.{named} was \S+, now [^;]+\.$"):
        keep(other)


def test_results_of_other_defaults_are_refused(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def keep() -> None:
        request = Request.checked(prompt="", seed=1)
        keep_alike(tmp_path, made_with(tiny(), request, Judges(detector(0)), batch=2), {}, afresh="--fresh")

    keep()
    monkeypatch.setattr("sketchguide.evaluation.alike.STRENGTH", STRENGTH._replace(default=9))
    with pytest.raises(UsageError, match=r"unless_set\.strength was 2\.3, now 9\. "):
        keep()


@pytest.mark.parametrize("text", ["{}", '{"networks": 5}', '{"act_fn": "silu"}'])
def test_a_file_of_something_else_is_named_and_kept(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "results.jsonl").write_text("mine\n")
    for do in (partial(keep_alike, tmp_path, CONFIG, {}, afresh="--fresh"), partial(forget, tmp_path)):
        with pytest.raises(UsageError, match=r"config\.json is not of a benchmark\. Give another folder\."):
            do()
    assert (tmp_path / "config.json").read_text() == text
    assert (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize("text", ["", "{", "5", "\N{REPLACEMENT CHARACTER}"])
def test_a_damaged_file_is_named_and_kept_until_all_is_forgotten(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match=r"config\.json is damaged\. Give --fresh to start afresh\."):
        keep_alike(tmp_path, CONFIG, {}, afresh="--fresh")
    assert (tmp_path / "config.json").read_text() == text
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_results_of_nobody_knows_which_judge_are_refused(tmp_path: Path):
    results = tmp_path / "results.jsonl"
    results.touch()
    keep_alike(tmp_path, CONFIG, {}, afresh="--fresh")
    (tmp_path / "config.json").unlink()
    results.write_text("{}\n")
    with pytest.raises(UsageError, match=r"has results, but no config\.json that .* Give --fresh to start afresh\."):
        keep_alike(tmp_path, CONFIG, {}, afresh="--fresh")
    assert not (tmp_path / "config.json").exists()
    forget(tmp_path)
    keep_alike(tmp_path, CONFIG, {}, afresh="--fresh")


def test_all_that_was_made_is_forgotten_and_nothing_else(tmp_path: Path):
    forget(tmp_path)
    keep_alike(tmp_path, CONFIG, {}, afresh="--fresh")
    results = [Result(method="text", set=name, drawing=f"../{name}", prompt="", seed=1) for name in ("own", "../icons")]
    results += [
        Result(method=method, set="own", drawing="0000-cat", prompt="", seed=1) for method in ("text", "lgp:a=b")
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in results))
    made = [picture_of(one, tmp_path) for one in results[2:]]
    made += [tmp_path / name for name in ("own.png", "f1-kid.png", "f1-right.png", "table.md", "summary.json")]
    pictures = tmp_path / "pictures" / "own" / "text"
    mine = [tmp_path / "mine.png", tmp_path / "mine.md", pictures / "mine.png", pictures / "0000-cat-2.png"]
    mine += [tmp_path.parent / "icons.png", pictures.parent / "own-1.png"]
    for file in (*made, *mine):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    forget(tmp_path)
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == {one for one in mine if tmp_path in one.parents}
    assert mine[-2].exists()
    assert [file.name for file in pictures.parent.iterdir() if file.is_dir()] == ["text"]


def test_reports_in_a_folder_that_holds_no_results_are_somebody_elses(tmp_path: Path):
    (tmp_path / "table.md").touch()
    forget(tmp_path)
    assert (tmp_path / "table.md").exists()


def test_files_of_somebody_else_are_not_overwritten(tmp_path: Path):
    theirs = tmp_path / "table.md"
    theirs.touch()
    with pytest.raises(UsageError, match=r"table\.md is not of a benchmark, which would overwrite it"):
        keep_alike(tmp_path, CONFIG, {}, afresh="--fresh", writes=[tmp_path / "own.png", theirs])
    theirs.unlink()
    keep_alike(tmp_path, CONFIG, {}, afresh="--fresh", writes=[theirs])
    theirs.touch()
    keep_alike(tmp_path, CONFIG, {}, afresh="--fresh", writes=[theirs])  # by now it is the benchmark's


def test_what_to_give_to_start_afresh_is_named_as_the_caller_calls_it(tmp_path: Path):
    keep_alike(tmp_path, CONFIG, methods(nn.Linear(2, 3)), afresh="another --out")
    for config, others in ((CONFIG | {"seed": 2}, {}), (CONFIG, methods(nn.Linear(2, 3)))):
        with pytest.raises(UsageError) as caught:
            keep_alike(tmp_path, config, others, afresh="another --out")
        assert str(caught.value.hint).endswith("ive another --out to start afresh.")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(OutputError, match=r"config\.json cannot be read"):
        keep_alike(tmp_path, CONFIG, {}, afresh="--fresh")
