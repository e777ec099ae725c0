"""Train what people would take instead of LGP, a diffusers ControlNet or T2I-Adapter, on the same pictures and maps.

    python recipes/icons/pictures.py --data ../shared/data --out runs/icon-pictures
    python benchmarks/peers/train.py controlnet --data runs/icon-pictures --images 300 -o runs/peers/controlnet-300
    python benchmarks/peers/train.py t2i-adapter --data runs/icon-pictures --images 300 -o runs/peers/t2i-adapter-300

Pictures, augmentation, held-out split, maps and model are those of `sketchguide train` with the same --data, --images
and --seed. The objective is the model's own, as in diffusers' training scripts and the papers; noise levels are drawn
as each paper draws them. Compare learning rates by the held-out error: that of the model told the map, as a share of
that of the model alone. Ctrl-C saves; the same command again goes on. The folder is what `from_pretrained` reads, and
`training.json` in it, written last, says what it took.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import Tensor, nn

from sketchguide.backbones.base import Backbone
from sketchguide.backbones.wrapped import Told, with_controlnet, with_t2i_adapter
from sketchguide.cli.report import hush_libraries
from sketchguide.cli.session import until_stopped
from sketchguide.cli.signals import Stopped, handling, stop_now
from sketchguide.errors import SketchguideError
from sketchguide.extractors import EXTRACTORS
from sketchguide.files import locked
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.loading import load_backbone
from sketchguide.machine import hardware
from sketchguide.seeds import seeded
from sketchguide.training.checkpoints import Checkpoints, check_config
from sketchguide.training.data import Pictures, digest, find_examples, split
from sketchguide.training.session import Session
from sketchguide.training.told import ToldRun, ToldTraining

SCORED = 32  # held-out pictures that are scored
SCORE_EVERY = 200  # steps


class Kind(NamedTuple):
    """What the two peers do not share."""

    build: Callable[[UNet2DConditionModel, int], nn.Module]  # from the UNet and the side of a latent pixel
    wrap: Callable[[Backbone, nn.Module, Tensor], Told]
    rate: float
    cubic: bool  # draw more of the noisy levels


def build_controlnet(unet: UNet2DConditionModel, stride: int) -> ControlNetModel:
    """A copy of the UNet's encoder, whose hint encoder shrinks the image by `stride`, as the latents are shrunk."""
    channels = (16, 32, 96, 256)[: 1 + int(math.log2(stride))]
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels)
    heads = unet.config.addition_embed_type_num_heads
    if controlnet.config.addition_embed_type_num_heads != heads:
        # diffusers 0.42 leaves this setting out: the pooled prompt would be cut into other heads than the UNet's.
        weights = controlnet.state_dict()
        controlnet = ControlNetModel.from_config(controlnet.config, addition_embed_type_num_heads=heads)
        controlnet.load_state_dict(weights)
    return controlnet


def build_t2i_adapter(unet: UNet2DConditionModel, stride: int) -> T2IAdapter:
    """The published adapter for the UNet's shape: a first block without attention, as SDXL's, adds after shrinking."""
    channels = list(unet.config.block_out_channels)
    if unet.config.down_block_types[0] == "DownBlock2D":
        channels.append(channels[-1])  # for the middle block
        return T2IAdapter(channels=channels, downscale_factor=2 * stride, adapter_type="full_adapter_xl")
    return T2IAdapter(channels=channels, downscale_factor=stride)


KINDS = {
    "controlnet": Kind(build_controlnet, with_controlnet, rate=3e-4, cubic=False),
    "t2i-adapter": Kind(build_t2i_adapter, with_t2i_adapter, rate=1e-3, cubic=True),
}


def build_peer(kind: str, backbone: Backbone, *, seed: int) -> Told:
    """`backbone`, told what a new peer of this kind makes of a map that is still to come."""
    with seeded(seed):
        peer = KINDS[kind].build(backbone.network, backbone.stride).to(backbone.device)
    width, height = backbone.default_size
    return KINDS[kind].wrap(backbone, peer, torch.zeros(1, 3, height, width))


def train(args: argparse.Namespace) -> None:
    kind = KINDS[args.kind]
    settings = ToldTraining(
        rate=kind.rate if args.rate is None else args.rate,
        drop=args.drop,
        cubic=kind.cubic,
        steps=args.steps,
        batch=args.batch,
        bf16=args.bf16,
        seed=args.seed,
    )
    examples = find_examples(args.data, limit=args.images, seed=args.seed, recipes=True)
    training, held_out = split(examples, seed=args.seed)
    checkpoints = Checkpoints(args.output / "checkpoints", keep=1)
    hush_libraries()
    with locked(checkpoints.folder):
        backbone = load_backbone(args.model, device=args.device, dtype="float32")
        pictures = Pictures(training, size=backbone.default_size)
        others = Pictures(held_out, size=backbone.default_size, beside=pictures) if held_out else None
        scored = others.fixed(SCORED) if others else None
        if args.fresh:
            checkpoints.clear()
        config = {
            "kind": args.kind,
            **asdict(settings),
            "model": args.model,
            "map": args.map,
            "images": len(examples),
            "minutes": args.minutes,
            "pictures": digest(examples),
            "weights": fingerprint_of_model(backbone),
        }
        if (latest := checkpoints.latest()) is not None:
            check_config(latest.meta["config"], config, afresh="--fresh")
        told = build_peer(args.kind, backbone, seed=args.seed)
        run = ToldRun(told, pictures, EXTRACTORS[args.map], settings)
        if latest is not None:
            run.go_on(latest)
        parameters = sum(p.numel() for p in run.module.parameters())
        print(f"{args.kind}: {parameters:,} parameters, {len(training)} pictures, from step {run.step}", flush=True)
        session = Session(
            run,
            checkpoints,
            config,
            minutes=args.minutes,
            score=(lambda: run.score(*scored)) if scored and scored[1] else None,
            log=args.output / "log.jsonl",
            score_every=SCORE_EVERY,
        )
        session.rewind_log()
        for step in until_stopped(session, sys.argv):
            if step % 50 == 0:
                print(f"step {step} of {run.settings.steps}: {session.figures}", flush=True)
        run.module.eval().save_pretrained(args.output)
        held_out_error = run.score(*scored) if scored and scored[1] else None
        facts = {
            **config,
            "trainable_parameters": parameters,
            "training_images": len(pictures.used),
            "held_out_images": len(held_out),
            "steps": run.step,
            "seconds": round(run.seconds, 1),
            "held_out": held_out_error,
            "device": hardware(backbone.device.type),
            "skipped_steps": run.skipped,
            "unreadable": len(pictures.skipped),
        }
        (args.output / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(f"{args.output}: {run.step} steps in {run.seconds:.0f} s, held-out error {held_out_error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--data", type=Path, required=True, help="folder of captioned pictures, as `sketchguide train`")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--images", type=int, help="use this many pictures, drawn by the seed; default all")
    parser.add_argument("--steps", type=int, default=ToldTraining.steps, help="default %(default)s")
    parser.add_argument("--minutes", type=float, help="make fewer steps, if need be, to train no longer than this")
    parser.add_argument("--batch", type=int, default=ToldTraining.batch, help="default %(default)s")
    parser.add_argument("--rate", type=float, help="; ".join(f"{name}: {kind.rate:g}" for name, kind in KINDS.items()))
    parser.add_argument(
        "--drop", type=float, default=ToldTraining.drop, help="share of captions dropped; default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--map", choices=sorted(EXTRACTORS), default="edges")
    parser.add_argument("--model", default="icons-64")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where torch's autocast allows it")
    parser.add_argument("--fresh", action="store_true", help="start again and replace what is in the folder")
    args = parser.parse_args()
    try:
        with handling(stop_now):
            train(args)
    except SketchguideError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    except Stopped as stopped:
        parser.exit(stopped.exit_code, "Stopped. The same command goes on from the last step that is saved.\n")


if __name__ == "__main__":
    main()
