"""Only what was made alike stands in one table: what a folder of results was made with, compared on going on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sketchguide
from sketchguide.backbones.base import Backbone
from sketchguide.defaults import EVERY, FEW_STEPS, HANDOVER, NEGATIVE_TIME, SOFT_STEPS, STRENGTH
from sketchguide.errors import OutputError, UsageError
from sketchguide.evaluation.benchmark import Judges
from sketchguide.evaluation.detectors import Detector
from sketchguide.files import write_text
from sketchguide.loading import fingerprint, identity_of
from sketchguide.methods import LGP_PNP, SDEDIT_AMOUNT, STEERING, Built
from sketchguide.request import FOR_DRAWINGS, LayoutSettings, Request
from sketchguide.training.checkpoints import check_config


def made_with(backbone: Backbone, request: Request, judges: Judges, *, batch: int) -> dict[str, Any]:
    """What all results of a benchmark must have in common."""
    detector = judges.detector
    named = {"edges": fingerprint(detector.network) if isinstance(detector, Detector) else detector.name}
    if judges.classifier is not None:
        named["recognised"] = fingerprint(judges.classifier)
    return {
        "sketchguide": sketchguide.__version__,
        **identity_of(backbone),
        "seed": request.seed,
        "batch": batch,
        "settings": request.model_dump(include={*STEERING, "class_scale", "sure", "size", "model"}),
        "unless_set": {
            "negative_time": NEGATIVE_TIME.default,
            "handover": HANDOVER.default,
            "strength": STRENGTH.default,
            "every": EVERY.default,
            "few_steps": FEW_STEPS,
            "soft_steps": SOFT_STEPS,
            "amount": SDEDIT_AMOUNT,
            "layout": LayoutSettings().model_dump(),
            "drawings": dict(FOR_DRAWINGS),
            "lgp-pnp": dict(LGP_PNP),
        },
        "judges": named,
    }


def fingerprints(methods: Mapping[str, Built]) -> dict[str, str]:
    """Those of the networks that methods bring along, by the method's name, a further one with (2) behind it."""
    return {
        name if number == 1 else f"{name} ({number})": fingerprint(one.network)
        for name, built in methods.items()
        for number, one in enumerate(built.networks, start=1)
    }


def keep_alike(folder: Path, config: Mapping[str, Any], methods: Mapping[str, Built], *, afresh: str) -> None:
    """Write to `config.json` in `folder` what its results are made with: `config`, and the fingerprints of the networks
    of every method so far.

    Raises UsageError where the folder holds results that were made otherwise, naming `afresh`, what to give to start
    again, or something else, and OutputError where the file cannot be read or written.
    """
    file = folder / "config.json"
    networks = fingerprints(methods)
    before = _read(file)
    if before is not None:
        own = {key: value for key, value in before.items() if key != "networks"}
        check_config(own, config, of=f"the results in {folder}", afresh=afresh)
        earlier: dict[str, str] = before["networks"]
        if changed := [name for name, one in networks.items() if earlier.get(name, one) != one]:
            raise UsageError(
                f"The network of {changed[0]} is another one than that of the results in {folder}.",
                hint=f"Give {afresh} to start afresh.",
                field="output",
            )
        networks = {**earlier, **networks}
    kept = {**config, "networks": networks}
    if kept != before:
        write_text(file, json.dumps(kept, indent=1) + "\n")


def forget(folder: Path) -> None:
    """Remove what a benchmark measured in `folder`, so that it starts afresh. Raises as `keep_alike` does for a folder
    of something else, and OutputError where a file cannot be removed.
    """
    config = folder / "config.json"
    _read(config)
    for file in (folder / "results.jsonl", config):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{file} cannot be removed: {error.strerror}.", field="output") from error


def _read(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{file} cannot be read: {error.strerror}.", field="output") from error
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("networks"), dict):
        raise UsageError(
            f"{file} is not of a benchmark, or is damaged.", hint="Give another folder, or remove it.", field="output"
        )
    return found
