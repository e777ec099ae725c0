r"""Train the icon classifier that measures prompt adherence.

    python benchmarks/classifier.py --data ../shared/data --out runs/classifier/icons-64.safetensors --minutes 20

The classes are the concepts of the icon recipe, named by their Unicode code points, each in every style that has it;
with `--words` they are the words of prompts, which is what `--tries` asks, and the shipped recogniser is one such:

    python benchmarks/classifier.py --data ../shared/data --out runs/parts/recogniser.safetensors --words --seed 1 \
        --steps 9000 --bf16

The score printed is on fixed augmentations that training never draws, of the same artwork; that is the task the
classifier has in the benchmark, and it says nothing about artwork of other styles. It is written beside the weights
as NAME-report.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from sketchguide.classifiers import IconClassifier, save_classifier
from sketchguide.errors import SketchguideError
from sketchguide.evaluation.classifier import accuracy, soften, train_classifier
from sketchguide.evaluation.drawings import class_map

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes" / "icons"))
from artwork import Artwork, backgrounds, recolour, warp

VALIDATION_SEED = 2**40  # far from the seed of training
LOOSE = 3.0  # hand-drawn shapes lie further from the artwork than what the generator has seen of it
PEOPLE = 0.5  # share of pictures laid out as people draw that thing


def pictures(artwork: Artwork, chosen: Tensor, rng: Generator, *, loose: float = LOOSE) -> Tensor:
    """The icons with the numbers `chosen` (B,), augmented: (B, 3, size, size) in [-1, 1].

    As the generator sees them, but stretched and bent up to `loose` times as far, as free-hand drawings are.
    """
    layers, _ = recolour(artwork.pixels[chosen], rng)
    layout = artwork.layouts(chosen, torch.rand(len(chosen), generator=rng) < artwork.people, rng)
    layers = warp(layers, artwork.size, rng, loose=loose, layout=layout)
    _, papers = backgrounds(len(chosen), rng)
    return (layers[:, :3] + (1 - layers[:, 3:]) * papers[:, :, None, None]).clamp(0, 1) * 2 - 1


def training_batches(artwork: Artwork, labels: Tensor, *, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(labels), (batch,), generator=rng)
        yield soften(pictures(artwork, chosen, rng), rng), labels[chosen]


@torch.no_grad()
def validate(classifier: IconClassifier, artwork: Artwork, labels: Tensor, *, rounds: int) -> dict[str, float]:
    """Accuracy on `rounds` unseen augmentations of every icon: as drawn, softened, and per style as drawn."""
    rng = Generator().manual_seed(VALIDATION_SEED)
    order = torch.arange(len(labels)).repeat(rounds)
    right: list[Tensor] = []
    for chosen in order.split(250):
        sharp = pictures(artwork, chosen, rng)
        accepted = torch.nn.functional.one_hot(labels[chosen], len(classifier.classes)).bool()
        scores, soft_scores = classifier(sharp), classifier(soften(sharp, rng))
        right.append(
            torch.stack(
                [
                    accuracy(scores, accepted),
                    accuracy(scores, accepted, top=min(5, len(classifier.classes))),
                    accuracy(soft_scores, accepted),
                ],
                dim=1,
            )
        )
    table = torch.cat(right)
    top1, top5, softened = table.mean(dim=0).tolist()
    report = {"top1": top1, "top5": top5, "top1_softened": softened}
    styles = [artwork.icons[i].style for i in order.tolist()]
    for style in sorted(set(styles)):
        report[f"top1_{style}"] = table[[s == style for s in styles], 0].mean().item()
    return report


def words_of_codes(mapping: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The class of each code point: its words, and those that share a code with them, with commas between."""
    groups: list[tuple[set[str], set[str]]] = []
    for word, codes in mapping.items():
        words, all_codes = {word}, set(codes)
        for group in [one for one in groups if one[1] & all_codes]:
            groups.remove(group)
            words |= group[0]
            all_codes |= group[1]
        groups.append((words, all_codes))
    return {code: ", ".join(sorted(words)) for words, codes in groups for code in codes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with emoji128/, quickdraw/, class_map.json")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=20.0, help="training time (default: %(default)s)")
    length.add_argument("--steps", type=int, help="stop here instead: the same machine then trains the same judge")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (default: %(default)s)")
    parser.add_argument("--concepts", choices=("quickdraw", "all"), default="quickdraw", help="as in the icon recipe")
    parser.add_argument("--words", action="store_true", help="name classes by words, of which several may be one class")
    parser.add_argument("--batch", type=int, default=64, help="pictures per step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where torch's autocast allows it")
    options = parser.parse_args()
    try:
        train(options)
    except SketchguideError as error:
        sys.exit(str(error))
    except FileNotFoundError as error:
        sys.exit(
            f"{error.filename} is missing. Give the folder with emoji128/, quickdraw/ and class_map.json as --data."
        )


def train(options: argparse.Namespace) -> None:
    artwork = Artwork(options.data, size=options.size, concepts=options.concepts, people=PEOPLE)
    names = words_of_codes(class_map(options.data)) if options.words else {}
    named = [names.get(icon.code, icon.code) for icon in artwork.icons]
    classes = sorted(set(named))
    labels = torch.tensor([classes.index(name) for name in named])
    print(f"{len(labels)} icons of {len(classes)} concepts", flush=True)
    batches = training_batches(artwork, labels, batch=options.batch, seed=options.seed)
    started = reported = time.monotonic()
    for state in train_classifier(batches, classes=classes, size=options.size, seed=options.seed, bf16=options.bf16):
        now = time.monotonic()
        over = state.step >= options.steps if options.steps else now - started > options.minutes * 60
        if now - reported > 60 or over:
            reported = now
            save_classifier(state.classifier, options.out)
            spent = f"{(now - started) / 60:.1f} min, step {state.step}"
            print(f"{spent}, loss {state.loss:.3f}, right {state.accuracy:.2f}", flush=True)
        if over:
            break
    report = validate(state.classifier, artwork, labels, rounds=4)
    report |= {"pictures": state.step * options.batch, "training_images": len(labels)}
    report |= {"seconds": round(time.monotonic() - started)}
    beside = options.out.with_name(f"{options.out.stem}-report.json")
    beside.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
