"""Pictures with captions for training: found in a folder, split by file, turned into batches on demand."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import stat
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Generator, Tensor
from torch.nn import functional as F

from sketchguide.errors import SketchguideError, TrainingError, UsageError, warn
from sketchguide.files import is_file, look_at
from sketchguide.images import FORMATS, MAX_PIXELS, MAX_SIDE, MIN_SIDE, open_image, to_tensor
from sketchguide.pictures import prompt_in

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_LIST, _TABLE = "metadata.jsonl", "metadata.csv"
_SUBFOLDER = "a .txt beside each picture, or the name of the sub-folder it is in"
_SOURCES = f"Captions come from {_LIST} or {_TABLE}, {_SUBFOLDER}."
_CORRUPT = 0.1  # share of files that may be unreadable
_NAMED = 20  # unreadable files that are named at once
_LONGEST = 4  # a picture keeps at most this many times the wanted side; the ends of longer ones are cut off


@dataclass(frozen=True)
class Example:
    """One picture and its caption. `name` is the path below the data folder, with forward slashes."""

    path: Path
    caption: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far a training picture may differ from the file; every change is drawn evenly from its range.

    flip: mirror left and right, one picture in two. scale: range of the zoom factor. rotate: largest angle in degrees.
    shift: largest shift, as a share of the side. What comes into view continues the border of the picture, so paper
    stays paper; mirroring would bring in pieces of the object.
    """

    flip: bool = True
    scale: tuple[float, float] = (0.85, 1.1)
    rotate: float = 8.0
    shift: float = 0.06

    def __post_init__(self) -> None:
        if not 0.1 <= self.scale[0] <= self.scale[1] <= 10:
            raise UsageError(f"scale is {self.scale}; it rises, within 0.1 to 10.", field="scale")
        if not 0 <= self.rotate <= 180:
            raise UsageError(f"rotate is {self.rotate}; it is 0 to 180 degrees.", field="rotate")
        if not 0 <= self.shift <= 0.5:
            raise UsageError(f"shift is {self.shift}; it is 0 to 0.5 of the side.", field="shift")


_MILD = Augmentation()


class Pictures:
    """Batches of pictures of one size, (width, height) in pixels, made from `examples` when they are asked for.

    Decoded pictures stay in memory, at about the wanted size, up to `cache_bytes`. Files that cannot be read are
    skipped and listed in `skipped` with the reason. Those `beside` it are others of the same data: the two count
    their files and list the unreadable ones together. `used` has the places among `examples` of the pictures that were
    in a batch, one for each, however many captions it has.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        size: tuple[int, int],
        augmentation: Augmentation = _MILD,
        cache_bytes: int = 2**30,
        beside: Pictures | None = None,
    ) -> None:
        if not examples:
            raise UsageError("There are no pictures to train on.", hint="Give at least one.", field="data")
        self.examples = tuple(examples)
        self.size = size
        self.augmentation = augmentation
        self.skipped: list[tuple[Path, str]] = [] if beside is None else beside.skipped
        self._files: set[Path] = set() if beside is None else beside._files
        self._files.update(example.path for example in examples)
        self.used: set[int] = set()
        self._places = {example.name: number for number, example in enumerate(examples)}
        self._cache: dict[Path, Image.Image | None] = {}
        self._room = cache_bytes

    def batch(self, rng: Generator, count: int) -> tuple[Tensor, list[str]]:
        """`count` pictures drawn with replacement, cropped and augmented: (count, 3, H, W) in [-1, 1], and captions.

        Everything is drawn from `rng`, and always the same number of draws: the same state gives the same batch, also
        in a process that has not seen the earlier ones. An unreadable picture gives way to its neighbour in the list.
        Raises TrainingError when more than 10 % of the files cannot be read.
        """
        draws = torch.rand(8, count, generator=rng, dtype=torch.float64, device=rng.device).cpu()
        chosen: list[tuple[Image.Image, str]] = []
        for place in draws[0].tolist():
            start, all_of_them = int(place * len(self.examples)), len(self.examples)
            number, picture = next(self._readable((start - back) % all_of_them for back in range(all_of_them)))
            self.used.add(self._places[self.examples[number].name])
            chosen.append((picture, self.examples[number].caption))
        crops = [
            _crop(picture, self.size, (across, down))
            for (picture, _), across, down in zip(chosen, *draws[1:3].tolist(), strict=True)
        ]
        return self._augment(to_tensor(crops), draws[3:]), [caption for _, caption in chosen]

    def fixed(self, count: int) -> tuple[Tensor, list[str]]:
        """The same `count` pictures (all of them if there are fewer) at every call, cropped to the centre, unaltered.

        Which ones does not depend on the order of the examples; of several captions each has its last. Shapes, ranges
        and errors as for `batch`.
        """
        everything = next(self.fixed_in_parts(count, part=count), None)
        return everything or (torch.empty(0, 3, self.size[1], self.size[0]), [])

    def fixed_in_parts(self, count: int, *, part: int) -> Iterator[tuple[Tensor, list[str]]]:
        """What `fixed` gives, at most `part` pictures at once."""
        shuffled = sorted(self._places.values(), key=lambda n: _place(self.examples[n].name, "fixed", 0))
        readable = islice(self._readable(shuffled), count)
        while chosen := list(islice(readable, part)):
            crops = [_crop(picture, self.size, (0.5, 0.5)) for _, picture in chosen]
            yield to_tensor(crops), [self.examples[number].caption for number, _ in chosen]

    def _readable(self, numbers: Iterable[int]) -> Iterator[tuple[int, Image.Image]]:
        for number in numbers:
            picture = self._picture(self.examples[number].path)
            if picture is not None:
                yield number, picture
            elif len(self.skipped) > _CORRUPT * len(self._files):
                raise TrainingError(
                    f"{len(self.skipped)} of {len(self._files)} pictures cannot be read, and at most 10 % may fail. "
                    + " ".join(reason for _, reason in self.skipped[:3]),
                    hint="Repair or remove these files.",
                    field="data",
                )

    def _picture(self, path: Path) -> Image.Image | None:
        if path in self._cache:
            return self._cache[path]
        try:
            picture = _fit(open_image(path), self.size)
        except SketchguideError as error:
            self._cache[path] = None
            self.skipped.append((path, error.message))
            return None
        # Four bytes for each pixel: so Pillow stores RGB.
        self._room -= 4 * picture.width * picture.height
        if self._room >= 0:
            self._cache[path] = picture
        return picture

    def _augment(self, images: Tensor, draws: Tensor) -> Tensor:
        """Flip, zoom, rotate and shift each image by one resampling. draws: (5, B) in [0, 1)."""
        height, width = images.shape[2:]
        low, high = self.augmentation.scale
        zoom = low + (high - low) * draws[1]
        angle = math.radians(self.augmentation.rotate) * (2 * draws[2] - 1)
        right, down = 2 * self.augmentation.shift * (2 * draws[3:5] - 1)
        mirror = torch.where(draws[0] < 0.5, -1.0, 1.0) if self.augmentation.flip else torch.ones_like(zoom)
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        # From places in the result to places in the picture, both in [-1, 1]: the sides differ in length.
        rows = (mirror * cos, -sin * height / width, right, mirror * sin * width / height, cos, down)
        theta = torch.stack(rows, dim=1).reshape(-1, 2, 3).to(images.dtype)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        warped = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
        return warped.clamp(-1, 1)


def find_examples(
    folder: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    suffixes: Sequence[str] = SUFFIXES,
    named: bool = False,
    recipes: bool = False,
) -> list[Example]:
    """Every captioned picture (a file with one of these `suffixes`) below `folder`, in the order of their paths; or
    `limit` of them, drawn by `seed`. A picture with several captions is an example for each.

    The caption comes from `metadata.jsonl` (one object a line: `file_name`, relative to that file, and `text` or
    `caption`) or `metadata.csv` (columns of these names), else from the `.txt` beside the picture (`apple.txt` or
    `apple.png.txt`), else with `recipes` from the prompt in a PNG (`prompt_in`), else from the name of the sub-folder
    it is in. A folder with such a list takes part with the pictures in it, and no others. Pictures in `folder` itself
    that have no caption get an empty one or, where they are `named` for what they show, the words of their name
    (`red-apple-2.png`). Hidden files are left out. A SketchguideWarning counts pictures without a caption, those that a
    list leaves out, and those captioned
    by their folder where a .txt seems to be meant.

    Of the same files the same are drawn, on any machine; a larger limit adds to those of a smaller one.

    Raises UsageError when the folder is missing or has no pictures, and for a line or caption that cannot be used.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; it is at least 1.", field="limit")
    try:
        there = look_at(folder)
        what = "does not exist" if there is None else "" if stat.S_ISDIR(there.st_mode) else "is a file, not a folder"
    except OSError as error:  # what it lies in may not be looked at, or its name is too long
        what = f"cannot be looked at: {error.strerror}"
    if what:
        raise UsageError(f"The folder {folder} {what}.", hint="Give a folder of pictures.", field="data")
    files = _files(folder)
    if tables := [path for path in files if path.name == "metadata.parquet"]:
        raise UsageError(
            f"The list {tables[0]} is not read.",
            hint=f"Save it as {_LIST} or {_TABLE}, or remove it.",
            field="data",
        )
    lists = [path for path in files if path.name == _LIST]
    listed = {path.parent for path in lists}
    lists += [path for path in files if path.name == _TABLE and path.parent not in listed]
    listed |= {path.parent for path in lists}
    known = set(files)
    captions: list[tuple[Path, str | None]] = [pair for path in lists for pair in _listed(path, known)]
    mentioned = {path for path, _ in captions}
    pictures = [path for path in files if path.suffix.lower() in suffixes and path not in mentioned]
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
    bare = [path for path in pictures if listed.isdisjoint(path.parents)]
    untold = [path for path in bare if recipes and not _text_beside(path, texts)]
    ours = {path: prompt for path in untold if (prompt := prompt_in(path)) is not None}
    for path in bare:
        caption = _clean(ours[path], f"The recipe of {path}") if path in ours else _caption_beside(path, texts, folder)
        captions.append((path, _words_of(path) if named and caption is None else caption))
    beside = {place for path in files if path not in texts.values() for place in (path, path.with_suffix(""))}
    _warn_of_texts(
        [path for path in bare if path not in ours],
        texts,
        folder,
        {place.name for place in texts if place not in beside},
    )
    if not captions and lists:
        raise UsageError(
            f"The list {lists[0]} names no picture.",
            hint=f"Fill it, or remove it: captions then come from {_SUBFOLDER}.",
            field="data",
        )
    if not captions:
        raise UsageError(
            f"The folder {folder} has no pictures ({', '.join(suffixes)}).",
            hint=_SOURCES,
            field="data",
        )
    if unlisted := len(pictures) - len(bare):
        names = " or ".join(sorted({path.name for path in lists}))
        warn(f"{_are(unlisted, f' in {folder}')} not in {names} and left out.")
    if without := sum(caption is None for _, caption in captions):
        warn(f"{_are(without, f' in {folder}')} without a caption and get an empty one. {_SOURCES}")
    examples = [Example(path, caption or "", path.relative_to(folder).as_posix()) for path, caption in captions]
    if limit is None:
        return sorted(examples, key=lambda example: example.name)
    names = {example.name for example in examples}
    drawn = sorted(names, key=lambda name: (_place(name, "limit", seed), name))[:limit]
    turns = {name: turn for turn, name in enumerate(drawn)}
    return sorted((one for one in examples if one.name in turns), key=lambda one: turns[one.name])


def split(examples: Sequence[Example], *, held_out: float = 0.1, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Split by file into those to train on and those held out, about the share `held_out` of them; a link is the file
    that it leads to.

    Each file's side follows from its name and `seed` alone, so files added later move no others. Only where one side
    would be empty, the nearest file goes there (two files or more; `held_out` 0 holds out none).
    """
    if not 0 <= held_out < 1:
        raise UsageError(f"held_out is {held_out}; it is at least 0 and below 1.", field="held_out")
    own_last = sorted(examples, key=lambda one: (one.path.is_symlink(), one.name), reverse=True)
    files = {one.name: os.path.realpath(one.path) for one in own_last}
    first = {file: name for name, file in files.items()}  # its own name, not one that a link gives it
    places = sorted((_place(name, "split", seed), name) for name in first.values())
    if held_out == 0 or len(places) < 2:
        return list(examples), []
    inside = sum(place < held_out for place, _ in places)
    held = {name for _, name in places[: min(max(inside, 1), len(places) - 1)]}
    sides: tuple[list[Example], list[Example]] = [], []
    for one in examples:
        sides[first[files[one.name]] in held].append(one)
    return sides


def digest(examples: Sequence[Example]) -> str:
    """The number of examples and 8 hex digits that change with their names, captions and sizes in bytes."""
    text = json.dumps(sorted((one.name, one.caption, _bytes(one.path)) for one in examples))
    return f"{len(examples)} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def readable(examples: Sequence[Example]) -> list[Example]:
    """Those whose files begin as pictures of a size that can be used; a SketchguideWarning names the others.

    Only headers are read, so that thousands of files take seconds. What is wrong with the pixels, `Pictures` finds.

    Raises UsageError when more than 10 % of the files cannot be used. Up to twenty of them are named.
    """
    paths = dict.fromkeys(example.path for example in examples)
    flaws = {path: flaw for path in paths if (flaw := _flaw(path))}
    told = [f"{path} {flaw}" for path, flaw in flaws.items()]
    if len(told) > _NAMED:
        told[_NAMED:] = [f"and {len(told) - _NAMED} more"]
    if len(flaws) > _CORRUPT * len(paths):
        raise UsageError(
            f"{len(flaws)} of {len(paths)} pictures cannot be used, and at most 10 % may fail: {'; '.join(told)}.",
            hint="Repair or remove these files.",
            field="data",
        )
    if told:
        warn(f"{_are(len(flaws))} left out: {'; '.join(told)}.")
    return [example for example in examples if example.path not in flaws]


def _flaw(path: Path) -> str:
    """What is wrong with a picture file as far as its header tells, nothing if it is ''."""
    if not is_file(path):
        return "is not an ordinary file"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                image.verify()
    except UnidentifiedImageError:
        return "is not a readable picture" if path.stat().st_size else "is empty"
    except Exception as error:  # the decoders raise nearly everything on damaged files
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        most = f"{MAX_SIDE} a side and {MAX_PIXELS // 1_000_000} million in all"
        return f"has {width} × {height} pixels, where {MIN_SIDE} to {most} are allowed"
    return ""


def _are(count: int, where: str = "") -> str:
    return f"1 picture{where} is" if count == 1 else f"{count} pictures{where} are"


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nothing, which will be listed as unreadable
        return 0


def _place(name: str, purpose: str, seed: int) -> float:
    """A place in [0, 1) that follows from the name; another purpose or seed gives an unrelated one."""
    digest = hashlib.sha256(f"{purpose}/{seed}/".encode() + os.fsencode(name)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _files(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise UsageError(f"The data folder cannot be read: {error}.", field="data") from error

    files: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            files += [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        seen.add(real)
    return files


def _listed(path: Path, known: Collection[Path]) -> Iterator[tuple[Path, str]]:
    for where, entry in _rows(path) if path.name == _TABLE else _lines(path):
        name, text = entry.get("file_name"), entry.get("text", entry.get("caption"))
        if not isinstance(name, str) or not isinstance(text, str):
            raise UsageError(
                f"{where} lacks a file name or a caption.",
                hint='A line is {"file_name": "apple.png", "text": "a red apple"}, or has these columns.',
                field="data",
            )
        picture = path.parent / name
        if picture not in known:
            picture = path.parent / name.replace("\\", "/")  # as Windows writes it
        if picture not in known:
            why, hint = _not_found(name, path.parent)
            raise UsageError(f"{where} names {name!r}, {why}.", hint=hint, field="data")
        yield picture, _clean(text, where)


def _not_found(name: str, folder: Path) -> tuple[str, str]:
    """Why the files found in `folder` do not have what its list names, and what to do."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts:
        return "a path with '..' in it", "Give the path from the list's folder down: sub/apple.png."
    if any(part.startswith(".") and part != "." for part in parts) and is_file(folder / "/".join(parts)):
        return "which is hidden: its name or its folder's begins with a dot", "Rename that, or remove the line."
    return f"which is not in {folder}", "Names are relative to the list. Add the file or remove the line."


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_read(path).split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"In {path}, line {number}"
        try:
            entry: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where} is not JSON: {error}.", hint="One object a line.", field="data") from error
        yield where, entry if isinstance(entry, dict) else {}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        table = csv.DictReader(io.StringIO(_read(path).decode("utf-8-sig"), newline=""), strict=True)
        columns = table.fieldnames or ()
        if columns and not ("file_name" in columns and {"text", "caption"} & set(columns)):
            raise UsageError(
                f"The list {path} has the columns {', '.join(map(repr, columns))}; file_name and text are needed.",
                hint="Name them in the first line, and separate them by commas: file_name,text",
                field="data",
            )
        for row in table:
            where = f"In {path}, line {table.line_num}"
            if None in row:
                raise UsageError(
                    f"{where} has more columns than the first line names.",
                    hint='A caption with commas goes in quotes: a.png,"a cat, asleep".',
                    field="data",
                )
            yield where, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(
            f"The list {path} is not a table of UTF-8 text: {error}.", hint="Save it as CSV.", field="data"
        ) from error


def _warn_of_texts(pictures: Sequence[Path], texts: Mapping[Path, Path], folder: Path, unread: set[str]) -> None:
    """Warn of pictures that are captioned by the name of their folder, where texts seem to be meant: `unread` are the
    names of those that lie beside no picture.
    """
    without = [path for path in pictures if path.parent != folder and not _text_beside(path, texts)]
    strayed = {path for path in without if {path.name, path.stem} & unread}
    told, bare = (Counter(path.parent for path in some) for some in (set(pictures) - set(without), without))
    odd = [path for path in without if bare[path.parent] < told[path.parent] and path not in strayed]
    by_folder = "the name of the folder is the caption"
    if strayed:
        warn(f"{_are(len(strayed))} captioned by a .txt in another folder, which is not read: {by_folder}. {_SOURCES}")
    if odd:
        warn(f"{_are(len(odd))} without a .txt, which most in the folder have ({odd[0]}): {by_folder}.")


def _text_beside(path: Path, texts: Mapping[Path, Path]) -> Path | None:
    return texts.get(path.with_suffix("")) or texts.get(path)


def _caption_beside(path: Path, texts: Mapping[Path, Path], folder: Path) -> str | None:
    text = _text_beside(path, texts)
    if text is not None:
        try:
            return _clean(_read(text).decode("utf-8-sig"), f"The file {text}")
        except UnicodeDecodeError as error:
            raise UsageError(f"The file {text} is not UTF-8 text.", hint="Save it as UTF-8.", field="data") from error
    if path.parent == folder:
        return None
    return _clean(
        path.parent.name.replace("_", " ").replace("-", " "),
        f"The folder name {path.parent.name!r}",
        hint=f"Rename the folder, or give captions in {_LIST} or a .txt beside each picture.",
    )


def _words_of(path: Path) -> str | None:
    """Of its name, without numbers at its end; None where there are none."""
    words = re.sub(r"[\s\d_-]+$", "", unicodedata.normalize("NFC", path.stem)).replace("_", " ").replace("-", " ")
    return _clean(words, f"The name of {path.name!r}", hint="Rename the file.") if words.strip() else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"The file {path} cannot be read: {error}.", field="data") from error


def _clean(text: str, where: str, *, hint: str = "Write the caption anew.") -> str:
    caption = " ".join(text.split())
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in caption):
        raise UsageError(
            f"{where} has a caption with control characters or half of a character.", hint=hint, field="data"
        )
    return caption


def _fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize so that the picture covers `size` with one side equal to it."""
    factor = max(size[0] / picture.width, size[1] / picture.height)
    sides = (picture.width, picture.height)
    kept = [min(side, _LONGEST * wanted / factor) for side, wanted in zip(sides, size, strict=True)]
    ends = [(side - part) / 2 for side, part in zip(sides, kept, strict=True)]
    box = (ends[0], ends[1], ends[0] + kept[0], ends[1] + kept[1])
    width, height = (max(wanted, round(part * factor)) for part, wanted in zip(kept, size, strict=True))
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)


def _crop(picture: Image.Image, size: tuple[int, int], place: tuple[float, float]) -> Image.Image:
    """Cut `size` out; `place` (across, down) in [0, 1) moves the window from one end to the other."""
    left = int(place[0] * (picture.width - size[0] + 1))
    top = int(place[1] * (picture.height - size[1] + 1))
    return picture.crop((left, top, left + size[0], top + size[1]))
