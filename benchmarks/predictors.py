"""What each choice in the predictor brings: variants trained on the same pictures, then judged by what they guide.

    python recipes/icons/pictures.py --data ../shared/data --out runs/icon-pictures
    python benchmarks/predictors.py --pictures runs/icon-pictures --shared ../shared \\
        --classifier benchmarks/judge/icons-64.safetensors --out runs/predictors

Every variant sees as many noised latents as the others, is trained from the same seeds, and guides the same Quick,
Draw! sketches with the default settings, one picture of each by every training. A variant that is trained, and every
picture, is kept: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor

from judged import BATCH, add_options, alone, judged, trained, write
from sketchguide import LatentPredictor, load_backbone
from sketchguide.backbones.base import Backbone
from sketchguide.defaults import TRAINING_STEPS
from sketchguide.evaluation.benchmark import SEED_STRIDE
from sketchguide.evaluation.perturb import perturb
from sketchguide.evaluation.summary import Row, comparison_tables, table
from sketchguide.extractors import EXTRACTORS, Extractor
from sketchguide.methods import Batch, Built, Method, Trained, latent_guidance, text_to_image
from sketchguide.predictors import choose_taps
from sketchguide.sketch import SpatialMap
from sketchguide.training.data import Pictures, find_examples, split
from sketchguide.training.predictor import PredictorRun, PredictorTraining

OURS = "ours"
PAPER_WIDTHS = (512, 256, 128, 64)
SPOILS = ("thick", "thin", "broken", "shifted", "stray")
REACH = 6 / 64  # of the longer side: how far from a line the map of distances falls to 0


@dataclass(frozen=True)
class ChangedEdges:
    """Edge maps (H, W) in [0, 1], each changed."""

    name: str
    change: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor, /) -> Tensor:
        return torch.stack([self.change(one) for one in EXTRACTORS["edges"](images)[:, 0]])[:, None]


def spoilt(ink: Tensor) -> Tensor:
    """Five of six as rough drawings are: the pen too thick or too thin, lines broken, misplaced, too many."""
    values = ink.numpy(force=True)
    seed = zlib.crc32(values.tobytes())
    kinds = (*SPOILS, None)
    kind = kinds[seed % len(kinds)]
    return (
        ink if kind is None else torch.tensor(perturb(SpatialMap(values, values * 0 + 1), kind, seed=seed).ink).to(ink)
    )


def faded(ink: Tensor) -> Tensor:
    """Lines fade into the paper, so that one that is nearly in place is nearly right."""
    if ink.max() < 0.5:
        return torch.zeros_like(ink)
    distance = torch.tensor(ndimage.distance_transform_edt(ink.numpy(force=True) < 0.5))
    return (1 - distance / (REACH * max(ink.shape))).clamp(min=0).to(ink)


def towards_faded(predictor: LatentPredictor) -> Method:
    """LGP towards drawings whose lines fade."""
    pull = latent_guidance(predictor)

    def method(batch: Batch) -> Iterator[Any]:
        wide = [one.widened(batch.request.widen) for one in batch.maps]
        maps = [replace(one, ink=faded(torch.tensor(one.ink)).numpy()) for one in wide]
        return pull(replace(batch, maps=maps, request=batch.request.model_copy(update={"widen": 1.0})))

    return method


SPOILT_EDGES = ChangedEdges("spoilt edges", spoilt)
DISTANCES = ChangedEdges("distances", faded)


@dataclass(frozen=True)
class Variant:
    settings: PredictorTraining
    extractor: Extractor = EXTRACTORS["edges"]
    guidance: Callable[[LatentPredictor], Method] = latent_guidance


def variants(backbone: Backbone, steps: int) -> Iterator[tuple[str, Variant]]:
    shallow = tuple(tap.path for tap in choose_taps(backbone.taps) if not tap.path.startswith("up_blocks"))
    ours = PredictorTraining(steps=steps)
    yield OURS, Variant(ours)
    yield "latents instead of ink", Variant(replace(ours, reads="latent"))
    yield "no reading of clean latents", Variant(replace(ours, clean_widths=()))
    yield "layers 512-256-128-64", Variant(replace(ours, widths=PAPER_WIDTHS))
    yield "taps normalised", Variant(replace(ours, normalize_taps=True))
    yield "each picture at one noise level", Variant(replace(ours, views=1))
    yield "learning rate 1e-4", Variant(replace(ours, rate=1e-4))
    yield "taps up to the middle block", Variant(replace(ours, taps=shallow))
    yield "noise down to none", Variant(replace(ours, window=(0.0, 1.0)))
    yield "maps spoilt as drawings are", Variant(ours, SPOILT_EDGES)
    yield "lines that fade, in maps and drawings", Variant(ours, DISTANCES, towards_faded)
    yield (
        "the paper's but for the taps, cut short (the paper trains 3000 steps of 16)",
        Variant(
            PredictorTraining(
                steps=2 * steps,
                batch=16,
                views=1,
                rate=1e-4,
                widths=PAPER_WIDTHS,
                clean_widths=(),
                reads="latent",
            )
        ),
    )


def by_turns(methods: Sequence[Method]) -> Method:
    """The first pictures of all sketches by the first method, the second ones by the second."""

    def method(batch: Batch) -> Iterator[Any]:
        (turn,) = {(seed - batch.request.seed) // SEED_STRIDE for seed in batch.seeds}
        return methods[turn](batch)

    return method


def train(name: str, variant: Variant, backbone: Backbone, pictures: Path, folder: Path) -> dict[str, Any]:
    """Train a variant, unless `folder` has it, and give what it took."""
    size = backbone.default_size
    examples = find_examples(pictures)
    training, held_out = split(examples, seed=0)
    data = Pictures(training, size=size)
    run = PredictorRun(backbone, data, variant.extractor, variant.settings)
    comparable = variant.extractor is EXTRACTORS["edges"]  # the errors of other maps are not
    score = (lambda: run.score(*Pictures(held_out, size=size, beside=data).fixed(64))) if comparable else None
    facts = trained(run, examples, folder, score=score)
    row = {"predictor": name, "parameters": run.predictor.parameter_count}
    row |= {"training_seconds": facts["seconds"], "held_out": facts["held_out"]}
    print(json.dumps(row), flush=True)
    return row


def training_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| predictor | parameters | training | held-out error |", "|---" * 4 + "|"]
    for r in rows:
        error = "–" if r["held_out"] is None else f"{r['held_out']:.3f}"
        lines.append(f"| {r['predictor']} | {r['parameters']:,} | {r['training_seconds']:.0f} s | {error} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder that recipes/icons/pictures.py wrote")
    parser.add_argument("--steps", type=int, default=TRAINING_STEPS.default, help="training steps of 32")
    parser.add_argument("--trainings", type=int, default=1, metavar="N", help="predictors of each variant")
    parser.add_argument("--only", action="append", metavar="VARIANT", help="of the variants, beside ours; repeatable")
    add_options(parser)
    args = parser.parse_args()
    if args.trainings > 1 and args.sketches % BATCH:
        raise SystemExit(f"Several trainings are judged in whole batches: give --sketches a multiple of {BATCH}.")
    alone(run, args)


def run(args: argparse.Namespace) -> Sequence[Row]:
    backbone = load_backbone(args.model)
    every = dict(variants(backbone, args.steps))
    if unknown := set(args.only or ()) - set(every):
        raise SystemExit(f"No variant is called {sorted(unknown)[0]!r}. There are: {', '.join(map(repr, every))}.")
    methods = {"text": Built(text_to_image)}
    made: list[dict[str, Any]] = []
    for i, (name, variant) in enumerate(every.items()):
        if args.only and name not in (OURS, *args.only):
            continue
        predictors: list[LatentPredictor] = []
        for seed in range(args.trainings):
            folder = args.out / (f"{i}-{seed}" if seed else f"{i}")
            again = replace(variant, settings=replace(variant.settings, seed=seed))
            made.append(train(name, again, backbone, args.pictures, folder))
            predictors.append(LatentPredictor.from_pretrained(folder).to(backbone.device))
        turns = by_turns([variant.guidance(predictor) for predictor in predictors])
        methods[name] = Built(turns, tuple(Trained(predictor, {}) for predictor in predictors))
    summary = judged(args, backbone, methods, seeds=args.trainings)
    rows, beside = summary.rows(), summary.comparisons(OURS)
    facts: dict[str, Any] = {"steps": args.steps, "sketches": args.sketches, "training": made}
    facts |= {"rows": [asdict(row) for row in rows], "comparisons": [asdict(one) for one in beside]}
    tables = "\n".join([training_table(made), table(rows), comparison_tables(beside)])
    write(args, "predictors", backbone, facts, tables)
    return rows


if __name__ == "__main__":
    main()
