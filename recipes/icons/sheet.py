"""The model at a glance: 100 prompts on one labelled sheet.

python recipes/icons/sheet.py --data ../shared/data --out docs/images/icons-128.png
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image

from artwork import COLOURS
from sketchguide import load_backbone
from sketchguide.defaults import MODEL
from sketchguide.evaluation.drawings import class_map, with_article
from sketchguide.images import save_png, sheet, to_images
from sketchguide.request import Request
from sketchguide.walking import walk

BATCH = 25
SIDE = 128  # pixels of each on the sheet


def prompts(data: Path) -> list[str]:
    """60 concepts as they are, 20 in the other style, 20 on a coloured background; drawn once, not chosen by eye."""
    rng = random.Random(0)
    words = rng.sample(sorted(class_map(data)), 100)
    papers = [name for name in COLOURS if name != "white"]
    plain = [with_article(word) for word in words[:60]]
    noto = [f"noto {word}" for word in words[60:80]]
    return plain + noto + [f"{with_article(w)} on {with_article(rng.choice(papers))} background" for w in words[80:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with class_map.json")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    backbone = load_backbone(args.model)
    texts = prompts(args.data)
    request = Request.checked(prompt="", seed=args.seed)
    images: list[Image.Image] = []
    for first in range(0, len(texts), BATCH):
        some = texts[first : first + BATCH]
        *_, last = walk(request, backbone, prompts=some, seeds=[args.seed] * len(some))
        images += to_images(backbone.decode(last.latent))
    enlarged = [image.resize((SIDE, SIDE)) for image in images]
    save_png(sheet(enlarged, columns=10, labels=texts), args.out)


if __name__ == "__main__":
    main()
