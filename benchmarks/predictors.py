"""What each choice in the predictor brings: variants trained on the same pictures, then judged by what they guide.

    python recipes/icons/pictures.py --data ../shared/data --out runs/icon-pictures
    python benchmarks/predictors.py --pictures runs/icon-pictures --shared ../shared \\
        --classifier runs/classifier/icons-64.safetensors --out runs/predictors

Every variant sees as many pictures as the others, is trained from the same seed, and guides the same Quick, Draw!
sketches with the default settings of `benchmarks/follow.py`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from follow import DEFAULT, hardware, make, right
from sketchguide import load_backbone
from sketchguide.backbones.base import Backbone
from sketchguide.evaluation.classifier import load_classifier
from sketchguide.evaluation.detectors import load_detector
from sketchguide.evaluation.drawings import quickdraw
from sketchguide.evaluation.metrics import bootstrap_interval, edge_f1
from sketchguide.extractors import EXTRACTORS
from sketchguide.predictors import choose_taps
from sketchguide.training.data import Pictures, find_examples, split
from sketchguide.training.predictor import PredictorRun, PredictorTraining

PAPER_WIDTHS = (512, 256, 128, 64)


def variants(backbone: Backbone, steps: int) -> Iterator[tuple[str, PredictorTraining]]:
    shallow = tuple(tap.path for tap in choose_taps(backbone.taps) if not tap.path.startswith("up_blocks"))
    yield "ours", PredictorTraining(steps=steps)
    yield "layers 512-256-128-64", PredictorTraining(steps=steps, widths=PAPER_WIDTHS)
    yield "taps not normalised", PredictorTraining(steps=steps, normalize_taps=False)
    yield "learning rate 1e-4", PredictorTraining(steps=steps, rate=1e-4)
    yield "taps up to the middle block", PredictorTraining(steps=steps, taps=shallow)
    yield (
        "the paper's: all of the first three, batch 16",
        PredictorTraining(steps=2 * steps, batch=16, rate=1e-4, widths=PAPER_WIDTHS, normalize_taps=False),
    )


def table(rows: Sequence[dict[str, float | str]]) -> str:
    lines = [
        "| predictor | parameters | training | held-out error | F1 | 95 % | class accuracy | s / picture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['predictor']} | {r['parameters']:,} | {r['training_seconds']:.0f} s | {r['held_out']:.3f} "
        f"| {r['f1']:.3f} | {r['low']:.3f}–{r['high']:.3f} | {r['class_accuracy']:.2f} "
        f"| {r['seconds_per_picture']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder that recipes/icons/pictures.py wrote")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/ and weights/")
    parser.add_argument("--classifier", type=Path, required=True, help="file that benchmarks/classifier.py wrote")
    parser.add_argument("--model", default="icons-64")
    parser.add_argument("--out", type=Path, required=True, help="folder for predictors.json and predictors.md")
    parser.add_argument("--steps", type=int, default=200, help="training steps of 32 pictures")
    parser.add_argument("--sketches", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(args.model)
    detector = load_detector(args.shared / "weights" / "tin2.safetensors")
    classifier = load_classifier(args.classifier)
    size = backbone.default_size
    drawings = quickdraw(args.shared / "data", count=args.sketches, size=size)
    target = torch.stack([torch.tensor(d.ink.ink)[None] for d in drawings])
    training, held_out = split(find_examples(args.pictures), seed=0)
    scored = Pictures(held_out, size=size).fixed(64)
    rows: list[dict[str, float | str]] = []
    for name, settings in variants(backbone, args.steps):
        run = PredictorRun(backbone, Pictures(training, size=size), EXTRACTORS["edges"], settings)
        for _ in run:
            pass
        predictor = run.predictor.eval().requires_grad_(False)
        pictures, seconds = make(backbone, predictor, drawings, DEFAULT.request, seed=args.seed, batch=25)
        f1 = edge_f1(detector(pictures), target, tolerance=size[0] / 32).f1
        interval = bootstrap_interval(f1)
        rows.append(
            {
                "predictor": name,
                "parameters": predictor.parameter_count,
                "training_seconds": round(run.seconds, 1),
                "held_out": round(run.score(*scored), 4),
                "f1": round(f1.mean().item(), 4),
                "low": round(interval.low, 4),
                "high": round(interval.high, 4),
                "class_accuracy": round(right(classifier, pictures, drawings).mean().item(), 4),
                "seconds_per_picture": round(seconds / len(drawings), 3),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    report = {"hardware": hardware(), "steps": args.steps, "sketches": args.sketches, "rows": rows}
    (args.out / "predictors.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "predictors.md").write_text(table(rows))


if __name__ == "__main__":
    main()
