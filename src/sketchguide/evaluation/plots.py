"""What a benchmark made, to look at: contact sheets of the pictures, and the figures as plots."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image

from sketchguide.evaluation.benchmark import Benchmark, Result
from sketchguide.evaluation.summary import Row
from sketchguide.images import from_ink, save_png, sheet, to_images

SHOWN = 24  # drawings on a sheet
PLOTTED: Mapping[str, str] = MappingProxyType({"kid": "KID (less is more realistic)", "right": "share recognised"})


def sheet_of(set_name: str, folder: Path) -> Path:
    """The file of the sheet of a set."""
    return folder / f"{set_name}.png"


def plot_of(figure: str, folder: Path) -> Path:
    """The file of the plot of F1 against a figure, one of PLOTTED."""
    return folder / f"f1-{figure}.png"


def sheets(benchmark: Benchmark, results: Sequence[Result], folder: Path) -> list[Path]:
    """One sheet for each set: the first drawings, each with what every method made of it from its first seed."""
    files: list[Path] = []
    by_key = {(r.set, r.method, r.drawing, r.seed): r for r in results if not r.error}
    for name, drawings in benchmark.sets.items():
        cells: list[torch.Tensor] = []
        for i, drawing in enumerate(drawings[:SHOWN]):
            cells.append(from_ink(1 - torch.tensor(drawing.ink.ink)[None, None])[0])
            for label in benchmark.methods:
                found = by_key.get((name, label, drawing.name, benchmark.request.seed + i))
                cells.append(torch.zeros_like(cells[-1]) if found is None else benchmark.pictures([found])[0])
        columns = 1 + len(benchmark.methods)
        file = sheet_of(name, folder)
        groups = max(1, 12 // columns)
        save_png(sheet(to_images(torch.stack(cells)), columns=groups * columns), file)
        files.append(file)
    return files


def plot(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Fidelity (F1) against realism (KID) and against recognition, one picture for each that was measured.

    Raises OutputError where one cannot be written.
    """
    from matplotlib.figure import Figure

    files: list[Path] = []
    for field, label in PLOTTED.items():
        shown = [row for row in rows if row.f1 is not None and getattr(row, field) is not None]
        if not shown:
            continue
        sets = list(dict.fromkeys(row.set for row in shown))
        figure = Figure(figsize=(4.5 * len(sets), 4), layout="constrained")
        for axis, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
            for row in (row for row in shown if row.set == name):
                across, up = row.f1, getattr(row, field)
                assert across is not None
                axis.errorbar(
                    across.estimate,
                    up.estimate,
                    xerr=[[reach] for reach in across.reaches],
                    yerr=[[reach] for reach in up.reaches],
                    fmt="o",
                    capsize=2,
                    label=row.method,
                )
            axis.set(title=name, xlabel="F1: how closely the picture follows", ylabel=label)
            axis.grid(alpha=0.3)
            axis.legend(fontsize="small")
        file = plot_of(field, folder)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=120, format="png")
        save_png(Image.open(drawn), file)
        files.append(file)
    return files
