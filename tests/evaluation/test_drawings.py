import gzip
import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sketchguide.errors import UsageError
from sketchguide.evaluation.drawings import (
    Drawing,
    artwork,
    class_map,
    edges,
    held_out,
    load_set,
    own_edges,
    split_name,
    with_article,
)
from sketchguide.evaluation.perturb import PERTURBATIONS
from sketchguide.sketch import SpatialMap
from support import Tiny

SIZE = (64, 64)
WORDS = {"apple": ["1f34e", "1f34f"], "dog": ["1f415"]}
UNSEEN = next(code for code in (f"1f4{i:02x}" for i in range(256)) if held_out(code, set()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the real one, with a few drawings of each kind."""
    folder = tmp_path_factory.mktemp("data")
    mapping = {"quickdraw word -> emoji unicode (Fluent)": WORDS}
    (folder / "class_map.json").write_text(json.dumps(mapping))
    (folder / "quickdraw").mkdir()
    records = [
        {"word": word, "recognized": recognised, "drawing": [[[20 + 10 * i, 200, 200, 20], [20, 20, 200, 200]]]}
        for i in range(3)
        for word in ("apple", "dog", "unmapped")
        for recognised in (True, False)
    ]
    with gzip.open(folder / "quickdraw" / "quickdraw.ndjson.gz", "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    for word in ("dog", "unmapped"):
        (folder / "tuberlin" / word).mkdir(parents=True)
        for i in range(2):
            page = Image.new("L", (200, 200), "white")
            ImageDraw.Draw(page).ellipse((40, 40, 120 + 20 * i, 160), outline="black", width=4)
            page.save(folder / "tuberlin" / word / f"{i}.png")
    (folder / "emoji128").mkdir()
    metadata = []
    for code, style in (("1f34e", "noto"), ("1f415", "fluent3d"), (UNSEEN, "noto"), (UNSEEN, "fluent3d")):
        icon = Image.new("RGBA", (128, 128))
        ImageDraw.Draw(icon).rectangle((30, 30, 90, 90), fill="red")
        file = f"emoji128/{style}-{code}.png"
        icon.save(folder / file)
        metadata.append({"file": file, "style": style, "unicode": code, "name": "red box", "keywords": []})
    (folder / "emoji128" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def test_quickdraw_takes_recognised_drawings_of_mapped_classes_evenly(data: Path):
    drawings = load_set("quickdraw", data, count=4, size=SIZE)
    prompts = [d.prompt for d in drawings]
    assert sorted(prompts) == ["a dog", "a dog", "an apple", "an apple"]
    assert {d.answers for d in drawings} == {("1f34e", "1f34f"), ("1f415",)}
    assert len({d.name for d in drawings}) == 4
    assert all(d.ink.ink.shape == SIZE and d.ink.ink.max() > 0.9 for d in drawings)
    assert [d.name for d in load_set("quickdraw", data, count=4, size=SIZE)] == [d.name for d in drawings]
    assert len(load_set("quickdraw", data, count=100, size=SIZE)) == 6


def test_tuberlin_takes_the_mapped_folders(data: Path):
    drawings = load_set("tuberlin", data, count=10, size=SIZE)
    assert [d.prompt for d in drawings] == ["a dog", "a dog"]
    assert all(0 < d.ink.ink.mean() < 0.5 for d in drawings)  # ink on paper, whichever is dark


def test_icons_are_of_concepts_that_nothing_was_trained_on(data: Path):
    (drawing,) = load_set("icons", data, count=1, size=SIZE)
    again, other = load_set("icons", data, count=5, size=SIZE)  # then the other styles
    assert again.name == drawing.name
    assert {again.prompt.split()[0], other.prompt.split()[0]} == {"noto", "fluent3d"}
    assert drawing.name.startswith(f"0000-{UNSEEN}")
    assert drawing.prompt.endswith("red box on a white background")
    assert drawing.answers == (UNSEEN,)
    assert drawing.picture is not None
    np.testing.assert_array_equal(edges(drawing.picture).ink, drawing.ink.ink)
    assert not held_out(UNSEEN, {UNSEEN})


def test_icons_of_other_styles_come_after_those_that_are_known(data: Path, tmp_path: Path):
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "emoji128" / "metadata.json"
    records = json.loads(file.read_text())
    file.write_text(json.dumps([{**records[2], "style": "mine"}, *records]))
    drawings = load_set("icons", tmp_path, count=5, size=SIZE)
    assert [d.prompt.split()[0] for d in drawings] == ["fluent3d", "noto", "mine"]


def test_a_file_in_place_of_a_folder_is_named(data: Path, tmp_path: Path):
    shutil.copy(data / "class_map.json", tmp_path)
    (tmp_path / "tuberlin").touch()
    with pytest.raises(UsageError, match="tuberlin is no folder"):
        load_set("tuberlin", tmp_path, count=1, size=SIZE)


@pytest.mark.parametrize("kind", sorted(PERTURBATIONS))
def test_spoiled_sets_have_the_same_prompts_and_other_maps(data: Path, kind: str):
    clean = load_set("quickdraw", data, count=3, size=SIZE)
    spoiled = load_set(f"quickdraw-{kind}", data, count=3, size=SIZE)
    assert [d.name for d in spoiled] == [d.name for d in clean]
    for a, b in zip(clean, spoiled, strict=True):
        assert not np.array_equal(a.ink.ink, b.ink.ink)
        np.testing.assert_array_equal(b.lines.ink, a.ink.ink)


@pytest.mark.parametrize("name", ["photos", "quickdraw-melted", "quickdraw-", ""])
def test_unknown_sets_are_refused(data: Path, name: str):
    with pytest.raises(UsageError, match="There is no set of drawings"):
        load_set(name, data, count=1, size=SIZE)


@pytest.mark.parametrize("name", ["quickdraw", "icons", "tuberlin"])
def test_missing_data_is_named(name: str, tmp_path: Path):
    with pytest.raises(UsageError, match="is missing"):
        load_set(name, tmp_path, count=1, size=SIZE)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"quickdraw word -> emoji unicode (Fluent)": 5}', b"\xff".decode("latin-1")]
)
def test_a_damaged_class_map_is_named(text: str, tmp_path: Path):
    (tmp_path / "class_map.json").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"class_map\.json cannot be read or is damaged"):
        class_map(tmp_path)


@pytest.mark.parametrize("text", ["", "5", '[{"file": "a.png"}]'])
def test_damaged_records_of_icons_are_named(text: str, data: Path, tmp_path: Path):
    shutil.copy(data / "class_map.json", tmp_path)
    (tmp_path / "emoji128").mkdir()
    (tmp_path / "emoji128" / "metadata.json").write_text(text)
    for read in (partial(load_set, "icons", count=1), partial(artwork, features=Eyes([]))):
        with pytest.raises(UsageError, match=r"metadata\.json cannot be read or is damaged"):
            read(tmp_path, size=SIZE)


def test_a_set_without_drawings_is_refused(data: Path, tmp_path: Path):
    shutil.copy(data / "class_map.json", tmp_path)
    (tmp_path / "tuberlin" / "unmapped").mkdir(parents=True)
    with pytest.raises(UsageError, match="has no drawing for the set 'tuberlin'"):
        load_set("tuberlin-thick", tmp_path, count=1, size=SIZE)


def test_a_set_and_the_way_it_is_spoiled():
    assert split_name("icons") == ("icons", "")
    assert split_name("icons-thin") == ("icons", "thin")
    assert split_name("own-thin", ("own",)) == ("own", "thin")
    with pytest.raises(UsageError, match="There is no set of drawings 'own'"):
        split_name("own")


def test_a_digest_changes_with_all_that_a_drawing_asks_for():
    def bar(height: int, value: float = 1) -> SpatialMap:
        ink = np.zeros((16, 16), np.float32)
        ink[:height] = value
        return SpatialMap(ink, np.ones_like(ink))

    drawing = Drawing("a", "a cat", bar(3), ("1f34e",))
    heavy = SpatialMap(bar(3).ink, np.full((16, 16), 2, np.float32))
    others = [
        replace(drawing, prompt="a dog"),
        replace(drawing, answers=()),
        replace(drawing, ink=bar(4)),
        replace(drawing, ink=heavy),
        replace(drawing, meant=bar(4)),
    ]
    assert len({one.digest for one in (drawing, *others)}) == 6
    assert replace(drawing, name="b", ink=bar(3, 1 - 1e-6)).digest == drawing.digest


def test_own_edges_need_no_data(tiny: Tiny):
    backbone = tiny()
    drawings = own_edges(backbone, count=3, prompts=("a cat", "a dog"), steps=3)
    assert [d.prompt for d in drawings] == ["a cat", "a dog", "a cat"]
    assert len({d.name for d in drawings}) == 3
    for drawing in drawings:
        assert drawing.picture is not None
        np.testing.assert_array_equal(edges(drawing.picture).ink, drawing.ink.ink)


@pytest.mark.parametrize(("batch", "at_once"), [(2, [2, 2, 1]), (3, [3, 2]), (100, [4, 1])])
def test_no_more_of_them_are_made_at_once_than_asked_for(
    tiny: Tiny, batch: int, at_once: list[int], monkeypatch: pytest.MonkeyPatch
):
    backbone = tiny()
    decode, seen = backbone.decode, list[int]()
    monkeypatch.setattr("sketchguide.evaluation.drawings.OWN_BATCH", 4)
    monkeypatch.setattr(backbone, "decode", lambda latents: seen.append(len(latents)) or decode(latents))
    assert len(own_edges(backbone, count=5, prompts=("a cat",), batch=batch, steps=1)) == 5
    assert seen == at_once


@dataclass
class Eyes:
    """A features network that sees how bright each corner is."""

    parts: list[int]  # how many pictures it was shown at once

    def embedding(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (3, 64, 64)
        self.parts.append(len(images))
        return images[:, :, 0, 0]


def test_artwork_is_of_the_mapped_classes_on_white_and_seen_in_parts(data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sketchguide.evaluation.drawings.BATCH", 1)
    eyes: Any = Eyes([])
    assert torch.equal(artwork(data, eyes, size=SIZE), torch.ones(2, 3))
    assert eyes.parts == [1, 1]


def test_with_article():
    assert [with_article(words) for words in ("apple", "red apple", "owl")] == ["an apple", "a red apple", "an owl"]
