"""`sketchguide env`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from sketchguide.cli.report import JsonFlag, Report
from sketchguide.machine import accelerators, processor


def command(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Describe this machine, for bug reports. It names no user and no secret.

    sketchguide env
    sketchguide env --json
    """
    report = Report.of(context, as_json=as_json)
    report.facts = environment()
    for name, value in report.facts.items():
        if isinstance(value, Mapping):
            for package, version in value.items():
                report.say(f"{package}: {version or 'not installed'}")
        else:
            text = (", ".join(value) or "none") if isinstance(value, list) else value
            report.say(f"{name}: {'unknown' if text is None else text}")


def environment() -> dict[str, Any]:
    """What can make a difference: versions, system, processors, memory, accelerators, the hub's cache folder."""
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    return {
        "packages": _versions(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": _memory(),
        "accelerators": accelerators(),
        "hub cache": _without_home(HF_HUB_CACHE),
        "hub offline": bool(HF_HUB_OFFLINE),
    }


def _versions() -> dict[str, str | None]:
    """The package itself and everything that it requires, in that order."""
    required = importlib.metadata.requires("sketchguide") or []
    names = ["sketchguide", *(re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line)]
    return {name: _version(name) for name in names}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> str | None:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):  # no POSIX
        return None


def _without_home(path: str) -> str:
    home = str(Path.home())
    return f"~{path[len(home) :]}" if path.startswith(home + os.sep) else path
