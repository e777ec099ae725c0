"""Only what was made alike stands in one table: what a folder of results was made with, compared on going on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sketchguide.backbones.base import Backbone
from sketchguide.errors import UsageError
from sketchguide.evaluation.benchmark import Judges
from sketchguide.evaluation.detectors import Detector
from sketchguide.loading import fingerprint
from sketchguide.methods import STEERING, Built
from sketchguide.request import Request
from sketchguide.training.checkpoints import check_config


def made_with(backbone: Backbone, request: Request, judges: Judges, *, batch: int) -> dict[str, Any]:
    """What all results of a benchmark must have in common."""
    detector = judges.detector
    named = {"edges": fingerprint(detector.network) if isinstance(detector, Detector) else detector.name}
    if judges.classifier is not None:
        named["recognised"] = fingerprint(judges.classifier)
    return {
        "model": fingerprint(backbone.network),
        "seed": request.seed,
        "batch": batch,
        "settings": request.model_dump(include={*STEERING, "size", "model"}),
        "judges": named,
    }


def check_alike(folder: Path, config: Mapping[str, Any], methods: Mapping[str, Built]) -> str:
    """What `config.json` in `folder` shall say from now on: `config` and the fingerprint of every method's network so
    far. UsageError where the folder holds results that were made otherwise."""
    file = folder / "config.json"
    networks = {name: fingerprint(method.network) for name, method in methods.items() if method.network is not None}
    if file.exists():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            earlier: dict[str, str] = before.pop("networks")
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file} is damaged.", hint="Give --fresh to start again.", field="output") from error
        check_config(before, config, afresh="--fresh")
        if changed := [name for name, one in networks.items() if earlier.get(name, one) != one]:
            raise UsageError(
                f"The network of {changed[0]} is another one than that of the results in {folder}.",
                hint="Give another folder, or --fresh to start again.",
                field="output",
            )
        networks = {**earlier, **networks}
    return json.dumps({**config, "networks": networks}, indent=1) + "\n"
