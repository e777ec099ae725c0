"""Train what people would take instead of LGP, a diffusers ControlNet or T2I-Adapter, on the same pictures and maps.

    python recipes/icons/pictures.py --data ../shared/data --out runs/icon-pictures --count 1000
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
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sketchguide.backbones.base import Backbone
from sketchguide.backbones.wrapped import with_controlnet, with_t2i_adapter
from sketchguide.cli.environment import hardware
from sketchguide.cli.report import hush_libraries
from sketchguide.cli.signals import StopLater, handling
from sketchguide.errors import SketchguideError, UsageError
from sketchguide.extractors import EXTRACTORS, Extractor
from sketchguide.levels import Level
from sketchguide.loading import load_backbone
from sketchguide.seeds import generators
from sketchguide.training.checkpoints import Checkpoint, Checkpoints, check_config
from sketchguide.training.data import Pictures, find_examples, split
from sketchguide.training.run import TrainingRun, add_noise, cosine

SAVE_EVERY = 120.0  # seconds
SCORE_EVERY = 200  # steps
SCORED = 32  # held-out pictures that are scored


class Kind(NamedTuple):
    """What the two peers do not share."""

    build: Any  # (unet, stride) -> nn.Module
    wrap: Any  # (backbone, module, image) -> Backbone
    rate: float
    drop: float  # share of the captions that are dropped
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
    "controlnet": Kind(build_controlnet, with_controlnet, rate=3e-4, drop=0.1, cubic=False),
    "t2i-adapter": Kind(build_t2i_adapter, with_t2i_adapter, rate=1e-3, drop=0.1, cubic=True),
}


@dataclass(frozen=True, kw_only=True)
class PeerTraining:
    """Settings of a run."""

    kind: str
    rate: float  # AdamW's learning rate at its highest
    drop: float
    steps: int = 2000
    minutes: float = math.inf  # the run ends with the steps or with the time, whichever is first
    batch: int = 32
    warmup: int = 100  # steps in which the rate rises from 0; then it falls to 0 along a cosine
    decay: float = 0.01  # weight decay
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "steps", "minutes", "batch"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0.", field=name)
        if not 0 <= self.drop <= 1:
            raise UsageError(f"drop is {self.drop}; it must lie in 0..1.", field="drop")


class PeerRun(TrainingRun):
    """One training run; `peer` is the result. The loss is the mean squared error of the model's own objective."""

    def __init__(
        self,
        backbone: Backbone,
        pictures: Pictures,
        extractor: Extractor,
        settings: PeerTraining,
        *,
        resume: Checkpoint | None = None,
    ) -> None:
        self.backbone = backbone
        self.pictures = pictures
        self.extractor = extractor
        self.settings = settings
        kind = KINDS[settings.kind]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.peer: nn.Module = kind.build(backbone.network, backbone.stride)
        layout = torch.channels_last if backbone.device.type == "cpu" else torch.preserve_format
        self.peer.to(backbone.device, memory_format=layout)
        width, height = backbone.default_size
        self.told = kind.wrap(backbone, self.peer, torch.zeros(1, 3, height, width))
        self.peer.train().requires_grad_(True)
        optimizer = torch.optim.AdamW(self.peer.parameters(), lr=settings.rate, weight_decay=settings.decay)
        super().__init__(self.peer, optimizer, seed=settings.seed, resume=resume)

    @property
    def progress(self) -> float:
        return max(self.step / self.settings.steps, self.seconds / 60 / self.settings.minutes)

    def rate(self) -> float:
        return self.settings.rate * min(1.0, (self.step + 1) / self.settings.warmup) * cosine(self.progress)

    def loss(self) -> Tensor:
        images, captions = self.pictures.batch(self.rng, self.settings.batch)
        dropped = torch.rand(len(captions), generator=self.rng) < self.settings.drop
        captions = ["" if drop else text for text, drop in zip(captions, dropped.tolist(), strict=True)]
        draws = torch.rand(len(captions), generator=self.rng)
        if KINDS[self.settings.kind].cubic:
            draws = draws**3  # T2I-Adapter, section 3.4: structure is decided while there is much noise
        levels = [self.backbone.level(float(progress)) for progress in draws]
        return self._error(images, captions, levels, self.rng)

    def _error(
        self, images: Tensor, captions: Sequence[str], levels: Sequence[Level], rng: Generator, *, told: bool = True
    ) -> Tensor:
        """Mean squared error of the network's output, with the map or (`told=False`) without."""
        backbone = self.backbone
        images = images.to(backbone.device)
        with ExitStack() as stack:
            if self.settings.bf16:
                stack.enter_context(torch.autocast(backbone.device.type, torch.bfloat16))
            if backbone.device.type == "cpu":  # the fused kernel's backward pass costs more than plain products here
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            with torch.no_grad():
                clean = backbone.encode(images)
                latent, noise, alpha, sigma, times = add_noise(clean, levels, rng)
                condition = backbone.describe(captions)
                hint = self.extractor(images).expand(-1, 3, -1, -1)
            network = replace(self.told, image=hint) if told else backbone
            output = network.run(latent, times, condition)
        wanted = {
            "epsilon": noise,
            "v_prediction": alpha * noise - sigma * clean,
            "sample": clean,
        }[backbone.prediction_kind]
        return (output - wanted).square().mean()

    @torch.no_grad()
    def score(self, images: Tensor, captions: Sequence[str]) -> float:
        """Error on held-out pictures (N, 3, H, W) as a share of the model's without the map: below 1, the map helps.

        Noise and levels are the same at every call.
        """
        levels = [self.backbone.level(float(p)) for p in torch.linspace(0, 1, len(images) + 2)[1:-1]]
        errors = [
            float(self._error(images, captions, levels, generators([12345])[0], told=told)) for told in (True, False)
        ]
        return errors[0] / errors[1]


def train(args: argparse.Namespace) -> None:
    kind = KINDS[args.kind]
    settings = PeerTraining(
        kind=args.kind,
        rate=kind.rate if args.rate is None else args.rate,
        drop=kind.drop if args.drop is None else args.drop,
        steps=args.steps,
        minutes=args.minutes,
        batch=args.batch,
        bf16=args.bf16,
        seed=args.seed,
    )
    examples = find_examples(args.data, limit=args.images, seed=args.seed)
    training, held_out = split(examples, seed=args.seed)
    checkpoints = Checkpoints(args.output / "checkpoints", keep=1)
    stop = StopLater()
    hush_libraries()
    with checkpoints.lock(), handling(stop):
        backbone = load_backbone(args.model, device=args.device, dtype="float32")
        pictures = Pictures(training, size=backbone.default_size)
        scored = Pictures(held_out, size=backbone.default_size).fixed(SCORED) if held_out else None
        config = {**asdict(settings), "model": args.model, "map": args.map, "images": len(examples)}
        config["minutes"] = args.minutes if math.isfinite(args.minutes) else None
        if args.fresh:
            checkpoints.clear()
        latest = checkpoints.latest()
        if latest is not None:
            check_config(latest.meta["config"], config, afresh="--fresh")
        run = PeerRun(backbone, pictures, EXTRACTORS[args.map], settings, resume=latest)
        parameters = sum(p.numel() for p in run.peer.parameters())
        print(f"{args.kind}: {parameters:,} parameters, {len(training)} pictures, from step {run.step}", flush=True)
        saved = time.monotonic()
        step = run.step
        held_out_error = None if scored is None else run.score(*scored)
        log(args.output, {"step": step, "held_out": held_out_error})
        loss: float | None = None  # of the last fifty steps or so
        for step, latest_loss, skipped in run:
            if math.isfinite(latest_loss):
                loss = latest_loss if loss is None else loss + 0.02 * (latest_loss - loss)
            if step % SCORE_EVERY == 0 or run.progress >= 1:
                held_out_error = None if scored is None else run.score(*scored)
                line = {"step": step, "loss": loss, "held_out": held_out_error, "skipped": skipped}
                log(args.output, line | {"seconds": round(run.seconds, 1)})
            if time.monotonic() - saved > SAVE_EVERY or stop.number or run.progress >= 1:
                checkpoints.save(step, run.state(), {"config": config})
                saved = time.monotonic()
            if stop.number:
                print(f"Step {step} is saved; the same command goes on from there.")
                raise SystemExit(128 + stop.number)
        run.peer.eval().save_pretrained(args.output)
        facts = {
            **config,
            "trainable_parameters": parameters,
            "training_images": len(training),
            "held_out_images": len(held_out),
            "steps": run.step,
            "seconds": round(run.seconds, 1),
            "loss": loss,
            "held_out": held_out_error,
            "device": hardware(backbone.device.type),
            "skipped_steps": run.skipped,
            "unreadable": len(pictures.skipped),
        }
        (args.output / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(f"{args.output}: {run.step} steps in {run.seconds:.0f} s, held-out error {held_out_error}")


def log(folder: Path, line: dict[str, Any]) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--data", type=Path, required=True, help="folder of captioned pictures, as `sketchguide train`")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--images", type=int, help="use this many pictures, drawn by the seed; default all")
    parser.add_argument("--steps", type=int, default=PeerTraining.steps, help="default %(default)s")
    parser.add_argument("--minutes", type=float, default=math.inf, help="train no longer than this; default no limit")
    parser.add_argument("--batch", type=int, default=PeerTraining.batch, help="default %(default)s")
    parser.add_argument("--rate", type=float, help="; ".join(f"{name}: {kind.rate:g}" for name, kind in KINDS.items()))
    parser.add_argument("--drop", type=float, help="share of captions dropped; default 0.1, as the model was trained")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--map", choices=sorted(EXTRACTORS), default="edges")
    parser.add_argument("--model", default="icons-64")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where torch's autocast allows it")
    parser.add_argument("--fresh", action="store_true", help="start again and replace what is in the folder")
    args = parser.parse_args()
    try:
        train(args)
    except SketchguideError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
