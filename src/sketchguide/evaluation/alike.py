"""Only what was made alike stands in one table: what a folder of results was made with, compared on going on."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import sketchguide
from sketchguide.backbones.base import Backbone
from sketchguide.building import LGP_PNP, STEERING
from sketchguide.defaults import EVERY, FEW_STEPS, HANDOVER, NEGATIVE_TIME, SOFT_STEPS, STRENGTH
from sketchguide.errors import OutputError, UsageError
from sketchguide.evaluation.benchmark import Judges, picture_of, read_results
from sketchguide.evaluation.detectors import Detector
from sketchguide.evaluation.plots import PLOTTED, plot_of, sheet_of
from sketchguide.files import is_file, write_text
from sketchguide.fingerprints import fingerprint, identity_of
from sketchguide.methods import SDEDIT_AMOUNT, Built
from sketchguide.recognition import KEPT, LATER
from sketchguide.request import FOR_DRAWINGS, LayoutSettings, Request
from sketchguide.training.checkpoints import check_config

REPORTS = ("table.md", "summary.json")  # what `sketchguide bench` says of the results beside them


def made_with(backbone: Backbone, request: Request, judges: Judges, *, batch: int) -> dict[str, Any]:
    """What all results of a benchmark must have in common."""
    detector = judges.detector
    named = {"edges": fingerprint(detector.network) if isinstance(detector, Detector) else detector.name}
    if judges.classifier is not None:
        named["recognised"] = fingerprint(judges.classifier)
    return {**drawn_with(backbone, request), "batch": batch, "judges": named}


def drawn_with(backbone: Backbone, request: Request) -> dict[str, Any]:
    """What all pictures of a folder must have in common, whoever measures them."""
    return {
        "sketchguide": sketchguide.__version__,
        **identity_of(backbone),
        "seed": request.seed,
        "settings": request.model_dump(include={*STEERING, "class_scale", "sure", "size", "model"}),
        "unless_set": {
            "negative_time": NEGATIVE_TIME.default,
            "handover": HANDOVER.default,
            "strength": STRENGTH.default,
            "every": EVERY.default,
            "few_steps": FEW_STEPS,
            "soft_steps": SOFT_STEPS,
            "tries": {"kept": KEPT, "later": LATER},
            "amount": SDEDIT_AMOUNT,
            "layout": LayoutSettings().model_dump(),
            "drawings": dict(FOR_DRAWINGS),
            "lgp-pnp": dict(LGP_PNP),
        },
    }


def fingerprints(methods: Mapping[str, Built]) -> dict[str, str]:
    """Those of the networks that methods bring along, by the method's name, a further one with (2) behind it."""
    return {
        name if number == 1 else f"{name} ({number})": fingerprint(one.network)
        for name, built in methods.items()
        for number, one in enumerate(built.networks, start=1)
    }


def keep_alike(
    folder: Path,
    config: Mapping[str, Any],
    methods: Mapping[str, Built],
    *,
    afresh: str,
    writes: Collection[Path] = (),
) -> None:
    """Write to `config.json` in `folder` what its results are made with: `config`, and the fingerprints of the networks
    of every method so far.

    Raises UsageError where the folder holds results that were made otherwise, naming `afresh`, what to give to start
    again, or something else, one of the files that the benchmark `writes` beside them say, and OutputError where the
    file cannot be read or written.
    """
    file = folder / "config.json"
    networks = fingerprints(methods)
    before = None
    if file.exists():
        before = _read(file)
        if before is None:
            raise UsageError(f"{file} is damaged.", hint=f"Give {afresh} to start afresh.", field="output")
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
    elif is_file(results := folder / "results.jsonl") and results.stat().st_size:
        raise UsageError(
            f"{folder} has results, but no config.json that says what they were made with.",
            hint=f"Give {afresh} to start afresh.",
            field="output",
        )
    elif theirs := [path for path in writes if path.exists()]:
        raise UsageError(
            f"{theirs[0]} is not of a benchmark, which would overwrite it.", hint="Give another folder.", field="output"
        )
    kept = {**config, "networks": networks}
    if kept != before:
        write_text(file, json.dumps(kept, indent=1) + "\n")


def forget(folder: Path) -> None:
    """Remove what a benchmark made in `folder`, and nothing else, so that it starts afresh. Raises UsageError for a
    folder of something else, and OutputError where a file cannot be read or removed.
    """
    config = folder / "config.json"
    if config.exists():
        _read(config)
    results = read_results(folder)
    made = {picture_of(result, folder) for result in results} | {sheet_of(result.set, folder) for result in results}
    if results:
        made |= {plot_of(figure, folder) for figure in PLOTTED} | {folder / name for name in REPORTS}
    pictures = [file for file in folder.glob("pictures/*/*/*.png") if file in made]
    beside = [file for file in folder.glob("*") if file in made]
    # Last what says which pictures there are, so that after a kill on the way the same command goes on.
    for file in (*pictures, *beside, folder / "results.jsonl", config):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{file} cannot be removed: {error.strerror}.", field="output") from error
    for emptied in sorted({parent for file in pictures for parent in file.parents[:3]}, reverse=True):
        with suppress(OSError):  # something else is in it
            emptied.rmdir()


def _read(file: Path) -> dict[str, Any] | None:
    """What a benchmark keeps there; None where it is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{file} cannot be read: {error.strerror}.", field="output") from error
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    if not isinstance(found.get("networks"), dict):
        raise UsageError(f"{file} is not of a benchmark.", hint="Give another folder.", field="output")
    return found
