"""The names that stood in the captions of the models, so that a prompt with none of them can be told of.

python recipes/icons/words.py --data ../shared/data --out src/sketchguide/models/words.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import get_args

from sketchguide import load_backbone
from sketchguide.defaults import DType
from sketchguide.evaluation.drawings import STYLES, class_map
from sketchguide.fingerprints import fingerprint_of_model


def words(data: Path) -> list[str]:
    """Those of the concepts and of their icons."""
    concepts = class_map(data)
    codes = {code for every in concepts.values() for code in every}
    records = json.loads((data / "emoji128" / "metadata.json").read_text())
    return sorted({*concepts, *(r["name"] for r in records if r["unicode"] in codes and r["style"] in STYLES)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", nargs="+", default=["icons-64", "icons-128"], help="of the same captions")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    precisions = [dtype for dtype in get_args(DType) if dtype != "auto"]
    models = {fingerprint_of_model(load_backbone(model, dtype=dtype)) for model in args.models for dtype in precisions}
    args.out.write_text(json.dumps({"models": sorted(models), "words": words(args.data)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
