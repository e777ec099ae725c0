"""Predictors trained, and methods judged on Quick, Draw! sketches, as benchmarks/curves.py and benchmarks/predictors.py
both do it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sketchguide.backbones.base import Backbone
from sketchguide.errors import SketchguideError
from sketchguide.evaluation.benchmark import load_judges
from sketchguide.evaluation.drawings import SCORED, load_set
from sketchguide.evaluation.report import Study, write_figures
from sketchguide.evaluation.summary import Row, Summary, failures
from sketchguide.files import locked
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.machine import hardware
from sketchguide.methods import Built
from sketchguide.training.data import Example, digest
from sketchguide.training.predictor import PredictorRun

BATCH = 25


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/ and weights/")
    parser.add_argument("--classifier", type=Path, required=True, help="file that benchmarks/classifier.py wrote")
    parser.add_argument("--model", default="icons-64")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--sketches", type=int, default=100, choices=range(1, SCORED + 1), metavar="N")
    parser.add_argument("--past", type=int, default=0, help="pass over so many sketches first; the tables score 200")
    parser.add_argument("--seed", type=int, default=1000)


def alone(run: Callable[[argparse.Namespace], Sequence[Row]], args: argparse.Namespace) -> None:
    """`run` while no other run is at work in `args.out`; exits where it fails, or where a row that it gives has no
    pictures."""
    try:
        with locked(args.out):
            rows = run(args)
    except SketchguideError as error:
        sys.exit(str(error))
    if lost := [row for row in rows if row.lost]:
        sys.exit(f"No picture of {lost[0].method} could be made. The same command tries again.")


def trained(
    run: PredictorRun, examples: Sequence[Example], folder: Path, *, score: Callable[[], float] | None = None
) -> dict[str, Any]:
    """What is on record about the training of `run`, whose pictures are of `examples`: it takes place unless `folder`
    has just that. Exits where the folder has another one. `score` gives the held-out error."""
    file = folder / "training.json"
    weights = fingerprint_of_model(run.backbone)
    asked = json.loads(json.dumps({**run.config, "pictures": digest(examples), "weights": weights}))
    if file.exists():
        facts: dict[str, Any] = json.loads(file.read_text())
        if facts.get("config") != asked or "seconds" not in facts:
            raise SystemExit(f"{folder} was trained otherwise, or by an earlier version; give another --out.")
        return facts
    for _ in run:
        pass
    run.predictor.save_pretrained(folder)
    facts = {"training_images": len(run.pictures.used), "seconds": round(run.seconds, 1)}
    facts |= {"held_out": None if score is None else round(score(), 4), "config": asked}
    file.write_text(json.dumps(facts) + "\n")
    return facts


def judged(args: argparse.Namespace, backbone: Backbone, methods: Mapping[str, Built], *, seeds: int) -> Summary:
    """Of each method, on the sketches that `args` asks for, `seeds` pictures of each; pictures that `args.out` holds
    are kept, and other networks or settings than theirs are refused. Tells of those that fail."""
    last = args.past + args.sketches
    if args.past < 0 or last > SCORED:
        raise SystemExit(f"--past and --sketches together are at most {SCORED}: a judge knows the drawings after them.")
    data = args.shared / "data"
    drawings = load_set("quickdraw", data, count=last, size=backbone.default_size)[args.past :]
    judges = load_judges(args.shared / "weights", classifier=args.classifier, data=data, size=backbone.default_size)
    sets = {"quickdraw": drawings}
    study = Study(backbone, methods, sets, judges, args.out, seed=args.seed, seeds=seeds, batch=BATCH)
    study.claim(afresh="another --out")
    results = list(study.benchmark)
    for failure in failures(results):
        print(failure, file=sys.stderr)
    return Summary(study.benchmark, results)


def write(args: argparse.Namespace, name: str, backbone: Backbone, facts: Mapping[str, Any], tables: str) -> None:
    """Write `facts` and `tables` to the files `name` in `args.out`, and print the tables."""
    about = {"hardware": hardware(backbone.device.type), **facts}
    write_figures(about, tables, text=args.out / f"{name}.md", data=args.out / f"{name}.json")
    print(tables)
