"""Train an autoencoder of twice as many pixels a side for the latents of a model that is there already.

    python recipes/icons/larger.py --start src/sketchguide/models/icons-64 --out runs/icons-128 --minutes 70

Its decoder learns to draw the artwork at that size from what the smaller encoder makes of it, its encoder to find the
same latents in the larger picture. So the denoiser and all that was trained on its activations stay as they are.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torchvision.utils import save_image

from artwork import Artwork, line_drawings
from critic import Critic
from train import Average, Optimizer, Run, alone, fast_bfloat16, rate_factor, reconstruction_loss, spoil

WIDTH = 32  # channels at the new resolution


def enlarged(small: AutoencoderKL) -> AutoencoderKL:
    """`small` with one more resolution on the outside, which begins as averaging and as repeating pixels."""
    config = dict(small.config)
    channels = config["block_out_channels"]
    model = AutoencoderKL.from_config(
        config
        | {
            "block_out_channels": (WIDTH, *channels),
            "down_block_types": ("DownEncoderBlock2D", *config["down_block_types"]),
            "up_block_types": (*config["up_block_types"], "UpDecoderBlock2D"),
            "sample_size": 2 * config["sample_size"],
        }
    )
    inner = {inside(name): weight for name, weight in small.state_dict().items()}
    fits = {name: value for name, value in model.state_dict().items() if name in inner}
    model.load_state_dict({n: inner[n] for n, value in fits.items() if inner[n].shape == value.shape}, strict=False)
    with torch.no_grad():
        first = model.encoder.down_blocks[0]
        area = first.downsamplers[0].conv
        area.weight.zero_()
        area.weight[:, :, :2, :2] = torch.eye(WIDTH)[:, :, None, None] / 4
        area.bias.zero_()
        for resnet in (*first.resnets, *model.decoder.up_blocks[-1].resnets):
            resnet.conv2.weight.zero_()
            resnet.conv2.bias.zero_()
        repeat = model.decoder.up_blocks[-2].upsamplers[0].conv
        repeat.weight.zero_()
        repeat.weight[:, :, 1, 1] = torch.eye(len(repeat.weight))
        repeat.bias.zero_()
    return model


def inside(name: str) -> str:
    """What a weight of the smaller autoencoder is called in the larger one."""
    words = name.split(".")
    if words[:2] == ["encoder", "down_blocks"]:
        words[2] = str(int(words[2]) + 1)
    return ".".join(words)


def train(args: argparse.Namespace) -> None:
    rng = Generator().manual_seed(0)
    torch.manual_seed(0)
    small = AutoencoderKL.from_pretrained(args.start / "vae", dtype=torch.float32)
    small = small.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    artwork = Artwork(
        args.data, size=2 * small.config["sample_size"], concepts="all", loose=1.4, plain=0.5, styles=args.styles
    )
    run = Run(args, "larger")
    model = enlarged(small).to(memory_format=torch.channels_last).train()
    average = Average([model], 0.999)
    critic = Critic().to(memory_format=torch.channels_last)
    fast = fast_bfloat16("cpu")
    optimizer = Optimizer([model], args.rate, dtype=torch.bfloat16 if fast else torch.float32)
    step = 0
    if state := run.load():
        model.load_state_dict(state["model"])
        average.mean = state["mean"]
        optimizer.load_state_dict(state["optimizer"])
        critic.restore(state["critic"])
        rng.set_state(state["rng"])
        step = state["step"]
    while run.progress < 1:
        pictures = shown(artwork, args.batch, rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            with torch.no_grad():
                wanted = small.encode(F.avg_pool2d(pictures, 2)).latent_dist.mode().float()
            found = model.encode(pictures[step % 4 :: 4]).latent_dist  # it has less to learn
            output = model.decode(spoil(wanted, rng)).sample.float()
        loss, parts = reconstruction_loss(output, pictures, found.mean.float(), found.logvar.float())
        loss = loss + critic.complaint(output, pictures, loss, model.decoder.conv_out.weight, args.critic)
        parts["latents"] = (error := (found.mean.float() - wanted[step % 4 :: 4]).square().mean()).item()
        (loss + error).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(rate_factor(step, run.progress, args.decay))
        average.update(step)
        parts["critic"] = critic.learn(output, pictures)
        step += 1
        if step % 20 == 0:
            run.log(step=step, loss=loss.item(), **parts)
        if time.monotonic() - run.saved > 120 or run.progress >= 1:
            state = {"model": model.state_dict(), "mean": average.mean, "optimizer": optimizer.state_dict()}
            run.save(step, {**state, "critic": critic.state(), "rng": rng.get_state()})
    average.swap()
    model.eval().save_pretrained(run.folder / "vae")
    pictures = shown(artwork, 40, rng)[:24]
    with torch.no_grad():
        wanted = small.encode(F.avg_pool2d(pictures, 2)).latent_dist.mode()
        before = F.interpolate(small.decode(wanted).sample, scale_factor=2, mode="bicubic")
        found = model.encode(pictures).latent_dist.mode()
        rows = [pictures, before, model.decode(wanted).sample, model.decode(found).sample]
    for name, made in zip(("before", "of_its_latents", "of_own_latents"), rows[1:], strict=True):
        error = (made.clamp(-1, 1) - pictures).square().mean()
        run.log(step=step, **{f"psnr_{name}": 10 * math.log10(4 / error.item())})
    run.log(step=step, latents=(found - wanted).square().mean().item())
    save_image(torch.cat(rows).clamp(-1, 1) / 2 + 0.5, run.folder / "larger.png", nrow=8)


def shown(artwork: Artwork, count: int, rng: Generator) -> Tensor:
    """Pictures (B, 3, H, W) of artwork, the last fifth of them as lines, which the latent of a drawing needs."""
    pictures, _ = artwork.batch(count, rng)
    drawn = count // 5
    pictures[-drawn:] = line_drawings(pictures[-drawn:], rng)
    return pictures.contiguous(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="emoji128, quickdraw, class_map.json")
    parser.add_argument("--start", type=Path, required=True, help="pipeline folder whose latents it is for")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; an existing one is resumed")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=60, help="training time over all sessions")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument(
        "--decay", type=float, default=0.5, help="last part of the time in which the rate falls to zero"
    )
    parser.add_argument("--critic", type=float, default=0.5, help="how much a critic has to say, beside the pixels")
    parser.add_argument("--styles", type=lambda text: tuple(text.split(",")), default=("fluent3d", "noto"))
    alone(train, parser.parse_args())


if __name__ == "__main__":
    main()
