"""Edits of pictures and of drawings: is the layout kept, the prompt obeyed, the source's look left behind?

    python benchmarks/edits.py --shared ../shared --classifier benchmarks/judge/icons-64.safetensors --out runs/edits

Pictures are icons whose colour, style or class the prompt changes; drawings are Quick, Draw! sketches whose prompt asks
for a background that is not white. Every row makes the same edits from the same seeds. Pictures that are there already
are not made again, so that the same command goes on; figures are measured anew from the pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sketchguide import SpatialMap, load_backbone
from sketchguide.backbones.base import Backbone
from sketchguide.building import build_method
from sketchguide.errors import SketchguideError
from sketchguide.evaluation.alike import drawn_with, keep_alike
from sketchguide.evaluation.benchmark import PART, TOLERANCE, Judges, load_judges
from sketchguide.evaluation.drawings import SCORED, class_map, digest_of, icon_records, load_set, with_article
from sketchguide.evaluation.metrics import accuracy, bootstrap_interval, edge_f1
from sketchguide.evaluation.similarity import structure_distance
from sketchguide.images import from_ink, open_image, save_png, sheet, to_images, to_tensor
from sketchguide.machine import hardware
from sketchguide.methods import Batch, Method
from sketchguide.perception import perceptual_loss
from sketchguide.request import Request

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes" / "icons"))
from artwork import COLOURS, HUES, dominant_colours

STYLES = ("fluent3d", "noto")  # those that the embedded model was trained on
SDEDIT = {f"SDEdit {amount}": f"sdedit:amount={amount}" for amount in ("0.5", "0.6", "0.7", "0.8", "0.9")}
ALONE = "prompt alone"
PLAIN = "PnP"
PICTURES: Mapping[str, str] = {
    ALONE: "text",
    PLAIN: "pnp:tau_f=0.8,tau_a=0.5",
    "PnP without f": "pnp:tau_f=0,tau_a=0.5",
    "PnP without q, k": "pnp:tau_f=0.8,tau_a=0",
    "PnP, noise of the seed": "pnp:tau_f=0.8,tau_a=0.5,start=noise",
    "PnP, noised source": "pnp:tau_f=0.8,tau_a=0.5,source=noised",
    "PnP, noised, conditional": "pnp:tau_f=0.8,tau_a=0.5,source=noised,branches=conditional",
    **SDEDIT,
}
WHOLE = "up_blocks.1.resnets.1+up_blocks.2.resnets.0"  # residual blocks as they go on, skips and all
DRAWINGS: Mapping[str, str] = {
    ALONE: "text",
    PLAIN: "pnp",
    "PnP, noise of the seed": "pnp:start=noise",
    "PnP, noised source": "pnp:source=noised",
    "PnP, noised, conditional": "pnp:source=noised,branches=conditional",
    "PnP, whole blocks": f"pnp:features={WHOLE}",
    "PnP, whole blocks, tau 0.65": f"pnp:tau_f=0.65,tau_a=0.65,features={WHOLE}",
    "PnP, whole blocks, tau 0.8": f"pnp:tau_f=0.8,tau_a=0.8,features={WHOLE}",
    "PnP, noised, near strokes": "pnp:source=noised,near=0.05",
    "PnP, noised, tau 0.25": "pnp:tau_f=0.25,tau_a=0.25,source=noised",
    "PnP, away from a drawing": "pnp:source_prompt=a drawing on a white background,decay=linear",
    "LGP": "lgp",
    "LGP + PnP": "lgp-pnp",
    "LGP + PnP, inverted": "lgp-pnp:source=inverted,branches=both",
    "LGP + PnP, tau 0.25": "lgp-pnp:tau_f=0.25,tau_a=0.25",
    "SDEdit 0.85": "sdedit:amount=0.85",
}


@dataclass(frozen=True)
class Edit:
    """A picture (3, H, W) in [-1, 1], or a drawing, and the prompt that changes it."""

    name: str
    prompt: str
    answers: tuple[str, ...]  # classes that answer to the prompt
    picture: Tensor
    ink: SpatialMap
    colour: str | None = None  # that most of the thing should have
    towards: Tensor | None = None  # the same thing in the style that is asked for

    @property
    def file(self) -> str:
        """The name of its picture, another one where the edit is another one."""
        return f"{self.name}-{digest_of([self.prompt], self.picture.numpy(), self.ink.ink)}.png"


def edits_of_pictures(data: Path, known: set[str], *, count: int, size: tuple[int, int]) -> list[Edit]:
    """Colour, style and class of icons on white change in turn; only things that the classifier knows."""
    files = {(record["style"], record["unicode"]): data / record["file"] for record in icon_records(data)}
    things = [
        (word, tuple(code for code in codes if code in known))
        for word, codes in sorted(class_map(data).items(), key=lambda item: zlib.crc32(f"edit {item[0]}".encode()))
        if codes[0] in known and all((style, codes[0]) in files for style in STYLES)
    ]
    blank = np.zeros((size[1], size[0]), np.float32)
    edits: list[Edit] = []
    for i in range(count):
        word, codes = things[i % len(things)]
        lap = i // len(things)
        style, other = STYLES[(i + lap) % 2], STYLES[(i + lap + 1) % 2]
        (picture,) = to_tensor([open_image(files[style, codes[0]])], size=size)
        shown, answers, colour, towards = f"{style} {word}", codes, None, None
        match (i + lap) % 3:
            case 0:
                (had,) = dominant_colours(*on_white(picture[None]))
                hues = sorted({name for name, _ in HUES} - {had})
                colour = hues[zlib.crc32(word.encode()) % len(hues)]
                kind, shown = "colour", f"{style} {colour} {word}"
            case 1:
                kind, shown = "style", f"{other} {word}"
                (towards,) = to_tensor([open_image(files[other, codes[0]])], size=size)
            case _:
                target, answers = things[(i + 7) % len(things)]
                kind, shown = "class", f"{style} {target}"
        name = f"{i:04d}-{kind}-{word.replace(' ', '-')}"
        prompt = f"{with_article(shown)} on a white background"
        edits.append(Edit(name, prompt, answers, picture, SpatialMap(blank, blank), colour, towards))
    return edits


def edits_of_drawings(data: Path, known: set[str], *, count: int, size: tuple[int, int]) -> list[Edit]:
    papers = [name for name in COLOURS if name not in ("white", "gray")]
    edits: list[Edit] = []
    for i, drawing in enumerate(load_set("quickdraw", data, count=count, size=size)):
        picture = from_ink(1 - torch.tensor(drawing.ink.ink)[None, None])[0]
        prompt = f"{drawing.prompt} on {with_article(papers[i % len(papers)])} background"
        answers = tuple(code for code in drawing.answers if code in known)
        edits.append(Edit(drawing.name, prompt, answers, picture, drawing.ink))
    return edits


def on_white(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The colours (B, 3, H, W) in [0, 1] of pictures in [-1, 1], and where (B, H, W) they are not nearly white."""
    rgb = (pictures + 1) / 2
    return rgb, (rgb.amin(dim=1) < 0.8).float()


def make(row: str, method: Method, edits: Sequence[Edit], backbone: Backbone, request: Request, folder: Path) -> Tensor:
    """The pictures (N, 3, H, W) of a row, made where `folder` has none."""
    paths = [folder / row / edit.file for edit in edits]
    left = [i for i, path in enumerate(paths) if not path.is_file()]
    (folder / row).mkdir(parents=True, exist_ok=True)
    for first in range(0, len(left), 25):
        rows = left[first : first + 25]
        some = [edits[i] for i in rows]
        batch = Batch(
            backbone,
            request,
            [edit.prompt for edit in some],
            [edit.ink for edit in some],
            [request.seed + i for i in rows],
            torch.stack([edit.picture for edit in some]),
        )
        *_, last = method(batch)
        for i, image in zip(rows, to_images(backbone.decode(last.latent)), strict=True):
            save_png(image, paths[i])
        print(f"{row}: {first + len(rows)} of {len(left)}", flush=True)
    return to_tensor([open_image(path) for path in paths])


def measure(edits: Sequence[Edit], pictures: Tensor, judges: Judges, *, drawn: bool) -> dict[str, Tensor]:
    """Figures (N,) of every edit."""
    assert judges.classifier is not None
    assert judges.features is not None
    sources = torch.stack([edit.picture for edit in edits])
    with torch.no_grad():
        scores = judges.classifier(pictures)
    asked = [i for i, edit in enumerate(edits) if edit.answers]
    obeyed = torch.full((len(edits),), torch.nan)
    obeyed[asked] = accuracy(scores[asked], judges.classifier.accepted([edits[i].answers for i in asked]))
    for i, (edit, colour) in enumerate(zip(edits, dominant_colours(*on_white(pictures)), strict=True)):
        if edit.colour is not None and colour != edit.colour:
            obeyed[i] = 0
        if edit.towards is not None:  # nearer to the artwork of that style than to the source
            seen = judges.features.embedding(torch.stack([pictures[i], edit.towards, edit.picture]))
            if (seen[0] - seen[1]).norm() >= (seen[0] - seen[2]).norm():
                obeyed[i] = 0
    structure: list[Tensor] = []
    appearance: list[Tensor] = []
    for ours, theirs in zip(pictures.split(PART), sources.split(PART), strict=True):
        seen, wanted = judges.features.look(ours), judges.features.look(theirs)
        structure.append(structure_distance(seen.places, wanted.places))
        appearance.append(perceptual_loss(seen.stages, wanted.stages))
    figures = {"structure": torch.cat(structure), "appearance": torch.cat(appearance), "obeyed": obeyed}
    if drawn:
        target = torch.stack([torch.tensor(edit.ink.ink)[None] for edit in edits])
        f1 = edge_f1(judges.detector(pictures), target, tolerance=TOLERANCE * max(target.shape[-2:])).f1
        white = 1 - on_white(pictures)[1].mean(dim=(1, 2))
        figures |= {"f1": f1, "white": white}
    return figures


def equal_obedience(rows: Mapping[str, Mapping[str, Tensor]], row: str) -> float | None:
    """The structure distance that SDEdit has where it obeys as often as `row`, between its two nearest amounts."""
    points = sorted((mean(rows[name]["obeyed"]), mean(rows[name]["structure"])) for name in SDEDIT)
    asked = mean(rows[row]["obeyed"])
    for (low, first), (high, second) in pairwise(points):
        if low <= asked <= high:
            return first + (second - first) * ((asked - low) / (high - low) if high > low else 0)
    return None


def mean(values: Tensor) -> float:
    return float(values.nanmean())


def shown(values: Tensor) -> str:
    values = values[~values.isnan()]
    if len(values) < 2:
        return f"{mean(values):.3f}"
    found = bootstrap_interval(values)
    return f"{found.estimate:.3f} ({found.low:.3f}–{found.high:.3f})"


def paired(row: Mapping[str, Tensor], plain: Mapping[str, Tensor], figure: str) -> str:
    """What `row` has more of a figure than `plain`, edit by edit."""
    found = bootstrap_interval(row[figure] - plain[figure])
    if found.low is None:
        return f"{found.estimate:+.4f}"
    return f"{found.estimate:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def table(rows: Mapping[str, Mapping[str, Tensor]], *, drawn: bool) -> str:
    headings = ["", "prompt obeyed", "structure distance ↓", f"more than {PLAIN}", "distance from the source's look ↑"]
    headings += (
        ["F1 with the drawing", "white area ↓", f"more than {ALONE}"] if drawn else ["SDEdit's structure distance"]
    )
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for name, row in rows.items():
        more = "–" if name == PLAIN else paired(row, rows[PLAIN], "structure")
        cells = [name, shown(row["obeyed"]), shown(row["structure"]), more, shown(row["appearance"])]
        if drawn:
            leak = "–" if name == ALONE else paired(row, rows[ALONE], "white")
            cells += [shown(row["f1"]), shown(row["white"]), leak]
        else:
            equal = None if name in SDEDIT else equal_obedience(rows, name)
            cells += ["–" if equal is None else f"{equal:.4f} where it obeys as often"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def page(edits: Sequence[Edit], rows: Mapping[str, Tensor], *, first: int) -> Image.Image:
    """One line for each of the `first` edits: its source, then what every row made of it."""
    cells: list[Tensor] = []
    labels: list[str] = []
    for i, edit in enumerate(edits[:first]):
        cells += [edit.picture, *(pictures[i] for pictures in rows.values())]
        labels += [edit.prompt, *rows]
    images = [image.resize((144, 144), Image.Resampling.LANCZOS) for image in to_images(torch.stack(cells))]
    return sheet(images, columns=len(rows) + 1, labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/ and weights/")
    parser.add_argument("--classifier", type=Path, required=True, help="file that benchmarks/classifier.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures and the tables")
    parser.add_argument("--model", default="icons-64")
    parser.add_argument(
        "--count",
        type=int,
        default=120,
        choices=range(1, SCORED + 1),
        metavar="N",
        help="edits of pictures, and of drawings",
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--scale", type=float, default=5.0, help="classifier-free guidance")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--only", choices=("pictures", "drawings"), help="one of the two tables")
    try:
        run(parser.parse_args())
    except SketchguideError as error:
        sys.exit(str(error))


def run(args: argparse.Namespace) -> None:
    backbone = load_backbone(args.model)
    judges = load_judges(args.shared / "weights", classifier=args.classifier, data=None, size=backbone.default_size)
    assert judges.classifier is not None
    known = set(judges.classifier.classes)
    settings = {"steps": args.steps, "scale": args.scale, "seed": args.seed}
    rows = {method: build_method(method, backbone) for method in (*PICTURES.values(), *DRAWINGS.values())}
    request = Request.checked(prompt="", **settings, model=backbone.name)
    args.out.mkdir(parents=True, exist_ok=True)
    asked = {"rows": {"pictures": dict(PICTURES), "drawings": dict(DRAWINGS)}}
    keep_alike(args.out, drawn_with(backbone, request) | asked, rows, afresh="another --out")
    report: dict[str, object] = {"hardware": hardware(backbone.device.type), **settings}
    text = ""
    for kind, descriptions, build in (
        ("pictures", PICTURES, edits_of_pictures),
        ("drawings", DRAWINGS, edits_of_drawings),
    ):
        if args.only not in (None, kind):
            continue
        drawn = kind == "drawings"
        edits = build(args.shared / "data", known, count=args.count, size=backbone.default_size)
        made = {
            row: make(row, rows[method].method, edits, backbone, request, args.out / kind)
            for row, method in descriptions.items()
        }
        figures = {row: measure(edits, pictures, judges, drawn=drawn) for row, pictures in made.items()}
        report[kind] = {
            "edits": len(edits),
            "methods": dict(descriptions),
            "means": {row: {key: round(mean(v), 5) for key, v in one.items()} for row, one in figures.items()},
        }
        text += f"{len(edits)} edits of {kind}\n\n{table(figures, drawn=drawn)}\n"
        save_png(page(edits, made, first=12), args.out / f"{kind}.png")
    (args.out / "edits.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (args.out / "edits.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
