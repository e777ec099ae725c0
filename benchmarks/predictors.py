"""What each choice in the predictor brings: variants trained on the same pictures, then judged by what they guide.

    python recipes/icons/pictures.py --data ../shared/data --out runs/icon-pictures
    python benchmarks/predictors.py --pictures runs/icon-pictures --shared ../shared \\
        --classifier runs/classifier/icons-64.safetensors --out runs/predictors

Every variant sees as many noised latents as the others, is trained from the same seed, and guides the same Quick, Draw!
sketches with the default settings. A variant that is trained, and every picture, is kept: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from judged import add_options, judged
from sketchguide import LatentPredictor, load_backbone
from sketchguide.backbones.base import Backbone
from sketchguide.cli.environment import hardware
from sketchguide.defaults import TRAINING_STEPS
from sketchguide.extractors import EXTRACTORS
from sketchguide.loading import fingerprint_of_model
from sketchguide.methods import Built, Trained, latent_guidance, text_to_image
from sketchguide.predictors import choose_taps
from sketchguide.training.data import Pictures, digest, find_examples, split
from sketchguide.training.predictor import PredictorRun, PredictorTraining

PAPER_WIDTHS = (512, 256, 128, 64)


def variants(backbone: Backbone, steps: int) -> Iterator[tuple[str, PredictorTraining]]:
    shallow = tuple(tap.path for tap in choose_taps(backbone.taps) if not tap.path.startswith("up_blocks"))
    yield "ours", PredictorTraining(steps=steps)
    yield "no reading of clean latents", PredictorTraining(steps=steps, clean_widths=())
    yield "layers 512-256-128-64", PredictorTraining(steps=steps, widths=PAPER_WIDTHS)
    yield "taps not normalised", PredictorTraining(steps=steps, normalize_taps=False)
    yield "each picture at one noise level", PredictorTraining(steps=steps, views=1)
    yield "learning rate 1e-4", PredictorTraining(steps=steps, rate=1e-4)
    yield "taps up to the middle block", PredictorTraining(steps=steps, taps=shallow)
    yield (
        "the paper's but for the taps, cut short (the paper trains 3000 steps of 16)",
        PredictorTraining(
            steps=2 * steps,
            batch=16,
            views=1,
            rate=1e-4,
            widths=PAPER_WIDTHS,
            normalize_taps=False,
            clean_widths=(),
        ),
    )


def trained(name: str, settings: PredictorTraining, backbone: Backbone, pictures: Path, folder: Path) -> dict[str, Any]:
    """Train a variant, unless `folder` has it, and give what it took."""
    facts = folder / "training.json"
    size = backbone.default_size
    examples = find_examples(pictures)
    training, held_out = split(examples, seed=0)
    data = Pictures(training, size=size)
    run = PredictorRun(backbone, data, EXTRACTORS["edges"], settings)
    asked = json.loads(
        json.dumps({**run.config, "pictures": digest(examples), "weights": fingerprint_of_model(backbone)})
    )
    if facts.exists():
        row = json.loads(facts.read_text())
        if row.pop("config", None) != asked:  # older folders have none
            raise SystemExit(f"{folder} was trained otherwise; give another --out.")
        return row
    for _ in run:
        pass
    run.predictor.save_pretrained(folder)
    row = {
        "predictor": name,
        "parameters": run.predictor.parameter_count,
        "training_seconds": round(run.seconds, 1),
        "held_out": round(run.score(*Pictures(held_out, size=size, beside=data).fixed(64)), 4),
    }
    facts.write_text(json.dumps({**row, "config": asked}) + "\n")
    print(json.dumps(row), flush=True)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| predictor | parameters | training | held-out error | F1 | 95 % | recognised | time × text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['predictor']} | {r['parameters']:,} | {r['training_seconds']:.0f} s | {r['held_out']:.3f} "
        f"| {r['f1']:.3f} | {r['low']:.3f}–{r['high']:.3f} | {r['recognised']:.2f} | {r['time']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder that recipes/icons/pictures.py wrote")
    parser.add_argument("--steps", type=int, default=TRAINING_STEPS.default, help="training steps of 32")
    add_options(parser)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(args.model)
    methods = {"text": Built(text_to_image)}
    made: dict[str, dict[str, Any]] = {}
    for i, (name, settings) in enumerate(variants(backbone, args.steps)):
        folder = args.out / f"{i}"
        made[name] = trained(name, settings, backbone, args.pictures, folder)
        predictor = LatentPredictor.from_pretrained(folder).to(backbone.device)
        methods[name] = Built(latent_guidance(predictor), (Trained(predictor, {}),))
    rows: list[dict[str, Any]] = []
    for row in judged(args, backbone, methods):
        if row.method in made and row.f1 and row.right:
            f1 = {"f1": round(row.f1.estimate, 4), "low": round(row.f1.low, 4), "high": round(row.f1.high, 4)}
            rows.append(made[row.method] | f1 | {"recognised": round(row.right.estimate, 4), "time": row.seconds})
    report = {"hardware": hardware(backbone.device.type), "steps": args.steps, "sketches": args.sketches, "rows": rows}
    (args.out / "predictors.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "predictors.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
