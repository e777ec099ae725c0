"""Write icons and drawings with the names of their classes, for the parts that DiffSketching needs.

    python recipes/icons/classes.py --data ../shared/data --out runs/parts-data
    cd runs/parts-data
    sketchguide component sketcher --data pictures --held-out pictures-held-out -o ../parts

and likewise `classifier` and `latent-classifier` on pictures, `drawing-classifier` on drawings. Held out is one artwork
in eight, every augmentation of it, but of no concept all, and of the drawings by people the first four of each word:
nothing that was trained on is scored. The drawings that benchmarks use take no part. The concepts that models never see
do, since one classifier shall know any icon: on the set `icons` what these parts guide has an advantage.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor
from torchvision.utils import save_image

from artwork import Artwork, Icon, backgrounds, recolour, warp
from proportions import SCORED
from sketchguide.evaluation.drawings import class_map, quickdraw
from sketchguide.sketch import read_ndjson
from sketchguide.sketchers import STYLES

TUNED = 4  # first drawings of a word that benchmarks/diffsketching.py tunes to: they are held out here
PEOPLE = 0.5  # share of pictures laid out as people draw that thing


def kept_out(name: str) -> bool:
    return zlib.crc32(f"classes {name}".encode()) % 8 == 0


def artworks_kept_out(icons: Sequence[Icon], words: dict[str, str]) -> set[str]:
    """The artworks that are only scored: one in eight, but of no concept all."""
    of: dict[str, list[str]] = {}
    for icon in icons:
        of.setdefault(label(icon, words), []).append(artwork_name(icon))
    chosen = ([name for name in sorted(names) if kept_out(name)] for names in of.values())
    return {name for few, names in zip(chosen, of.values(), strict=True) for name in few[len(few) == len(names) :]}


def artwork_name(icon: Icon) -> str:
    return f"{icon.style} {icon.code}"


def label(icon: Icon, words: dict[str, str]) -> str:
    """The Quick, Draw! word where there is one, so that icons and drawings share their classes."""
    return words.get(icon.code, icon.names[0])


def pictures(artwork: Artwork, rounds: int, rng: Generator) -> Iterator[tuple[Icon, Tensor]]:
    """Every icon `rounds` times, augmented as the generator sees it: (3, size, size) in [0, 1]."""
    for _ in range(rounds):
        for chosen in torch.arange(len(artwork.icons)).split(100):
            layers, _ = recolour(artwork.pixels[chosen], rng)
            layout = artwork.layouts(chosen, torch.rand(len(chosen), generator=rng) < PEOPLE, rng)
            layers = warp(layers, artwork.size, rng, layout=layout)
            _, papers = backgrounds(len(chosen), rng)
            made = (layers[:, :3] + (1 - layers[:, 3:]) * papers[:, :, None, None]).clamp(0, 1)
            yield from zip((artwork.icons[i] for i in chosen.tolist()), made, strict=True)


class Folder:
    """Pictures with captions, in the form that training reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        path.mkdir(parents=True)
        self.list = (path / "metadata.jsonl").open("w", encoding="utf-8")

    def add(self, picture: Tensor, name: str) -> None:
        file = f"{self.count:05d}.png"
        save_image(picture, self.path / file)
        self.list.write(json.dumps({"file_name": file, "text": name}) + "\n")
        self.count += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="emoji128, quickdraw, class_map.json")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--rounds", type=int, default=12, help="pictures of each icon (default: %(default)s)")
    parser.add_argument(
        "--drawn",
        type=int,
        default=len(STYLES),
        help="of which drawn, in one style after the other (default: %(default)s)",
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--concepts", choices=("all", "quickdraw"), default="all", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    rng = Generator().manual_seed(args.seed)
    artwork = Artwork(args.data, size=args.size, concepts=args.concepts, people=PEOPLE, unseen=True)
    mapping = class_map(args.data)
    words = {code: word for word, codes in reversed(mapping.items()) for code in codes}
    names = ("pictures", "pictures-held-out", "drawings", "drawings-held-out")
    folders = {name: Folder(args.out / name) for name in names}

    scored = artworks_kept_out(artwork.icons, words)

    def folder(kind: str, *, apart: bool) -> Folder:
        return folders[f"{kind}-held-out" if apart else kind]

    for number, (icon, picture) in enumerate(pictures(artwork, args.rounds, rng)):
        name, apart = label(icon, words), artwork_name(icon) in scored
        folder("pictures", apart=apart).add(picture, name)
        lap, place = divmod(number, len(artwork.icons))
        if lap < args.drawn:
            extract = list(STYLES.values())[(lap + place) % len(STYLES)]
            folder("drawings", apart=apart).add(extract(picture[None] * 2 - 1)[0], name)
    source = args.data / "quickdraw" / "quickdraw.ndjson.gz"
    scored_drawings = quickdraw(args.data, count=SCORED, size=(args.size, args.size))
    used = {json.dumps(drawing.source.to_json()) for drawing in scored_drawings if drawing.source is not None}
    seen: Counter[str] = Counter()
    for sketch in read_ndjson(source, recognized_only=True):
        if sketch.name not in mapping:
            continue
        seen[sketch.name] += 1
        if json.dumps(sketch.to_json()) not in used:
            ink = torch.tensor(sketch.rasterize(size=(args.size, args.size)).ink)[None]
            folder("drawings", apart=seen[sketch.name] <= TUNED).add(ink, sketch.name)
    for name, one in folders.items():
        one.list.close()
        print(f"{name}: {one.count}")


if __name__ == "__main__":
    main()
