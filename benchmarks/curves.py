"""How closely pictures follow, and what that costs: over strength and stop, over training pictures, over steps.

    python recipes/icons/pictures.py --data ../shared/data --out runs/icon-pictures --count 2000
    python benchmarks/curves.py strength --shared ../shared --classifier FILE --out runs/curves/strength
    python benchmarks/curves.py steps    --shared ../shared --classifier FILE --out runs/curves/steps
    python benchmarks/curves.py pictures --shared ../shared --classifier FILE --out runs/curves/pictures \\
        --pictures runs/icon-pictures

Every point is a method of `sketchguide bench` on the same Quick, Draw! sketches. Points are kept: the same command goes
on. The classifier is what benchmarks/classifier.py wrote.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from judged import add_options, judged
from sketchguide import load_backbone
from sketchguide.backbones.base import Backbone
from sketchguide.cli.environment import hardware
from sketchguide.evaluation.benchmark import Row, table
from sketchguide.extractors import EXTRACTORS
from sketchguide.methods import Method, build_method
from sketchguide.training.data import Pictures, find_examples, split
from sketchguide.training.predictor import PredictorRun, PredictorTraining

STRENGTHS = (0.4, 0.8, 1.2, 1.6, 2.4)
STOPS = (0.3, 0.5, 0.65, 0.8)
STEPS = (8, 15, 25, 50)
PICTURES = (50, 100, 300, 1000, 2000)


class Point(NamedTuple):
    """A method on a curve."""

    curve: str
    across: float  # the value that changes along the curve
    label: str  # what `build_method` reads


def points(args: argparse.Namespace, backbone: Backbone) -> Iterator[Point]:
    match args.kind:
        case "strength":
            for stop in STOPS:
                for strength in STRENGTHS:
                    yield Point(f"stop {stop:g}", strength, f"lgp:strength={strength:g},stop={stop:g}")
        case "steps":
            for steps in STEPS:
                yield Point("unguided", steps, f"text:steps={steps}")
                yield Point("LGP", steps, f"lgp:steps={steps}")
        case _:
            for count in PICTURES:
                folder = args.out / f"predictor-{count}"
                train(backbone, args.pictures, count, folder)
                yield Point("LGP", count, f"lgp:predictor={folder}")


def train(backbone: Backbone, pictures: Path, count: int, folder: Path) -> None:
    """As `sketchguide train --images count` does with its defaults, unless the folder has it."""
    if (folder / "training.json").exists():
        return
    training, _ = split(find_examples(pictures, limit=count, seed=0), seed=0)
    run = PredictorRun(
        backbone, Pictures(training, size=backbone.default_size), EXTRACTORS["edges"], PredictorTraining()
    )
    for _ in run:
        pass
    run.predictor.save_pretrained(folder)
    facts = {"training_images": len(training), "seconds": round(run.seconds, 1)}
    (folder / "training.json").write_text(json.dumps(facts) + "\n")


def plot(curves: Mapping[str, Sequence[tuple[float, Row]]], across: str, file: Path) -> None:
    """F1 along each curve, and F1 against the share recognised."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, pairs in curves.items():
        known = [(x, row.f1, row.right) for x, row in pairs if row.f1 is not None and row.right is not None]
        values = [f1.estimate for _, f1, _ in known]
        errors = [[f1.estimate - f1.low for _, f1, _ in known], [f1.high - f1.estimate for _, f1, _ in known]]
        left.errorbar([x for x, _, _ in known], values, yerr=errors, fmt="o-", capsize=2, label=name)
        right.plot(values, [share.estimate for _, _, share in known], "o-", label=name)
        for x, f1, share in known:
            right.annotate(
                f"{x:g}", (f1.estimate, share.estimate), textcoords="offset points", xytext=(3, 3), fontsize=7
            )
    left.set(xlabel=across, ylabel="F1: how closely the picture follows")
    right.set(xlabel="F1: how closely the picture follows", ylabel="share recognised")
    if across == "training pictures":
        left.set_xscale("log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["strength", "steps", "pictures"])
    parser.add_argument("--pictures", type=Path, help="folder that recipes/icons/pictures.py wrote (for `pictures`)")
    add_options(parser)
    args = parser.parse_args()
    if args.kind == "pictures" and args.pictures is None:
        parser.error("`pictures` needs --pictures.")
    args.out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(args.model)
    wanted = list(points(args, backbone))
    methods: dict[str, Method] = {"text": build_method("text", backbone).method}
    methods |= {point.label: build_method(point.label, backbone).method for point in wanted}
    rows = judged(args, backbone, methods)
    by_label = {row.method: row for row in rows}
    curves: dict[str, list[tuple[float, Row]]] = {}
    for point in wanted:
        curves.setdefault(point.curve, []).append((point.across, by_label[point.label]))
    across = {"strength": "strength (beta)", "steps": "sampling steps", "pictures": "training pictures"}[args.kind]
    plot(curves, across, args.out / f"{args.kind}.png")
    on = hardware(backbone.device.type)
    report = {"hardware": on, "sketches": args.sketches, "rows": [asdict(row) for row in rows]}
    (args.out / f"{args.kind}.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / f"{args.kind}.md").write_text(f"{on}\n\n{table(rows)}")
    print(table(rows))


if __name__ == "__main__":
    main()
