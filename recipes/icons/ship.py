"""Put a trained model, its predictor and its parts into the package: safetensors, model cards, manifest.

python recipes/icons/ship.py --run runs/icons-64
python recipes/icons/ship.py --decoder runs/decoder
python recipes/icons/ship.py --larger runs/icons-128 --of icons-64 --name icons-128
python recipes/icons/ship.py --predictor runs/icons-64-edges
python recipes/icons/ship.py --parts runs/parts
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from sketchguide import LatentPredictor
from sketchguide.shipped import shipped_predictor
from sketchguide.weights import read_weights, write_weights

MODELS = Path(__file__).resolve().parents[2] / "src" / "sketchguide" / "models"

CREDITS = """Fluent Emoji © Microsoft (MIT, github.com/microsoft/fluentui-emoji); Noto Emoji © Google (Apache-2.0,
  github.com/googlefonts/noto-emoji); Blobmoji (Apache-2.0, github.com/C1710/blobmoji); EmojiTwo (CC BY 4.0,
  github.com/EmojiTwo/emojitwo). Names: Unicode CLDR and emojibase (MIT). The weights are offered under CC BY 4.0."""

LICENCE = f"""## Licence

CC BY 4.0. Trained on augmented artwork of {CREDITS}
"""

CARD = """---
license: cc-by-4.0
pipeline_tag: text-to-image
library_name: diffusers
tags: [sketchguide, icons]
---
# {name}

A small text-to-image model of icons, {size} px, in the ordinary diffusers layout (`StableDiffusionPipeline`).
It comes with sketchguide so that every method runs offline; it knows everyday objects, animals and food.

- **Prompts**: a thing, if you like with a style (`fluent3d`, the default, or `noto`), a colour and a plain background:
  "a red apple", "noto cat on a blue background". At most 30 tokens are read.
- **Parameters**: {parameters:.1f} M (UNet, text encoder, autoencoder), {bytes:.1f} MB in bfloat16.
{kin}- **Training** (`recipes/icons/train.py`): {samples} samples of augmented pictures in {minutes} minutes on
  {hardware}, and {autoencoder} minutes for the autoencoder, which also saw edge maps and random strokes; its decoder
  learned to see through what a denoiser leaves in latents, and crisp edges from a critic.
- **Data**: {icons} icons of the Quick, Draw! concepts (the autoencoder: all but a held-out fifth of the others),
  augmented by flips, rotation, scale, aspect, bending, hue and backgrounds. A part is laid out in the proportions of
  drawings by people (The Quick, Draw! Dataset © Google, CC BY 4.0; those that benchmarks use are left out).
- **Attribution**: {credits}
- **Limits**: text, scenes and anything outside these concepts, most people too, come out as blobs. Fine detail is soft.
"""

KIN = """- **Latents**: those of {of}, which has the same UNet and text encoder; what was trained on its latents fits.
"""


def ship_pipeline(run: Path, name: str, hardware: str) -> None:
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    diffusion = [line for line in log if line["stage"] == "diffusion"]
    earlier = next((line for line in diffusion if "earlier_samples" in line), {})  # of the weights it started from
    last = next(line for line in reversed(diffusion) if "samples" in line)
    training = {
        "samples": last["samples"] + earlier.get("earlier_samples", 0),
        "minutes": round(last["minutes"] + earlier.get("earlier_minutes", 0)),
        "autoencoder_minutes": round(
            earlier.get("earlier_autoencoder_minutes", 0)
            or max(line["minutes"] for line in log if line["stage"] == "autoencoder")
        ),
    }
    icons = next(line["icons"] for line in reversed(diffusion) if "icons" in line)
    pipeline = StableDiffusionPipeline.from_pretrained(run / "pipeline", dtype=torch.bfloat16)
    target = MODELS / name
    shutil.rmtree(target, ignore_errors=True)
    pipeline.save_pretrained(target, safe_serialization=True)
    write_card(target, name, hardware, training | {"icons": icons})


def ship_decoder(run: Path, name: str, hardware: str) -> None:
    """The autoencoder of a `decoder` run in place of the shipped one; they differ in the second half alone."""
    target = MODELS / name
    before = AutoencoderKL.from_pretrained(target / "vae", dtype=torch.bfloat16).state_dict()
    trained = AutoencoderKL.from_pretrained(run / "vae", dtype=torch.bfloat16)
    if all(torch.equal(value, before[key]) for key, value in trained.state_dict().items()):
        return  # shipped already: its minutes count once
    trained.save_pretrained(target / "vae")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    training = json.loads((target / "training.json").read_text())
    training["autoencoder_minutes"] += round(max(line["minutes"] for line in log))
    write_card(target, name, hardware, training)


def ship_larger(run: Path, of: str, name: str, hardware: str) -> None:
    """The model `of` with the autoencoder of a run of larger.py, which is for its latents."""
    autoencoder = AutoencoderKL.from_pretrained(run / "vae", dtype=torch.bfloat16)
    pipeline = StableDiffusionPipeline.from_pretrained(MODELS / of, dtype=torch.bfloat16, vae=autoencoder)
    pipeline.register_to_config(_name_or_path=of)  # not where that lies on this machine
    pipeline.unet.register_to_config(_name_or_path=f"{of}/unet")
    target = MODELS / name
    shutil.rmtree(target, ignore_errors=True)
    pipeline.save_pretrained(target, safe_serialization=True)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    training = json.loads((MODELS / of / "training.json").read_text())
    training["autoencoder_minutes"] += round(max(line["minutes"] for line in log))
    write_card(target, name, hardware, training | {"latents_of": of})
    ship_latent_classifier(of, name)


def ship_latent_classifier(of: str, name: str) -> None:
    """What judges latents of the model `of`, for one of larger pictures from the same latents."""
    source, target = MODELS / f"{of}-parts", MODELS / f"{name}-parts"
    target.mkdir(exist_ok=True)
    tensors, header = read_weights(source / "latent-classifier.safetensors", field="parts")
    config = json.loads(header["sketchguide"])
    config |= {"backbone": name, "stride": 2 * config["stride"]}
    header |= {"sketchguide": json.dumps(config)}
    write_weights(tensors, target / "latent-classifier.safetensors", metadata=header, field="parts")
    shutil.copy(source / "latent-classifier-report.json", target)
    (target / "README.md").write_text(KIN_PARTS_CARD.format(name=name, of=of) + LICENCE, encoding="utf-8")


def write_card(target: Path, name: str, hardware: str, training: dict[str, Any]) -> None:
    """`training.json` and README of the model in `target`."""
    (target / "training.json").write_text(json.dumps(training) + "\n")
    of = training.get("latents_of")
    card = CARD.format(
        kin="" if of is None else KIN.format(of=of),
        name=name,
        size=json.loads((target / "vae" / "config.json").read_text())["sample_size"],
        parameters=sum(map(count_parameters, target.rglob("*.safetensors"))) / 1e6,
        bytes=size_of(target) / 1e6,
        samples=f"{training['samples']:,}",
        minutes=training["minutes"],
        autoencoder=training["autoencoder_minutes"],
        icons=training["icons"],
        hardware=hardware,
        credits=CREDITS,
    )
    (target / "README.md").write_text(card, encoding="utf-8")


def count_parameters(file: Path) -> int:
    with safe_open(file, "pt") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def ship_predictor(run: Path, name: str) -> None:
    reads = LatentPredictor.from_pretrained(run).config.reads
    target = MODELS / shipped_predictor(name, reads)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in ("predictor.safetensors", "training.json"):
        shutil.copyfile(run / file, target / file)
    card = (run / "README.md").read_text(encoding="utf-8")
    loading = "load_predictor(None, backbone)" if reads == "ink" else f'load_predictor("{target.name}", backbone)'
    card = card.replace(f"LatentPredictor.from_pretrained({json.dumps(str(run))}).to(backbone.device)", loading)
    card = card.replace(
        "import LatentPredictor, generate, load_backbone", "import generate, load_backbone, load_predictor"
    )
    card = card.replace(str(run), target.name)
    card = card.replace("## Use\n", "It fits icons-128 as well, whose latents are those of icons-64.\n\n## Use\n")
    (target / "README.md").write_text(card[: card.index("## Licence")] + LICENCE, encoding="utf-8")


ABOUT = {
    "sketcher": "P, from a picture to a drawing of it in four line styles, with a gradient all the way",
    "recogniser": "which word of a prompt a picture shows, for `--tries` (by `benchmarks/classifier.py --words`)",
    "classifier": "what a picture shows; features for the loss of identity",
    "drawing-classifier": "what a drawing shows; features for the perceptual loss",
    "latent-classifier": "what a noisy latent will show, for classifier guidance",
    "sketch-attention": "shows the network a drawing, for editing",
}

PARTS_CARD = """---
license: cc-by-4.0
library_name: sketchguide
tags: [sketchguide, icons]
---
# Parts for {name}

What DiffSketching (arXiv 2305.18812) needs beside the model, each trained by `sketchguide component` and found by its
name: on the pictures and drawings of `recipes/icons/classes.py`, scored on artwork and drawings held out; sketch
attention on those of `recipes/icons/pictures.py`, scored on other pictures of the same artwork. And the recogniser that
`--tries` asks, which knows the words that the model knows, scored on other augmentations of the same artwork, as it
serves for what the model draws. Drawings by people are
of The Quick, Draw! Dataset © Google (CC BY 4.0). Weights are kept in bfloat16.

{parts}

"""

KIN_PARTS_CARD = """---
license: cc-by-4.0
library_name: sketchguide
tags: [sketchguide, icons]
---
# Parts for {name}

The latent classifier of {of}-parts, for classifier guidance: {name} has the latents of {of}. What looks at pictures and
drawings is that of {of}-parts.

"""

MOST = 5e6  # bytes of a part


def ship_parts(run: Path, name: str) -> None:
    target = MODELS / f"{name}-parts"
    target.mkdir(parents=True, exist_ok=True)
    parts = {file: light(file) for file in sorted(run.glob("*.safetensors"))}  # all are good before one is replaced
    for file, (tensors, header) in parts.items():
        report = run / f"{file.stem}-report.json"
        write_weights(tensors, target / file.name, metadata=header, field="parts")
        facts = json.loads(report.read_text(encoding="utf-8")) | {"part": file.stem}
        (target / report.name).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(target.glob("*-report.json"))]
    lines = "\n".join(f"- **{part}**, {ABOUT[part]}: {told(r)}" for r in reports for part in [r.pop("part")])
    (target / "README.md").write_text(PARTS_CARD.format(name=name, parts=lines) + LICENCE, encoding="utf-8")


def light(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A part in bfloat16, with its header; vectors are few, and statistics of BatchNorm among them: they stay as they
    are."""
    tensors, header = read_weights(file, field="parts")
    tensors = {name: one.bfloat16() if one.ndim > 1 else one for name, one in tensors.items()}
    report = file.with_name(f"{file.stem}-report.json")
    if sum(one.nbytes for one in tensors.values()) > MOST or not report.is_file():
        raise SystemExit(f"{file} is over {MOST / 1e6:.0f} MB in bfloat16, or {report.name} is missing.")
    return tensors, header


def told(report: dict[str, Any]) -> str:
    """The figures of a report in words; tables stay in the report."""
    return ", ".join(
        f"{name.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}"
        for name, value in report.items()
        if not isinstance(value, list)
    )


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def write_manifest() -> None:
    entries = {
        file.relative_to(MODELS).as_posix(): {
            "size": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(MODELS.rglob("*.safetensors"))
    }
    (MODELS / "manifest.json").write_text(json.dumps(entries, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of recipes/icons/train.py; none: leave the model as it is")
    parser.add_argument("--decoder", type=Path, help="folder of the decoder stage; none: leave it as it is")
    parser.add_argument("--larger", type=Path, help="folder of larger.py; none: leave it as it is")
    parser.add_argument("--of", default="icons-64", help="whose latents that is for")
    parser.add_argument("--predictor", type=Path, help="folder of `sketchguide train`; none: leave it as it is")
    parser.add_argument("--parts", type=Path, help="folder of `sketchguide component`; none: leave them as they are")
    parser.add_argument("--name", default="icons-64")
    parser.add_argument("--hardware", default="two CPU cores")
    args = parser.parse_args()
    if args.run:
        ship_pipeline(args.run, args.name, args.hardware)
    if args.decoder:
        ship_decoder(args.decoder, args.name, args.hardware)
    if args.larger:
        ship_larger(args.larger, args.of, args.name, args.hardware)
    if args.predictor:
        ship_predictor(args.predictor, args.name)
    if args.parts:
        ship_parts(args.parts, args.name)
    write_manifest()
    for folder in sorted(f for f in MODELS.iterdir() if f.is_dir()):
        print(f"{folder}: {size_of(folder) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
