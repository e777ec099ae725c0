"""`sketchguide models`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from sketchguide.cli.report import JsonFlag, Report, plain


def command(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List the models and predictors that work without a network: shipped, and cached from the hub.

    sketchguide models
    sketchguide generate "a red apple" --model NAME

    Any other diffusers folder, checkpoint of one file or hub id of Stable
    Diffusion 1.x to 3.5, XL or Flux.1 can be given as --model too.
    """
    report = Report.of(context, as_json=as_json)
    found = [*_shipped(), *_cached()]
    report.facts = {"models": found}
    if not found:
        report.say("There are none. Give a diffusers folder, a checkpoint of one file or a hub id as --model.")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "kind", "where", "size"):
        table.add_column(heading, overflow="fold")
    for one in found:
        kind = one["pipeline"] or ", ".join(one["parts"]) or one["kind"]
        row = (one["name"], kind, one["where"], f"{one['bytes'] / 1e6:.1f} MB")
        table.add_row(*(Text(plain(cell)) for cell in row))
    report.show(table)


def _shipped() -> Iterator[dict[str, Any]]:
    from sketchguide.shipped import shipped

    for one in shipped():
        yield _row(one.name, one.folder, one.kind, where="shipped", size=one.size)


def _cached() -> Iterator[dict[str, Any]]:
    """Diffusers pipelines and our predictors in the hub's cache; other things that live there are none of ours."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from sketchguide.loading import is_whole
    from sketchguide.shipped import kind_of

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda one: one.repo_id):
        revisions = sorted(repository.revisions, key=lambda one: one.last_modified, reverse=True)
        for revision in revisions[:1]:
            folder, size = revision.snapshot_path, revision.size_on_disk
            kind = kind_of(folder) if repository.repo_type == "model" else None
            if kind == "model" and not is_whole(folder):
                continue  # of another kind, or not all fetched
            if kind is not None:
                yield _row(repository.repo_id, folder, kind, where="hub cache", size=size)


def _row(name: str, folder: Path, kind: str, *, where: str, size: int) -> dict[str, Any]:
    parts = sorted(file.name.removesuffix("-report.json") for file in folder.glob("*-report.json"))
    row = {"name": name, "kind": kind, "pipeline": _pipeline(folder), "where": where, "path": str(folder)}
    return row | {"bytes": size, "parts": parts}


def _pipeline(folder: Path) -> str:
    """The class that model_index.json names; empty where there is none."""
    try:
        return str(json.loads((folder / "model_index.json").read_bytes())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
