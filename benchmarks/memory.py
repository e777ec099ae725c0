"""What a pull takes of memory in a network of Stable Diffusion 1.x's size, with random weights: a step of one picture
with classifier-free guidance, plain and pulled to a drawing, the latter also with gradient checkpointing.

python benchmarks/memory.py --out benchmarks/results/memory.json

Counted are the tensors that live at once besides the weights (`evaluation.costs.LiveBytes`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from sketchguide import Sketch, from_pipe
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.controls.base import Guide
from sketchguide.evaluation.costs import LiveBytes
from sketchguide.guidance import latent_guide
from sketchguide.machine import hardware
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise, seeded
from sketchguide.training.predictor import PredictorTraining, predictor_config

DRAWING = Path(__file__).resolve().parents[1] / "examples" / "sketches" / "apple.svg"
MEBI = 2**20


def stable_diffusion(dtype: torch.dtype) -> Backbone:
    """One of the size of Stable Diffusion 1.x, all but its text encoder."""
    parts: dict[str, Any] = tiny_stable_diffusion().components
    width: int = parts["text_encoder"].config.hidden_size
    with seeded(0):
        parts["unet"] = UNet2DConditionModel(sample_size=64, cross_attention_dim=width)  # the rest is by default
        parts["vae"] = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
    return from_pipe(StableDiffusionPipeline(**parts, requires_safety_checker=False).to(dtype=dtype), name="random")


def a_predictor(backbone: Backbone) -> LatentPredictor:
    """What `sketchguide train` would begin with."""
    config = predictor_config(backbone, PredictorTraining(), map_kind="edges")
    return LatentPredictor(config).eval().requires_grad_(False)


def peak(backbone: Backbone, request: Request, guides: Sequence[Guide]) -> float:
    """MiB that live at once in the first step of the walk of `request`."""
    width, height = backbone.default_size
    grid = (height // backbone.stride, width // backbone.stride)
    latent = noise(generators([request.seed]), (backbone.latent_channels, *grid))
    told, negative = backbone.describe([request.prompt]), backbone.describe([""])
    levels = backbone.levels(request.steps)[:2]
    with LiveBytes() as counter:
        for _ in sample(backbone, told, latent, levels, negative=negative, scale=request.scale, guides=guides):
            pass
    return counter.peak / MEBI


def taken_by(backbone: Backbone) -> dict[str, float]:
    """MiB, of the weights and of each way to take a step."""
    request = Request.checked(prompt="a red apple", seed=7)
    drawing = Sketch.open(DRAWING).rasterize(size=backbone.default_size)
    guide = latent_guide(request, [drawing], backbone, a_predictor(backbone))
    network: Any = backbone.network
    weights = sum(tensor.nbytes for tensor in network.parameters()) / MEBI
    plain, pulled = peak(backbone, request, ()), peak(backbone, request, [guide])
    network.enable_gradient_checkpointing()
    again = peak(backbone, request, [guide])
    return {
        "weights of the network": weights,
        "plain": plain,
        "pulled": pulled,
        "pulled, with gradient checkpointing": again,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    backbone = stable_diffusion(getattr(torch, args.dtype))
    figures = {name: round(value) for name, value in taken_by(backbone).items()}
    about = {"hardware": hardware(backbone.device.type), "dtype": args.dtype, "size": list(backbone.default_size)}
    text = json.dumps({**about, "MiB": figures}, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
