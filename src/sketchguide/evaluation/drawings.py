"""The drawings that pictures are asked to follow, each with the prompt it stands for.

They are read from a folder with `quickdraw/`, `tuberlin/`, `emoji128/` and `class_map.json`, of which the project ships
nothing, or from any folder (`given`); `own_edges` needs no data. Free-hand drawings of the former are of classes that
the embedded models know as icons.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.defaults import STEPS
from sketchguide.errors import UsageError
from sketchguide.evaluation.features import BATCH, SqueezeNet
from sketchguide.evaluation.perturb import PERTURBATIONS, perturb
from sketchguide.evaluation.sets import GIVEN, OWN
from sketchguide.extractors import EXTRACTORS
from sketchguide.images import open_image, to_tensor
from sketchguide.request import Request
from sketchguide.sketch import Sketch, SpatialMap, read_ndjson
from sketchguide.training.data import SUFFIXES, find_examples
from sketchguide.walking import walk

STYLES = ("fluent3d", "noto", "emojitwo", "blobmoji")
Size = tuple[int, int]


@dataclass(frozen=True)
class Drawing:
    """One drawing to follow. `answers` are the classes (Unicode code points of icons) that answer to the prompt.

    `source` keeps the strokes where there are some; `picture` (3, H, W) in [-1, 1] is what the map was found in;
    `meant` is the map before it was spoiled.
    """

    name: str  # unlike all others of its set, and fit for a file name
    prompt: str
    ink: SpatialMap
    answers: tuple[str, ...] = ()
    source: Sketch | None = None
    picture: Tensor | None = None
    meant: SpatialMap | None = None

    @property
    def lines(self) -> SpatialMap:
        """What a picture should agree with: what was meant, where that is not what was drawn."""
        return self.ink if self.meant is None else self.meant

    @cached_property
    def digest(self) -> str:
        """12 hex digits that change with what a picture is asked for or measured by; the last bits do not count."""
        head = [self.prompt, self.answers, self.ink.ink.shape]
        return digest_of(head, self.ink.ink, self.ink.weight, self.lines.ink)


def digest_of(head: Sequence[Any], *arrays: NDArray[np.float32]) -> str:
    """12 hex digits that change with `head`, JSON values, and with `arrays`, but not with their rounding."""
    digest = sha256(json.dumps(head).encode())
    for values in arrays:
        digest.update(np.round(values, 2).astype(np.float32).tobytes())
    return digest.hexdigest()[:12]


OWN_PROMPTS = (
    "a red apple", "a cat", "a house", "a car", "an umbrella", "a fish", "a guitar", "a tree", "a key", "a star",
    "a banana", "an airplane",
)  # fmt: skip
OWN_BATCH = 25  # pictures of its own that a model makes at once at most, so that larger batches give the same ones
SCORED = 500  # Quick, Draw! drawings, the first ones, that the embedded model, its parts and judges have not seen


def quickdraw(data: Path, *, count: int, size: Size) -> list[Drawing]:
    """`count` recognised Quick, Draw! drawings of mapped classes, spread evenly over the classes."""
    mapping = class_map(data)
    by_word: dict[str, list[Sketch]] = {}
    for sketch in read_ndjson(present(data / "quickdraw" / "quickdraw.ndjson.gz"), recognized_only=True):
        if sketch.name in mapping:
            by_word.setdefault(sketch.name, []).append(sketch)
    rng = np.random.default_rng(0)
    words = [str(word) for word in rng.permutation(sorted(by_word))]
    chosen: list[Drawing] = []
    while len(chosen) < count and any(by_word.values()):
        for word in words:
            if by_word[word] and len(chosen) < count:
                pick = by_word[word].pop(int(rng.integers(len(by_word[word]))))
                name = f"{len(chosen):04d}-{word.replace(' ', '-')}"
                ink = pick.rasterize(size=size)
                chosen.append(Drawing(name, with_article(word), ink, tuple(mapping[word]), source=pick))
    return chosen


def tuberlin(data: Path, *, count: int, size: Size) -> list[Drawing]:
    """`count` TU-Berlin sketches (Eitz et al. 2012), spread evenly over the classes there are."""
    mapping = class_map(data)
    folder = present(data / "tuberlin")
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no folder.", hint="Give each class a folder of its drawings there.", field="data"
        )
    folders = [f for f in sorted(folder.iterdir()) if f.is_dir() and f.name in mapping]
    rng = np.random.default_rng(0)
    left = {f.name: [sorted(f.glob("*.png"))[i] for i in rng.permutation(len(list(f.glob("*.png"))))] for f in folders}
    chosen: list[Drawing] = []
    while len(chosen) < count and any(left.values()):
        for word, files in left.items():
            if files and len(chosen) < count:
                file = files.pop()
                sketch = Sketch.open(file)
                name = f"{len(chosen):04d}-{word}-{file.stem}"
                ink = sketch.rasterize(size=size)
                chosen.append(Drawing(name, with_article(word), ink, tuple(mapping[word]), source=sketch))
    return chosen


def icons(data: Path, *, count: int, size: Size) -> list[Drawing]:
    """Edge maps of `count` icons whose concepts neither the embedded model nor a predictor has seen (`held_out`):
    one of each concept, styles taking turns, and where these do not suffice further styles of the same concepts."""
    mapped = {code for codes in class_map(data).values() for code in codes}
    by_code: dict[str, list[dict[str, str]]] = {}
    for record in icon_records(data):
        if held_out(record["unicode"], mapped):
            by_code.setdefault(record["unicode"], []).append(record)
    chosen: list[Drawing] = []
    codes = sorted(by_code, key=lambda c: zlib.crc32(f"order {c}".encode()))
    while len(chosen) < count and any(by_code.values()):
        for i, code in enumerate(codes):
            if not by_code[code] or len(chosen) == count:
                continue
            known = (r for k in range(4) for r in by_code[code] if r["style"] == STYLES[(i + k) % 4])
            record = next(known, by_code[code][0])
            by_code[code].remove(record)
            (picture,) = to_tensor([open_image(data / record["file"])], size=size)
            prompt = f"{record['style']} {record['name']} on a white background"
            name = f"{len(chosen):04d}-{code}-{record['style']}"
            chosen.append(Drawing(name, prompt, edges(picture), (code,), picture=picture))
    return chosen


def own_edges(
    backbone: Backbone,
    *,
    count: int,
    prompts: Sequence[str],
    seed: int = 10**6,
    batch: int = OWN_BATCH,
    steps: int = STEPS.default,
) -> list[Drawing]:
    """Edge maps of pictures that the model itself makes of `prompts`, in turn, in that many `steps`: a set for where
    there is no data."""
    chosen: list[Drawing] = []
    request = Request.checked(prompt="", seed=0, strength=0, steps=steps)
    for first in range(0, count, at_once := min(batch, OWN_BATCH)):
        numbers = range(first, min(first + at_once, count))
        asked = [prompts[i % len(prompts)] for i in numbers]
        *_, last = walk(request, backbone, prompts=asked, seeds=[seed + i for i in numbers])
        pictures = backbone.decode(last.latent).clamp(-1, 1).cpu()
        for i, prompt, picture in zip(numbers, asked, pictures, strict=True):
            name = f"{i:04d}-{'-'.join(prompt.split())}"
            chosen.append(Drawing(name, prompt, edges(picture), picture=picture))
    return chosen


def given(folder: Path, *, count: int, size: Size) -> list[Drawing]:
    """`count` drawings below `folder`, SVG or pictures, or all where there are fewer, with captions for prompts as
    `find_examples` reads them. Raises UsageError for a folder without drawings, SketchError for one that is no drawing.
    """
    try:
        examples = find_examples(folder, limit=count, suffixes=(*SUFFIXES, ".svg"), named=True)
    except UsageError as error:
        error.field = "drawings"
        raise
    chosen: list[Drawing] = []
    for i, example in enumerate(examples):
        sketch = Sketch.open(example.path)
        name = f"{i:04d}-{re.sub(r'[^A-Za-z0-9]+', '-', example.path.stem)}"
        chosen.append(Drawing(name, example.caption, sketch.rasterize(size=size), source=sketch))
    return chosen


def artwork(data: Path, features: SqueezeNet, *, size: Size) -> Tensor:
    """What `features` sees in the icons of all mapped classes and styles on white, (N, D): realistic pictures."""
    mapped = {code for codes in class_map(data).values() for code in codes}
    files = [data / record["file"] for record in icon_records(data) if record["unicode"] in mapped]
    parts = (files[first : first + BATCH] for first in range(0, len(files), BATCH))  # at 1024 pixels all are 12 GB
    return torch.cat([features.embedding(to_tensor([open_image(file) for file in part], size=size)) for part in parts])


SETS: Mapping[str, Callable[..., list[Drawing]]] = MappingProxyType(
    {"quickdraw": quickdraw, "icons": icons, "tuberlin": tuberlin}
)


def load_set(name: str, data: Path, *, count: int, size: Size) -> list[Drawing]:
    """The set called `name`: one of SETS, or one of them spoiled, such as `quickdraw-broken` (`perturb`).

    Raises UsageError for an unknown name, and for data that is not there, damaged or without a drawing for the set.
    """
    base, kind = split_name(name)
    drawings = SETS[base](data, count=count, size=size)
    if not drawings:
        raise UsageError(
            f"{data} has no drawing for the set {base!r}.",
            hint="Put drawings of classes there that class_map.json lists.",
            field="data",
        )
    return spoiled(drawings, kind, size=size) if kind else drawings


def load_sets(
    names: Sequence[str], backbone: Backbone, *, data: Path | None, folder: Path | None, count: int, batch: int
) -> dict[str, Sequence[Drawing]]:
    """The sets of these names, `count` drawings of each: those of `load_set` from `data`, and OWN or GIVEN, that are in
    `folder`, also spoiled. The model makes at most `batch` pictures of its own at once.
    """
    sets: dict[str, Sequence[Drawing]] = {}
    whole: dict[str, list[Drawing]] = {}  # made once, however many ways they are spoiled
    size = backbone.default_size
    for name in names:
        base, kind = split_name(name, (OWN, GIVEN, *SETS))
        if base in SETS and data is not None:
            sets[name] = load_set(name, data, count=count, size=size)
            continue
        if base == GIVEN and folder is not None:
            whole[base] = whole.get(base) or given(folder, count=count, size=size)
        else:
            whole[base] = whole.get(base) or own_edges(backbone, count=count, prompts=OWN_PROMPTS, batch=batch)
        sets[name] = spoiled(whole[base], kind, size=size) if kind else whole[base]
    return sets


def split_name(name: str, known: Collection[str] = SETS) -> tuple[str, str]:
    """The set, one of `known`, and how it is spoiled, "" where it is not: `quickdraw-thin` is ("quickdraw", "thin").

    Raises UsageError for an unknown set or way to spoil it.
    """
    base, dash, kind = name.partition("-")
    if base not in known or (dash and kind not in PERTURBATIONS):
        raise UsageError(
            f"There is no set of drawings {name!r}.",
            hint=f"Choose one of {', '.join(known)}, alone or followed by -{', -'.join(PERTURBATIONS)}.",
            field="sets",
        )
    return base, kind


def spoiled(drawings: Sequence[Drawing], kind: str, *, size: Size) -> list[Drawing]:
    """The drawings with their maps spoiled in one way (`perturb`); what was meant is kept."""
    return [
        replace(d, ink=perturb(d.source or d.ink, kind, size=size, seed=i), meant=d.ink) for i, d in enumerate(drawings)
    ]


def class_map(data: Path) -> dict[str, list[str]]:
    """Quick, Draw! word -> Unicode code points of the icons that show it.

    Raises UsageError for a file that is missing or damaged.
    """
    file = data / "class_map.json"
    try:
        found: dict[str, list[str]] = _read(file)["quickdraw word -> emoji unicode (Fluent)"]
        return {word: list(codes) for word, codes in found.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(file) from error


def icon_records(data: Path) -> list[dict[str, str]]:
    """Of every icon its `file` in `data`, `style`, `unicode` and `name`.

    Raises UsageError for a file that is missing or damaged.
    """
    file = data / "emoji128" / "metadata.json"
    try:
        return [{key: str(record[key]) for key in ("file", "style", "unicode", "name")} for record in _read(file)]
    except (KeyError, TypeError) as error:
        raise _damaged(file) from error


def _read(file: Path) -> Any:
    present(file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> UsageError:
    return UsageError(f"{file} cannot be read or is damaged.", hint="Get it again.", field="data")


def held_out(code: str, mapped: set[str]) -> bool:
    """True for the concepts that only classifiers may see: one in five of those that Quick, Draw! does not cover."""
    return code not in mapped and zlib.crc32(code.encode()) % 5 == 0


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def edges(picture: Tensor) -> SpatialMap:
    """The map of a picture (3, H, W) in [-1, 1], found as predictors are taught."""
    with torch.no_grad():
        ink = EXTRACTORS["edges"](picture[None])[0, 0].numpy()
    return SpatialMap(ink, np.ones_like(ink))


def present(path: Path) -> Path:
    if not path.exists():
        raise UsageError(
            f"{path} is missing.",
            hint="Name the folder that holds quickdraw/, tuberlin/, emoji128/ and class_map.json.",
            field="data",
        )
    return path
