"""What a drawing costs: one picture by the command line, start-up included, and the sampling alone.

python benchmarks/speed.py --out runs/speed.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sketchguide import Sketch, generate, load_backbone, load_predictor
from sketchguide.cli.environment import hardware

DRAWING = Path(__file__).resolve().parents[1] / "examples" / "sketches" / "apple.svg"


def median_seconds(job: Callable[[], object], *, rounds: int) -> float:
    times: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        job()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def command(*options: str) -> Callable[[], object]:
    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            line = [sys.executable, "-m", "sketchguide.cli", "generate", "a red apple", "--seed", "7"]
            subprocess.run([*line, "-o", f"{folder}/apple.png", *options], check=True, capture_output=True)

    return run


def show_help() -> None:
    subprocess.run([sys.executable, "-m", "sketchguide.cli", "--help"], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="icons-64")
    parser.add_argument("--predictor", help="none: the model's own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    own = ["--model", args.model, *(["--predictor", args.predictor] if args.predictor else [])]
    backbone = load_backbone(args.model)
    predictor = load_predictor(args.predictor, backbone)
    sketch = Sketch.open(DRAWING)

    def plain() -> object:
        return generate("a red apple", backbone=backbone, seed=7)

    def guided() -> object:
        return generate("a red apple", sketch=sketch, backbone=backbone, predictor=predictor, seed=7)

    plain(), guided()
    seconds = {
        "command, plain": median_seconds(command("--model", args.model), rounds=args.rounds),
        "command, guided": median_seconds(command(*own, "--sketch", str(DRAWING)), rounds=args.rounds),
        "call, plain": median_seconds(plain, rounds=args.rounds),
        "call, guided": median_seconds(guided, rounds=args.rounds),
        "sketchguide --help": median_seconds(show_help, rounds=args.rounds),
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
