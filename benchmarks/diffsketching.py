"""Does fine-tuning on a few drawings change what the model draws, on seeds that it was not tuned on?

    python benchmarks/diffsketching.py --data ../shared/data --parts runs/parts --word duck --minutes 10 \
        --classifier benchmarks/judge/icons-64.safetensors --out runs/diffsketching \
        --squeezenet ../shared/weights/squeezenet1_0_imagenet.safetensors

Four recognised Quick, Draw! drawings and four icons of one class; then pictures of held-out seeds, drawn by the frozen
and by the tuned model with the same settings. Two distances from the drawings are measured: with the judges that were
trained on (P and the drawing classifier), and with others that were not: the edge extractor and SqueezeNet. So is the
share of pictures that the icon classifier takes for the class. Both runs are seen in sheet.png. `a_drawing_from_all` is
how far one of the drawings itself is from all of them, on average: what a picture has that follows one perfectly.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sketchguide.backbones.unet import UNetBackbone
from sketchguide.classifiers import IconClassifier, load_classifier
from sketchguide.errors import SketchguideError
from sketchguide.evaluation.benchmark import PART
from sketchguide.evaluation.drawings import STYLES, class_map, icon_records, present, with_article
from sketchguide.evaluation.features import load_squeezenet
from sketchguide.evaluation.metrics import accuracy
from sketchguide.extractors import EXTRACTORS
from sketchguide.images import from_ink, open_image, save_png, sheet, to_images, to_tensor
from sketchguide.loading import load_backbone
from sketchguide.perception import load_features, perceptual_loss
from sketchguide.shipped import find_part
from sketchguide.sketch import read_ndjson
from sketchguide.sketchers import Sketcher
from sketchguide.training.finetune import FineTuneRun, FineTuning, Judges

FIRST_SEED = 2 * 10**6  # far from the references and the previews


def references(data: Path, codes: list[str], *, size: tuple[int, int]) -> Tensor:
    """The icons of the class on white, one per style: (R, 3, H, W) in [-1, 1]."""
    files = {one["style"]: data / one["file"] for one in icon_records(data) if one["unicode"] == codes[0]}
    return to_tensor([open_image(files[style]) for style in STYLES if style in files], size=size)


def drawings(data: Path, word: str, *, count: int, size: tuple[int, int]) -> Tensor:
    """The first recognised drawings of the class: (count, 1, H, W) in [0, 1], ink 1."""
    found = [
        torch.tensor(one.rasterize(size=size).ink)[None]
        for one in read_ndjson(present(data / "quickdraw" / "quickdraw.ndjson.gz"), recognized_only=True)
        if one.name == word
    ]
    return torch.stack(found[:count])


def known_codes(data: Path, word: str, scorer: IconClassifier) -> list[str]:
    """The icons of `word` that the classifier knows; exits where there are none."""
    mapping = class_map(data)
    if word not in mapping:
        sys.exit(f"{word!r} is no mapped word; some are: {', '.join(sorted(mapping)[:8])}.")
    known = [code for code in mapping[word] if code in scorer.classes]
    if not known:
        sys.exit(f"The classifier knows no icon of {word!r}; choose another --word.")
    return known


def distances(stages: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The perceptual distances (R, B) of B pictures from R drawings, given the stages of both."""
    return torch.stack(
        [
            perceptual_loss(stages, [w[i : i + 1].expand_as(s) for s, w in zip(stages, wanted, strict=True)])
            for i in range(len(wanted[0]))
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with quickdraw/, emoji128/, class_map.json")
    parser.add_argument("--parts", type=Path, required=True, help="folder that `sketchguide component` wrote to")
    parser.add_argument("--classifier", type=Path, required=True, help="of benchmarks/classifier.py: only scores")
    parser.add_argument("--squeezenet", type=Path, required=True, help="torchvision's squeezenet1_0 weights")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--word", default="duck", help="Quick, Draw! word (default: %(default)s)")
    parser.add_argument("--model", default="icons-64", help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of tuning (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="at most (default: %(default)s)")
    parser.add_argument("--unseen", type=int, default=6, help="rows of fresh noise per step (default: %(default)s)")
    parser.add_argument("--gradient", default="step", choices=("chain", "last", "step"), help="(default: %(default)s)")
    parser.add_argument("--levels", type=int, default=8, help="of the chain (default: %(default)s)")
    parser.add_argument("--identity", type=float, default=0.4, help="lambda (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=None, help="default: that of `sketchguide finetune`")
    parser.add_argument("--full", action="store_true", help="tune every weight")
    parser.add_argument("--seeds", type=int, default=32, help="held-out pictures (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=5.0, help="classifier-free guidance (default: %(default)s)")
    options = parser.parse_args()
    try:
        measure(options)
    except SketchguideError as error:
        sys.exit(str(error))


def measure(options: argparse.Namespace) -> None:
    scorer = load_classifier(options.classifier)
    codes = known_codes(options.data, options.word, scorer)
    backbone = load_backbone(options.model)
    assert isinstance(backbone, UNetBackbone)
    ink = drawings(options.data, options.word, count=4, size=backbone.default_size)
    judges = Judges(
        Sketcher.load(find_part(options.parts, "sketcher", field="parts")).to(backbone.device),
        load_features(str(find_part(options.parts, "classifier", field="parts")), device=backbone.device),
        load_features(str(find_part(options.parts, "drawing-classifier", field="parts")), device=backbone.device),
    )
    settings = FineTuning(
        steps=options.steps,
        unseen=options.unseen,
        gradient=options.gradient,
        levels=options.levels,
        identity=options.identity,
        rate=options.rate,
        full=options.full,
    )
    photos = references(options.data, codes, size=backbone.default_size)
    prompt = with_article(options.word)
    run = FineTuneRun(backbone, photos, ink, judges, settings, prompt=prompt)
    squeezenet = load_squeezenet(options.squeezenet)
    wanted = squeezenet.stages(from_ink(ink))
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)

    def score(pictures: Tensor) -> dict[str, float]:
        parts = from_ink(EXTRACTORS["edges"](pictures)).split(PART)
        apart = torch.cat([distances(squeezenet.stages(maps), wanted) for maps in parts], dim=1)
        right = accuracy(scorer(pictures), scorer.accepted([codes] * len(pictures)))
        return {
            "distance_of_the_judges": run.sketch_distance(pictures),
            "nearest_of_the_judges": run.nearest_distance(pictures),
            "distance_of_others": float(apart.mean()),
            "nearest_of_others": float(apart.amin(dim=0).mean()),
            "class_accuracy": float(right.mean()),
        }

    with torch.no_grad():
        stages = judges.of_drawings(ink.to(backbone.device))
        each = distances(stages, stages)
    before = run.pictures(seeds, scale=options.scale)
    started = time.monotonic()
    losses: list[float] = []
    for step in run:
        losses.append(step.loss)
        if step.step % 10 == 0:
            print(f"step {step.step}, loss {sum(losses[-10:]) / 10:.4f}", flush=True)
        if time.monotonic() - started > options.minutes * 60:
            break
    minutes = (time.monotonic() - started) / 60
    with run.averaged():
        after = run.pictures(seeds, scale=options.scale)
    options.out.mkdir(parents=True, exist_ok=True)
    run.save(options.out)
    rows = [*to_images(from_ink(1 - ink)), *to_images(photos), *to_images(before[:16]), *to_images(after[:16])]
    save_png(sheet(rows, columns=8), options.out / "sheet.png")
    frozen, tuned = score(before), score(after)
    result = {
        "prompt": prompt,
        "steps": run.step,
        "minutes": minutes,
        "inversion_psnr": run.fidelity(),
        "a_drawing_from_all": float(each.mean()),
        "first_loss": losses[0],
        "last_loss": sum(losses[-10:]) / len(losses[-10:]),
        "frozen": frozen,
        "tuned": tuned,
        "change": {name: tuned[name] / frozen[name] - 1 for name in frozen if frozen[name]},
    }
    (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
