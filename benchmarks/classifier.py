r"""Train the icon classifier that measures prompt adherence.

    python benchmarks/classifier.py --data ../shared/data --out judge.safetensors --minutes 20

The classes are the concepts of the icon recipe, named by their Unicode code points, each in every style that has it;
with `--words` they are the words of prompts, which is what `--tries` asks, and the shipped recogniser is one such:

    python benchmarks/classifier.py --data ../shared/data --out runs/parts/recogniser.safetensors --words --seed 1 \
        --steps 9000 --bf16

The score printed is on fixed augmentations that training never draws, of the same artwork; that is the task the
classifier has in the benchmark, and it says nothing about artwork of other styles. It is written beside the weights
as NAME-report.json. The classifier knows nothing of the generator: neither its text encoder nor its latents.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sketchguide.classifiers import IconClassifier, save_classifier
from sketchguide.errors import SketchguideError, TrainingError
from sketchguide.evaluation.drawings import class_map
from sketchguide.evaluation.metrics import accuracy
from sketchguide.extractors import gaussian_blur
from sketchguide.seeds import seeded

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


def soften(images: Tensor, rng: Generator) -> Tensor:
    """`images` (B, 3, H, W) in [-1, 1], each a little blurred, brighter or darker, of other contrast, and noisy.

    Generated pictures are softer than artwork; a classifier that has seen only artwork would punish that.
    """
    shape = (len(images), 1, 1, 1)
    sigma = 0.4 + 1.0 * float(torch.rand((), generator=rng))
    share = torch.rand(shape, generator=rng)
    images = images.lerp(gaussian_blur(images, sigma=sigma * max(images.shape[-2:]) / 64), share)
    gain = 1 + 0.3 * (torch.rand(shape, generator=rng) - 0.5)
    lift = 0.3 * (torch.rand(shape, generator=rng) - 0.5)
    noise = torch.randn(images.shape, generator=rng) * torch.rand(shape, generator=rng) * 0.08
    return (images * gain + lift + noise).clamp(-1, 1)


def training_batches(artwork: Artwork, labels: Tensor, *, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(labels), (batch,), generator=rng)
        yield soften(pictures(artwork, chosen, rng), rng), labels[chosen]


@dataclass(frozen=True, kw_only=True)
class ClassifierStep:
    """What one step of training shows. `classifier` is the running average so far, ready for use."""

    step: int
    loss: float
    accuracy: float  # of the batch that the step learned from
    classifier: IconClassifier


def train_classifier(
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    classes: Sequence[str],
    size: int = 64,
    channels: Sequence[int] = (32, 64, 128, 192),
    learning_rate: float = 2e-3,
    averaged_steps: int = 200,
    seed: int = 0,
    bf16: bool = False,
) -> Iterator[ClassifierStep]:
    """Train a classifier on pictures (B, 3, H, W) in [-1, 1] and class numbers (B,), one batch per step.

    The caller may stop at any step: what it gets is an average of the weights over about the last `averaged_steps`
    steps, so no schedule has to know the end. Training runs on the device of the batches, with `bf16` in bfloat16
    where torch's autocast allows it.
    Raises `TrainingError` when the loss is not finite.
    """
    with seeded(seed):
        network = IconClassifier(classes, size=size, channels=channels)
    average: AveragedModel | None = None
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02)
    warmup = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=0.05, total_iters=50)
    for step, (images, labels) in enumerate(batches, start=1):
        if average is None:
            network.to(images.device)
            average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.0), use_buffers=True).eval()
            network.to(memory_format=torch.channels_last)
        # The average is over fewer steps at first, so that it is useful early.
        average.multi_avg_fn = get_ema_multi_avg_fn(1 - 1 / min(step / 4 + 1, averaged_steps))
        network.train()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            scores = network(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(scores.float(), labels, label_smoothing=0.05)
        if not math.isfinite(value := loss.item()):
            raise TrainingError(
                f"The loss of the classifier is {value} at step {step}.",
                hint="Lower the learning rate, or look for pictures that are not finite.",
                field="learning_rate",
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        warmup.step()
        average.update_parameters(network)
        right = (scores.argmax(dim=1) == labels).float().mean().item()
        yield ClassifierStep(step=step, loss=value, accuracy=right, classifier=cast(IconClassifier, average.module))


@torch.no_grad()
def validate(classifier: IconClassifier, artwork: Artwork, labels: Tensor, *, rounds: int) -> dict[str, float]:
    """Accuracy on `rounds` unseen augmentations of every icon: as drawn, softened, and per style as drawn."""
    rng = Generator().manual_seed(VALIDATION_SEED)
    order = torch.arange(len(labels)).repeat(rounds)
    right: list[Tensor] = []
    for chosen in order.split(250):
        sharp = pictures(artwork, chosen, rng)
        accepted = F.one_hot(labels[chosen], len(classifier.classes)).bool()
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
