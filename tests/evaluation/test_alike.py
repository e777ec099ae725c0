from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from sketchguide.errors import OutputError, UsageError
from sketchguide.evaluation.alike import fingerprints, keep_alike
from sketchguide.methods import Batch, Built, Trained
from sketchguide.sampling import Moment

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
    keep_alike(tmp_path, CONFIG, both)
    assert kept(tmp_path) == {**CONFIG, "networks": fingerprints(both)}
    assert list(kept(tmp_path)["networks"]) == ["sketch-loss", "sketch-loss (2)"]
    keep_alike(tmp_path, CONFIG, both)
    with pytest.raises(UsageError, match=r"The network of sketch-loss \(2\) is another one"):
        keep_alike(tmp_path, CONFIG, methods(sketcher, nn.Linear(3, 4)))
    with pytest.raises(UsageError, match="The network of sketch-loss is another one"):
        keep_alike(tmp_path, CONFIG, methods(nn.Linear(2, 3), classifier))


def test_a_folder_that_knows_one_network_of_two_learns_the_other(tmp_path: Path):
    sketcher, classifier = nn.Linear(2, 3), nn.Linear(3, 4)
    keep_alike(tmp_path, CONFIG, methods(sketcher))
    keep_alike(tmp_path, CONFIG, methods(sketcher, classifier))
    assert kept(tmp_path)["networks"] == fingerprints(methods(sketcher, classifier))
    keep_alike(tmp_path, CONFIG, {})
    assert kept(tmp_path)["networks"] == fingerprints(methods(sketcher, classifier))


def test_the_file_is_replaced_by_a_whole_one_and_only_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keep_alike(tmp_path, CONFIG, {})
    before = (tmp_path / "config.json").read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    keep_alike(tmp_path, CONFIG, {})
    with pytest.raises(OutputError, match=r"config\.json' cannot be written"):
        keep_alike(tmp_path, CONFIG, methods(nn.Linear(2, 3)))
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize("text", ["", "{", "5", "{}", '{"networks": 5}', "\N{REPLACEMENT CHARACTER}"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json is damaged\. Give --fresh"):
        keep_alike(tmp_path, CONFIG, {})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(OutputError, match=r"config\.json cannot be read"):
        keep_alike(tmp_path, CONFIG, {})
