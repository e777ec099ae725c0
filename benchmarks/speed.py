"""What a drawing costs: one picture by the command line, start-up included, and the sampling alone.

python benchmarks/speed.py --out runs/speed.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from sketchguide import Sketch, generate, load_backbone, load_predictor
from sketchguide.defaults import MODEL
from sketchguide.errors import SketchguideError
from sketchguide.machine import hardware

DRAWING = Path(__file__).resolve().parents[1] / "examples" / "sketches" / "apple.svg"


# With PYTHONDONTWRITEBYTECODE set, an installation without compiled files compiles every library at every start.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def median_seconds(jobs: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Of `rounds` runs of each job in turn, after one that is not counted: a machine's moods meet all jobs alike."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def command(*options: str) -> Callable[[], object]:
    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            sketchguide("generate", "a red apple", "--seed", "7", "-o", f"{folder}/apple.png", *options)

    return run


def sketchguide(*words: str) -> None:
    called = [sys.executable, "-m", "sketchguide.cli", *words]
    done = subprocess.run(called, capture_output=True, env=ENVIRONMENT, text=True)
    if done.returncode:
        sys.exit(f"`sketchguide {' '.join(words)}` failed: {done.stderr.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--predictor", help="none: the model's own")
    parser.add_argument("--rounds", type=int, default=5, help="at least 1")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; it must be at least 1.")
    try:
        measure(args)
    except SketchguideError as error:
        sys.exit(str(error))


def measure(args: argparse.Namespace) -> None:
    own = ["--model", args.model, *(["--predictor", args.predictor] if args.predictor else [])]
    backbone = load_backbone(args.model)
    predictor = load_predictor(args.predictor, backbone)
    sketch = Sketch.open(DRAWING)

    def plain() -> object:
        return generate("a red apple", backbone=backbone, seed=7)

    def guided() -> object:
        return generate("a red apple", sketch=sketch, backbone=backbone, predictor=predictor, seed=7)

    commands = {
        "command, plain": command("--model", args.model),
        "command, guided": command(*own, "--sketch", str(DRAWING)),
        "sketchguide --help": lambda: sketchguide("--help"),
    }
    seconds = {
        **median_seconds(commands, rounds=args.rounds),
        **median_seconds({"call, plain": plain, "call, guided": guided}, rounds=3 * args.rounds),
    }
    report = {
        "hardware": hardware(backbone.device.type),
        "cores": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "guided / plain, command": round(seconds["command, guided"] / seconds["command, plain"], 3),
        "guided / plain, call": round(seconds["call, guided"] / seconds["call, plain"], 3),
    }
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
