"""Does the picture follow the drawing? Agreement and prompt adherence of LGP settings on one model.

    python benchmarks/classifier.py --data ../shared/data --out runs/classifier/icons-64.safetensors --minutes 8
    python benchmarks/follow.py --shared ../shared --classifier runs/classifier/icons-64.safetensors --out runs/follow

For every setting and every set of drawings: F1 between the drawing and the edges of the picture, with a tolerance of
1/32 of the side. The edges are found by TIN2, which nothing here was trained with. Class accuracy is that of
`benchmarks/classifier.py`. Every setting sees the same prompts and seeds. Intervals are 95 %, by bootstrap.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sketchguide import LatentPredictor, load_backbone, load_predictor
from sketchguide.backbones.base import Backbone
from sketchguide.evaluation.classifier import IconClassifier, accuracy, load_classifier
from sketchguide.evaluation.detectors import load_detector
from sketchguide.evaluation.drawings import Drawing, icons, quickdraw
from sketchguide.evaluation.metrics import bootstrap_interval, edge_f1
from sketchguide.generation import latent_guide, walk
from sketchguide.images import sheet, to_images
from sketchguide.request import Request


class Setting(NamedTuple):
    """One row of the table. A strength of 0 is the unguided picture."""

    name: str
    request: Request  # its prompt, seed and sketch are those of each drawing


def setting(name: str, **values: Any) -> Setting:
    """The default settings but for `values`."""
    return Setting(name, Request.checked(prompt="", seed=0, **values))


DEFAULT = setting("default")
SETTINGS = (
    setting("unguided", strength=0),
    setting("paper: β 1.6, stop 0.5, CFG 8", strength=1.6, stop=0.5, scale=8, blank=1, every=1),
    DEFAULT,
    setting("default, but every step", every=1),
    setting("default, but blank paper binds like ink", blank=1),
    setting("default, but stop 0.5", stop=0.5),
    setting("default, but β 1.6", strength=1.6),
    setting("default, but β 3", strength=3),
    setting("default, but CFG 5", scale=5),
    setting("unguided, CFG 5", strength=0, scale=5),
)


def make(
    backbone: Backbone,
    predictor: LatentPredictor,
    drawings: Sequence[Drawing],
    request: Request,
    *,
    seed: int,
    batch: int,
) -> tuple[Tensor, float]:
    """Pictures (N, 3, H, W) in [-1, 1] of all drawings, drawing i with seed `seed + i`, and the seconds they took."""
    pictures: list[Tensor] = []
    started = time.monotonic()
    for first in range(0, len(drawings), batch):
        part = drawings[first : first + batch]
        guides = [latent_guide(request, [d.ink for d in part], backbone, predictor)] if request.strength else []
        seeds = range(seed + first, seed + first + len(part))
        *_, last = walk(request, backbone, prompts=[d.prompt for d in part], seeds=seeds, guides=guides)
        pictures.append(backbone.decode(last.latent).clamp(-1, 1))
    return torch.cat(pictures), time.monotonic() - started


def right(classifier: IconClassifier, pictures: Tensor, drawings: Sequence[Drawing]) -> Tensor:
    """Per picture, 1.0 where the classifier's first answer is one of the prompt's concepts."""
    known = [tuple(code for code in d.answers if code in classifier.classes) for d in drawings]
    with torch.no_grad():
        scores = torch.cat([classifier(part) for part in pictures.split(64)])
    return accuracy(scores, classifier.accepted(known)).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/ and weights/")
    parser.add_argument("--classifier", type=Path, help="file that benchmarks/classifier.py wrote; none: no accuracy")
    parser.add_argument("--model", default="icons-64")
    parser.add_argument("--predictor", help="none: the model's own")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, table.md and the sheets")
    parser.add_argument("--sketches", type=int, default=200)
    parser.add_argument("--icons", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--only", help="comma-separated numbers of the settings to run (0 is the unguided one)")
    parser.add_argument(
        "--show", default="0,2", help="settings on the sheets, beside the drawing (default: unguided, ours)"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(args.model)
    predictor = load_predictor(args.predictor, backbone)
    detector = load_detector(args.shared / "weights" / "tin2.safetensors")
    classifier = load_classifier(args.classifier) if args.classifier else None
    size = backbone.default_size
    sets = {
        "Quick, Draw!": quickdraw(args.shared / "data", count=args.sketches, size=size),
        "held-out icons": icons(args.shared / "data", count=args.icons, size=size),
    }
    sets = {name: drawings for name, drawings in sets.items() if drawings}
    settings = [SETTINGS[int(k)] for k in args.only.split(",")] if args.only else SETTINGS
    rows: list[dict[str, object]] = []
    shown: dict[tuple[str, str], Tensor] = {}
    floors: dict[str, Tensor] = {}
    for name, drawings in sets.items():
        target = torch.stack([torch.tensor(d.ink.ink)[None] for d in drawings])
        for setting in settings:
            pictures, _ = make(backbone, predictor, drawings, setting.request, seed=args.seed, batch=args.batch)
            f1 = edge_f1(detector(pictures), target, tolerance=size[0] / 32).f1
            floors.setdefault(name, f1)
            interval = bootstrap_interval(f1)
            row: dict[str, object] = {
                "set": name,
                "setting": setting.name,
                "drawings": len(drawings),
                "f1": round(f1.mean().item(), 4),
                "f1_interval": [round(interval.low, 4), round(interval.high, 4)],
                "ratio": round((f1.mean() / floors[name].mean()).item(), 3),
            }
            if classifier is not None and drawings[0].answers:
                row["class_accuracy"] = round(right(classifier, pictures, drawings).mean().item(), 4)
            rows.append(row)
            shown[name, setting.name] = pictures[:24]
            print(json.dumps(row), flush=True)
    (args.out / "results.json").write_text(json.dumps({"hardware": hardware(), "rows": rows}, indent=1) + "\n")
    (args.out / "table.md").write_text(table(rows))
    for name, drawings in sets.items():
        inks = torch.stack([1 - 2 * torch.tensor(d.ink.ink).expand(3, -1, -1) for d in drawings[:24]])
        columns = [inks, *(shown[name, SETTINGS[int(k)].name] for k in args.show.split(","))]
        picture = sheet(to_images(torch.stack(columns, dim=1).flatten(0, 1)), columns=2 * len(columns))
        picture.save(args.out / f"{name.lower().replace(', ', '').replace('!', '').replace(' ', '-')}.png")


def table(rows: Sequence[dict[str, object]]) -> str:
    lines = [
        "| set | setting | F1 | 95 % | × unguided | class accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        low, high = r["f1_interval"]  # type: ignore[misc]
        lines.append(
            f"| {r['set']} | {r['setting']} | {r['f1']:.3f} | {low:.3f}–{high:.3f} | {r['ratio']:.2f} "
            f"| {r.get('class_accuracy', '–')} |"
        )
    return "\n".join(lines) + "\n"


def hardware() -> str:
    return f"{torch.get_num_threads()} cores of {platform.processor() or platform.machine()}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
