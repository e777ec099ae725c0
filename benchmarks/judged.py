"""Methods judged on Quick, Draw! sketches, as benchmarks/curves.py and benchmarks/predictors.py both do it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import load_classifier
from sketchguide.evaluation.benchmark import Benchmark, Judges, Row
from sketchguide.evaluation.detectors import load_detector
from sketchguide.evaluation.drawings import load_set
from sketchguide.methods import Method
from sketchguide.request import Request


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/ and weights/")
    parser.add_argument("--classifier", type=Path, required=True, help="file that benchmarks/classifier.py wrote")
    parser.add_argument("--model", default="icons-64")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--sketches", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000)


def judged(args: argparse.Namespace, backbone: Backbone, methods: Mapping[str, Method]) -> list[Row]:
    """One row for each method, on the sketches that `args` asks for; pictures that `args.out` holds are kept."""
    drawings = load_set("quickdraw", args.shared / "data", count=args.sketches, size=backbone.default_size)
    benchmark = Benchmark(
        backbone=backbone,
        methods=methods,
        sets={"quickdraw": drawings},
        request=Request.checked(prompt="", seed=args.seed),
        judges=Judges(load_detector(args.shared / "weights" / "tin2.safetensors"), load_classifier(args.classifier)),
        folder=args.out,
    )
    return benchmark.summary(list(benchmark))
