"""How closely pictures follow, and what that costs: over strength and stop, over training pictures, over steps, and for
LGP and its peers over how hard each acts.

    python recipes/icons/pictures.py --data ../shared/data --out runs/icon-pictures
    python benchmarks/curves.py strength --shared ../shared --classifier FILE --out runs/curves/strength
    python benchmarks/curves.py steps    --shared ../shared --classifier FILE --out runs/curves/steps
    python benchmarks/curves.py pictures --shared ../shared --classifier FILE --out runs/curves/pictures \\
        --pictures runs/icon-pictures
    python benchmarks/curves.py methods  --shared ../shared --classifier FILE --out runs/curves/methods \\
        --predictor runs/peers/lgp-300 --controlnet runs/peers/controlnet-1000 \\
        --t2i-adapter runs/peers/t2i-adapter-1000

Every point is a method of `sketchguide bench` on the same Quick, Draw! sketches. Points are kept: the same command goes
on. The classifier is what benchmarks/classifier.py wrote.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from judged import add_options, alone, judged, trained, write
from sketchguide import load_backbone
from sketchguide.backbones.base import Backbone
from sketchguide.building import build_method
from sketchguide.defaults import NEGATIVE_TIME, STRENGTH
from sketchguide.evaluation.summary import Row, table
from sketchguide.extractors import EXTRACTORS
from sketchguide.training.data import Pictures, find_examples, split
from sketchguide.training.predictor import PredictorRun, PredictorTraining

EVERY_STEP = 1.5  # the strength that goes with pulling at every step, to lines as they are drawn
STRENGTHS = (0.8, 1.6, STRENGTH.default, 4.0)
STOPS = (0.3, 0.5, 0.7, 0.85)
STEPS = (8, 15, 25, 50)
PICTURES = (50, 100, 300, 1000, 2000)
SHARES = (0.4, 0.6, 0.8, 1.0, 1.3)  # of a method's usual strength


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
        case "methods":
            named = f"predictor={args.predictor}," if args.predictor else ""
            for share in SHARES:
                yield Point("LGP", share, f"lgp:{named}strength={STRENGTH.default * share:g}")
                yield Point("LGP, every step", share, f"lgp:{named}every=1,widen=1,strength={EVERY_STEP * share:g}")
                if args.controlnet is not None:
                    told = f"controlnet:path={args.controlnet},weight={share:g}"
                    yield Point("ControlNet", share, told)
                    yield Point("ControlNet, negative time", share, f"{told},negative_time={NEGATIVE_TIME.default:g}")
                if args.t2i_adapter is not None:
                    yield Point("T2I-Adapter", share, f"t2i-adapter:path={args.t2i_adapter},weight={share:g}")
        case _:
            for count in PICTURES:
                folder = args.out / f"predictor-{count}"
                train(backbone, args.pictures, count, folder)
                yield Point("LGP", count, f"lgp:predictor={folder}")


def train(backbone: Backbone, pictures: Path, count: int, folder: Path) -> None:
    """As `sketchguide train --images count` does with its defaults, unless the folder has just that."""
    examples = find_examples(pictures, limit=count, seed=0)
    if len(examples) < count:
        raise SystemExit(f"{pictures} has {len(examples)} pictures; make {count}: recipes/icons/pictures.py.")
    training, _ = split(examples, seed=0)
    drawn = Pictures(training, size=backbone.default_size)
    trained(PredictorRun(backbone, drawn, EXTRACTORS["edges"], PredictorTraining()), examples, folder)


def plot(curves: Mapping[str, Sequence[tuple[float, Row]]], across: str, file: Path) -> None:
    """F1 along each curve, and F1 against the share recognised and against KID."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    left, right, last = figure.subplots(1, 3)
    for name, pairs in curves.items():
        known = [(x, row.f1, row.right, row.kid) for x, row in pairs if row.f1 and row.right and row.kid]
        places, values = [x for x, *_ in known], [f1.estimate for _, f1, *_ in known]
        errors = [[f1.reaches[side] for _, f1, *_ in known] for side in (0, 1)]
        left.errorbar(places, values, yerr=errors, fmt="o-", capsize=2, label=name)
        for axis, ups in ((right, [share for *_, share, _ in known]), (last, [kid for *_, kid in known])):
            axis.plot(values, [up.estimate for up in ups], "o-", label=name)
            for x, value, up in zip(places, values, ups, strict=True):
                axis.annotate(f"{x:g}", (value, up.estimate), textcoords="offset points", xytext=(3, 3), fontsize=7)
    left.set(xlabel=across, ylabel="F1: how closely the picture follows")
    right.set(xlabel="F1: how closely the picture follows", ylabel="share recognised")
    last.set(xlabel="F1: how closely the picture follows", ylabel="KID: less is more realistic")
    if across == "training pictures":
        left.set_xscale("log")
    for axis in (left, right, last):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["strength", "steps", "pictures", "methods"])
    parser.add_argument("--pictures", type=Path, help="folder that recipes/icons/pictures.py wrote (for `pictures`)")
    parser.add_argument("--predictor", type=Path, help="LGP's, in place of the shipped one (for `methods`)")
    parser.add_argument("--controlnet", type=Path, help="folder that benchmarks/peers/train.py wrote (for `methods`)")
    parser.add_argument("--t2i-adapter", type=Path, help="folder that benchmarks/peers/train.py wrote (for `methods`)")
    parser.add_argument("--seeds", type=int, default=1, help="pictures of each sketch")
    add_options(parser)
    args = parser.parse_args()
    if args.kind == "pictures" and args.pictures is None:
        parser.error("`pictures` needs --pictures.")
    alone(run, args)


def run(args: argparse.Namespace) -> Sequence[Row]:
    backbone = load_backbone(args.model)
    wanted = list(points(args, backbone))
    methods = {label: build_method(label, backbone) for label in ("text", *(point.label for point in wanted))}
    rows = judged(args, backbone, methods, seeds=args.seeds).rows()
    by_label = {row.method: row for row in rows}
    curves: dict[str, list[tuple[float, Row]]] = {}
    for point in wanted:
        curves.setdefault(point.curve, []).append((point.across, by_label[point.label]))
    across = {
        "strength": "strength (beta)",
        "steps": "sampling steps",
        "pictures": "training pictures",
        "methods": f"share of strength {STRENGTH.default:g}, at every step {EVERY_STEP:g}; of the peers' weight 1",
    }[args.kind]
    plot(curves, across, args.out / f"{args.kind}.png")
    facts = {"sketches": args.sketches, "rows": [asdict(row) for row in rows]}
    write(args, args.kind, backbone, facts, table(rows))
    return rows


if __name__ == "__main__":
    main()
