"""What comes with the package: models, predictors and trained parts, found by name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sketchguide.errors import ModelNotFoundError, UsageError, WeightsError, warn
from sketchguide.files import is_dir, is_file
from sketchguide.predictors import FILE_NAME as PREDICTOR_FILE
from sketchguide.predictors import Reads

Kind = Literal["model", "predictor", "parts"]
RECOGNISER = "recogniser"  # a classifier of pictures that knows the words that a model knows
EMBEDDED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Shipped:
    """A model or predictor that comes with the package."""

    name: str
    folder: Path
    kind: Kind

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def verify(self) -> None:
        """Compare every weight file with the manifest: the safetensors format does not notice a flipped bit."""
        manifest: dict[str, dict[str, Any]] = json.loads((EMBEDDED / "manifest.json").read_text())
        for relative, expected in manifest.items():
            file = EMBEDDED / relative
            if self.folder not in file.parents:
                continue
            data = file.read_bytes() if file.is_file() else b""
            if len(data) != expected["size"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
                raise WeightsError(
                    f"{file} is damaged: {len(data)} bytes; it should be {expected['size']} with sha256 "
                    f"{expected['sha256']}.",
                    hint="Install sketchguide again.",
                    field=self.kind,
                )


def shipped() -> list[Shipped]:
    """Everything that works offline right after installation."""
    if not EMBEDDED.is_dir():
        return []
    return [Shipped(f.name, f, kind) for f in sorted(EMBEDDED.iterdir()) if (kind := kind_of(f)) is not None]


def kind_of(folder: Path) -> Kind | None:
    """What a folder holds that can be loaded: a diffusers pipeline, a predictor, or trained parts with reports."""
    if (folder / "model_index.json").exists():
        return "model"
    if (folder / PREDICTOR_FILE).exists():
        return "predictor"
    return "parts" if any(folder.glob("*-report.json")) else None


def find_part(name: str | Path | None, part: str, *, field: str, model: str | None = None) -> Path:
    """The file of a trained part: `name` itself, the one in that folder, or the one shipped under that name; None means
    the one that is shipped.

    `part` is what `sketchguide component` calls it, or RECOGNISER. None finds rather what was trained for `model`, and
    warns (SketchguideWarning) where there is only one for another model. Raises ModelNotFoundError, naming `field`.
    """
    file = f"{part}.safetensors"
    kind = "classifier" if part == RECOGNISER else part
    name = None if name is None else str(name)
    if name is not None:
        path = Path(name)
        path = path / file if is_dir(path) else path
        if is_file(path):
            return path
    there = [one for one in shipped() if one.kind == "parts" and (one.folder / file).is_file()]
    for one in sorted(there, key=lambda one: one.name != f"{model}-parts"):
        if name in (None, one.name):
            one.verify()
            trained_for = one.name.removesuffix("-parts")
            if name is None and model is not None and trained_for not in (model, _kin_of(model)):
                warn(
                    f"The {part} that is shipped was trained for {trained_for}, not for {model}: "
                    f"train your own with `sketchguide component {kind}` and give it as {field}."
                )
            return one.folder / file
    if name is not None:
        raise ModelNotFoundError(
            f"No {part} at {str(name)!r}.", hint=f"Give a folder with {file}, or that file.", field=field
        )
    raise ModelNotFoundError(
        f"No {part} comes with this version.",
        hint=f"Train one: sketchguide component {kind} --data FOLDER -o DIR, and give DIR.",
        field=field,
    )


def _kin_of(model: str) -> str | None:
    """The shipped model that draws as the shipped `model` does, from the same latents; None where there is none."""
    record = EMBEDDED / model / "training.json"
    known = any(one.name == model and one.kind == "model" for one in shipped()) and record.is_file()
    return json.loads(record.read_text(encoding="utf-8")).get("latents_of") if known else None


def find_features(name: str | None, part: str, *, field: str, model: str | None = None) -> str:
    """What `load_features` takes: `name`, or the file of `part` where that is a folder, a shipped name or None."""
    if name is None or is_dir(Path(name)) or any(one.kind == "parts" and one.name == name for one in shipped()):
        return str(find_part(name, part, field=field, model=model))
    return name


def own_predictor(model: str, reads: Reads = "ink") -> str:
    """The name of the predictor that ships with the model of that name, or with one that draws from the same latents;
    UsageError where there is none.
    """
    name = _predictor_of(model, reads)
    if name is None:
        raise UsageError(
            f"{model!r} has no predictor of its own{'' if reads == 'ink' else ' that reads latents'}.",
            hint=f"Train one: `sketchguide train --model … --data … --reads {reads} -o …`, and name it as predictor; "
            "or show the drawing to a ControlNet made for scribbles (controlnet), which needs none.",
            field="predictor",
        )
    return name


def has_predictor(model: str, reads: Reads = "ink") -> bool:
    """Whether `own_predictor` finds one."""
    return _predictor_of(model, reads) is not None


def _predictor_of(model: str, reads: Reads) -> str | None:
    there = {one.name for one in shipped()}
    names = [shipped_predictor(one, reads) for one in (model, _kin_of(model)) if one is not None]
    return next((name for name in names if name in there), None)


def shipped_predictor(model: str, reads: Reads) -> str:
    """The name under which a predictor of edges for `model` ships; by default it is the one that reads ink."""
    return f"{model}-edges" if reads == "ink" else f"{model}-edges-latent"
