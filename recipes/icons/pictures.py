"""Write augmented, captioned icons to a folder that `sketchguide train` reads.

python recipes/icons/pictures.py --data ../shared/data --out runs/icon-pictures --count 2000
sketchguide train --model icons-64 --data runs/icon-pictures --map edges -o runs/icons-64-edges
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from torch import Generator
from torchvision.utils import save_image

from artwork import Artwork


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with emoji128 and class_map.json"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = Generator().manual_seed(args.seed)
    pictures, captions = Artwork(args.data, size=args.size, concepts="all").batch(args.count, rng)
    lines: list[str] = []
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        save_image(picture / 2 + 0.5, args.out / f"{i:05d}.png")
        lines.append(json.dumps({"file_name": f"{i:05d}.png", "text": caption}) + "\n")
    (args.out / "metadata.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
