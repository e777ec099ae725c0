"""Train the embedded text-to-image model, in stages that can each be interrupted and resumed.

    python recipes/icons/train.py autoencoder --data ../shared/data --out runs/icons-64 --minutes 12
    python recipes/icons/train.py diffusion   --data ../shared/data --out runs/icons-64 --minutes 120
    python recipes/icons/train.py decoder     --data ../shared/data --out runs/decoder --minutes 12 \\
        --start runs/icons-64/pipeline

The same commands with `--size 128 --device cuda` train icons-128.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.utils import save_image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from artwork import Artwork, line_drawings, uniform
from critic import Critic
from sketchguide.errors import UsageError
from sketchguide.files import locked
from sketchguide.training.checkpoints import Checkpoints, check_config

PROMPT_TOKENS = 32


@dataclass(frozen=True)
class Shape:
    """What differs between the two sizes."""

    autoencoder: tuple[int, ...]
    unet: tuple[int, ...]
    layers: int
    attention: tuple[bool, ...]
    text_width: int


SHAPES = {
    64: Shape((32, 64, 128), (64, 160, 224), 1, (False, True, True), 192),
    128: Shape((48, 96, 96, 128), (128, 224, 320), 1, (False, True, True), 256),
}


def build_autoencoder(size: int) -> AutoencoderKL:
    channels = SHAPES[size].autoencoder
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4 if size == 64 else 8,
        norm_num_groups=8,
        sample_size=size,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_unet(size: int) -> UNet2DConditionModel:
    """The prompt reaches the network twice: token by token in cross-attention, and pooled beside the time in every
    residual block, which teaches a small network what the picture is of much sooner.
    """
    shape = SHAPES[size]
    down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in shape.attention)
    up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(shape.attention))
    channels = 4 if size == 64 else 8
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=shape.unet,
        layers_per_block=shape.layers,
        cross_attention_dim=shape.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    nn.init.zeros_(unet.add_embedding.norm2.weight)
    return unet


def build_text_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_TOKENS,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,  # as diffusers wants it of this pipeline; trailing steps do not use it
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def build_tokenizer(artwork: Artwork) -> CLIPTokenizer:
    """A small CLIP tokenizer: byte-level pairs learned from every caption that the artwork can have."""
    rng = Generator().manual_seed(0)
    lines = [*artwork.every_name] * 4
    for _ in range(40):
        lines += artwork.batch(64, rng)[1]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        lines,
        trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False),
    )
    model = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    for piece in [f"{letter}</w>" for letter in alphabet] + ["<|startoftext|>", "<|endoftext|>"]:
        vocabulary.setdefault(piece, len(vocabulary))
    return CLIPTokenizer(
        vocab=vocabulary, merges=[tuple(pair) for pair in model["merges"]], model_max_length=PROMPT_TOKENS
    )


MAY_CHANGE = ("out", "data", "minutes", "device", "compile", "preview")  # of the arguments of a run that goes on


class Run:
    """One stage's folder: checkpoints, a log, and the clock over all its sessions."""

    def __init__(self, args: argparse.Namespace, stage: str) -> None:
        self.folder: Path = args.out
        self.stage = stage
        self.minutes: float = args.minutes
        self.checkpoints = Checkpoints(args.out / stage)
        given = {name: value for name, value in vars(args).items() if name not in MAY_CHANGE}
        self.config = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        self.spent = 0.0
        self.started = time.monotonic()
        self.saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            return None
        check_config(checkpoint.meta.get("config", self.config), self.config, afresh="another --out")
        self.spent = checkpoint.meta["spent"]
        return {**checkpoint.state, "step": checkpoint.step}

    def save(self, step: int, state: dict[str, Any]) -> None:
        self.checkpoints.save(step, state, {"spent": self.elapsed, "config": self.config})
        self.saved = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of training, earlier sessions included."""
        return self.spent + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed / (60 * self.minutes))

    def log(self, **values: float) -> None:
        line = json.dumps({"stage": self.stage, "minutes": round(self.elapsed / 60, 2), **values})
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")


def rate_factor(step: int, progress: float, decay: float) -> float:
    """Warm up over 100 steps, hold, and fall to zero over the last `decay` of the time."""
    return min(1.0, (step + 1) / 100, max(0.0, (1 - progress) / decay))


def fast_bfloat16(device: str) -> bool:
    """Whether `device` multiplies faster in bfloat16; a CPU without the instructions for it takes 100 times as long."""
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported()


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is made orthogonal by Newton-Schulz iterations (Jordan et al. 2024), for matrices.

    torch.optim.Muon always iterates in bfloat16, which a CPU without the instructions for it does 100 times slower.
    The size of an update is that of AdamW (Liu et al. 2025, 2502.16982, equation 4).
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    ITERATIONS = 5

    def __init__(self, matrices: list[nn.Parameter], rate: float, *, dtype: torch.dtype) -> None:
        super().__init__(matrices, {"lr": rate, "momentum": 0.95, "weight_decay": 0.01})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault((min(matrix.shape), max(matrix.shape)), []).append(matrix)
            for (_, longer), matrices in alike.items():
                updates = self.orthogonal(torch.stack([wide(self.direction(m, group["momentum"])) for m in matrices]))
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    wide(matrix).add_(update.to(matrix), alpha=-0.2 * group["lr"] * longer**0.5)

    def direction(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's: the mean of the gradients, looked at one step ahead."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(matrix)
        mean = state["mean"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(mean, momentum)

    def orthogonal(self, matrices: Tensor) -> Tensor:
        """(N, m, n), m <= n, with all singular values brought near 1."""
        x = matrices.to(self.dtype)
        x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
        a, b, c = self.COEFFICIENTS
        for _ in range(self.ITERATIONS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x


def wide(matrix: Tensor) -> Tensor:
    """`matrix` or its transpose: the one with no more rows than columns."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


class Optimizer:
    """Muon for matrices and convolution kernels (as matrices of one row per output channel), AdamW for the rest.

    With a few thousand steps in reach, orthogonal updates get clearly further than AdamW alone.
    """

    def __init__(self, modules: list[nn.Module], rate: float, *, dtype: torch.dtype) -> None:
        self.kernels: list[tuple[nn.Parameter, nn.Parameter]] = []
        rest: list[nn.Parameter] = []
        for module in modules:
            embeddings = {m.weight for m in module.modules() if isinstance(m, nn.Embedding)}
            for p in module.parameters():
                if p.ndim in (2, 4) and min(p.shape[:2]) >= 16 and p not in embeddings:
                    self.kernels.append((p, nn.Parameter(as_matrix(p.detach()))))
                else:
                    rest.append(p)
        self.parts: dict[str, torch.optim.Optimizer] = {
            "adam": torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.0),
            "muon": Muon([matrix for _, matrix in self.kernels], rate, dtype=dtype),
        }
        self.rate = rate

    def step(self, factor: float) -> None:
        """One update at `factor` times the base learning rate; clears the gradients."""
        for kernel, matrix in self.kernels:
            assert matrix.data_ptr() == kernel.data_ptr(), "a kernel and its matrix must share memory"
            matrix.grad = None if kernel.grad is None else as_matrix(kernel.grad)
        for optimizer in self.parts.values():
            for group in optimizer.param_groups:
                group["lr"] = self.rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for kernel, _ in self.kernels:
            kernel.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def as_matrix(kernel: Tensor) -> Tensor:
    """(out, in, k, k) in channels-last memory, or (out, in), as (out, k*k*in) without a copy."""
    return kernel.permute(0, 2, 3, 1).flatten(1) if kernel.ndim == 4 else kernel


class Average:
    """Exponential moving average of a module's parameters, with warm-up."""

    def __init__(self, modules: list[nn.Module], rate: float) -> None:
        self.live = [p for m in modules for p in m.parameters()]
        self.mean = [p.detach().clone() for p in self.live]
        self.rate = rate

    @torch.no_grad()
    def update(self, step: int) -> None:
        rate = min(self.rate, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - rate)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live parameters and their average; call it again to go back."""
        for live, mean in zip(self.live, self.mean, strict=True):
            kept = live.detach().clone()
            live.copy_(mean)
            mean.copy_(kept)


class Practice:
    """How often each icon is drawn: what the network errs most about is practised most.

    An icon's share is its running loss, in units of what all lose at the same level of noise, to the power of `focus`.
    """

    RANGES = 20  # of levels

    def __init__(self, icons: int, focus: float) -> None:
        self.focus = focus
        self.loss = torch.ones(icons)
        self.usual = torch.full((self.RANGES,), float("nan"))

    def draw(self, count: int, rng: Generator) -> Tensor:
        return torch.multinomial(self.loss**self.focus, count, replacement=True, generator=rng)

    def note(self, chosen: Tensor, share: Tensor, losses: Tensor) -> None:
        """`losses` (B,) of the icons `chosen` (B,) at a `share` (B,) of noise in 0..1."""
        ranges = (share * self.RANGES).long().clamp(max=self.RANGES - 1)
        usual, running = self.usual.tolist(), self.loss.tolist()  # tensors of one number are slow
        for icon, k, loss in zip(chosen.tolist(), ranges.tolist(), losses.tolist(), strict=True):
            usual[k] = loss if math.isnan(usual[k]) else usual[k] + 0.02 * (loss - usual[k])
            running[icon] += 0.05 * (loss / usual[k] - running[icon])
        self.usual, self.loss = torch.tensor(usual), torch.tensor(running)

    def state_dict(self) -> dict[str, Tensor]:
        return {"loss": self.loss, "usual": self.usual}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.loss, self.usual = state["loss"], state["usual"]


def train_autoencoder(args: argparse.Namespace) -> None:
    """Both halves, or as the stage `decoder` the second half of `--start` alone, to please a critic: what was trained
    on its latents stays right.
    """
    decoder_only = args.stage == "decoder"
    rng = Generator().manual_seed(0)
    torch.manual_seed(0)
    artwork = Artwork(args.data, size=args.size, concepts="all")
    run = Run(args, args.stage)
    if decoder_only:
        model = AutoencoderKL.from_pretrained(args.start / "vae", dtype=torch.float32)
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    else:
        model = build_autoencoder(args.size)
    model = model.to(args.device, memory_format=torch.channels_last).train()
    learning = [model.decoder, model.post_quant_conv] if decoder_only else [model]
    average = Average(learning, 0.999)
    critic = Critic().to(args.device, memory_format=torch.channels_last) if decoder_only else None
    fast = fast_bfloat16(args.device)
    optimizer = Optimizer(learning, args.rate, dtype=torch.bfloat16 if fast else torch.float32)
    step = 0
    if state := run.load():
        model.load_state_dict(state["model"])
        average.mean = [t.to(args.device) for t in state["mean"]]
        optimizer.load_state_dict(state["optimizer"])
        if critic is not None:
            critic.restore(state["critic"])
        rng.set_state(state["rng"])
        step = state["step"]
    while run.progress < 1:
        pictures, _ = artwork.batch(args.batch, rng)
        drawn = args.batch // 5
        pictures[:drawn] = line_drawings(pictures[:drawn], rng)
        target = pictures.to(args.device, memory_format=torch.channels_last)
        with torch.autocast(args.device, torch.bfloat16, enabled=fast):
            posterior = model.encode(target).latent_dist
            if decoder_only:
                latent = spoil(posterior.mode().float(), rng)
            else:
                latent, target = turned(posterior.sample(rng), target, rng)
            output = model.decode(latent).sample
        loss, parts = reconstruction_loss(output.float(), target, posterior.mean.float(), posterior.logvar.float())
        if critic is not None:
            end = model.decoder.conv_out.weight
            loss = loss + critic.complaint(output.float(), target, loss, end, args.critic)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(rate_factor(step, run.progress, args.decay))
        average.update(step)
        if critic is not None:
            parts["critic"] = critic.learn(output.float(), target)
        step += 1
        if step % 50 == 0:
            run.log(step=step, loss=loss.item(), **parts)
        if time.monotonic() - run.saved > 120 or run.progress >= 1:
            run.save(
                step,
                {
                    "model": model.state_dict(),
                    "mean": average.mean,
                    "optimizer": optimizer.state_dict(),
                    "critic": None if critic is None else critic.state(),
                    "rng": rng.get_state(),
                },
            )
    average.swap()
    if not decoder_only:
        normalise_latents(model, artwork, rng, args.device)
    model.eval().save_pretrained(run.folder / "vae")
    pictures, _ = artwork.batch(32, rng)
    pictures[16:] = line_drawings(pictures[16:], rng)
    with torch.no_grad():
        latents = model.encode(pictures.to(args.device)).latent_dist.mode()
        again = model.decode(latents).sample.cpu()
        spoilt = model.decode(spoil(latents, rng)).sample.cpu()
    for name, part in (("pictures", slice(0, 16)), ("drawings", slice(16, 32))):
        error = (again[part].clamp(-1, 1) - pictures[part]).square().mean()
        run.log(step=step, **{f"psnr_{name}": 10 * math.log10(4 / error.item())})
    save_image(torch.cat([pictures, again, spoilt]).clamp(-1, 1) / 2 + 0.5, run.folder / "autoencoder.png", nrow=16)


def turned(latent: Tensor, target: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """Now and then both flipped or shrunk: latents that follow the picture are easier for the denoiser to learn."""
    draw = int(torch.randint(8, (1,), generator=rng))
    if draw < 2:
        return latent.flip(-1 - draw), target.flip(-1 - draw)
    if draw == 2:
        return (
            F.interpolate(latent.float(), scale_factor=0.5, mode="area"),
            F.interpolate(target, scale_factor=0.5, mode="area"),
        )
    return latent, target


def spoil(latents: Tensor, rng: Generator) -> Tensor:
    """`latents` (B, C, h, w) of deviation 1 with what a small denoiser leaves in them: fine and coarse noise up to 0.5.

    A decoder that has seen only clean latents paints it as blotches.
    """
    count, channels, height, width = latents.shape
    amount = uniform(count, 0, 0.5, rng)[:, None, None, None]
    coarse = uniform(count, 0, 1, rng)[:, None, None, None]
    smooth = torch.randn(count, channels, height // 4, width // 4, generator=rng)
    smooth = F.interpolate(smooth, size=(height, width), mode="bicubic", align_corners=False)
    noise = (1 - coarse) * torch.randn(latents.shape, generator=rng) + coarse * smooth
    return latents + (amount * noise).to(latents)


def reconstruction_loss(
    output: Tensor, target: Tensor, mean: Tensor, logvar: Tensor
) -> tuple[Tensor, dict[str, float]]:
    difference = output - target
    pixels = difference.abs().mean()
    slopes = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss = pixels + difference.square().mean() + slopes + 2e-4 * divergence
    return loss, {"pixels": pixels.item(), "slopes": slopes.item(), "divergence": divergence.item()}


@torch.no_grad()
def normalise_latents(model: AutoencoderKL, artwork: Artwork, rng: Generator, device: str) -> None:
    """Fold mean 0 and deviation 1 per latent channel into the 1x1 convolutions on either side of the latent."""
    latents = torch.cat(
        [model.encode(artwork.batch(64, rng)[0].to(device)).latent_dist.mode() for _ in range(16)]
    ).double()
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    quant, post = model.quant_conv, model.post_quant_conv
    quant.weight[:channels] /= deviation[:, None, None, None].to(quant.weight)
    quant.bias[:channels] = ((quant.bias[:channels].double() - mean) / deviation).to(quant.bias)
    quant.bias[channels:] -= 2 * deviation.log().to(quant.bias)
    post.bias += (post.weight[:, :, 0, 0].double() @ mean).to(post.bias)
    post.weight *= deviation[None, :, None, None].to(post.weight)


def train_diffusion(args: argparse.Namespace) -> None:
    rng = Generator().manual_seed(1)
    torch.manual_seed(1)
    styles = tuple(args.styles.split(","))
    artwork = Artwork(
        args.data,
        size=args.size,
        concepts=args.concepts,
        styles=styles,
        device=args.device,
        loose=args.loose,
        plain=args.plain,
        people=args.people,
    )
    run = Run(args, "diffusion")
    for part in ("vae", "tokenizer") if args.start else ():
        if not (run.folder / part).exists():  # a `decoder` run leaves an autoencoder of its own
            begun = run.folder / f"{part}.partial"
            shutil.copytree(args.start / part, begun, dirs_exist_ok=True)
            begun.rename(run.folder / part)
    if not (run.folder / "tokenizer").exists():
        build_tokenizer(artwork).save_pretrained(run.folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(run.folder / "tokenizer")
    autoencoder = AutoencoderKL.from_pretrained(run.folder / "vae", dtype=torch.float32).to(
        args.device, memory_format=torch.channels_last
    )
    autoencoder.eval().requires_grad_(False)
    unet = build_unet(args.size)
    if args.start:  # a shipped model: its weights go on with a fresh optimizer
        before = UNet2DConditionModel.from_pretrained(args.start / "unet", dtype=torch.float32)
        unet.load_state_dict(before.state_dict(), strict=False)  # the first one had no pooled prompt, which starts at 0
        text = CLIPTextModel.from_pretrained(args.start / "text_encoder", dtype=torch.float32)
    else:
        text = build_text_encoder(tokenizer, SHAPES[args.size].text_width)
    unet = unet.to(args.device, memory_format=torch.channels_last).train()
    text = text.to(args.device).train()
    average = Average([unet, text], args.average)
    fast = fast_bfloat16(args.device)
    optimizer = Optimizer([unet, text], args.rate, dtype=torch.bfloat16 if fast else torch.float32)
    scheduler = build_scheduler()
    alpha = scheduler.alphas_cumprod.sqrt().to(args.device)
    sigma = (1 - scheduler.alphas_cumprod).sqrt().to(args.device)
    share = (sigma / (alpha + sigma)).cpu()  # of noise, by time
    practice = Practice(len(artwork.icons), args.focus)
    step, smooth, previewed = 0, None, time.monotonic()
    if state := run.load():
        unet.load_state_dict(state["unet"])
        text.load_state_dict(state["text"])
        average.mean = [t.to(args.device) for t in state["mean"]]
        optimizer.load_state_dict(state["optimizer"])
        practice.load_state_dict(state["practice"])
        rng.set_state(state["rng"])
        step = state["step"]
    run.log(icons=len(artwork.icons), million_parameters=sum(p.numel() for p in average.live) / 1e6)
    if args.start and step == 0:
        run.log(**{f"earlier_{k}": v for k, v in json.loads((args.start / "training.json").read_text()).items()})
    # A few dozen tokens: the fused kernel's backward pass costs more on a CPU than the plain products.
    kernels = [SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]
    attention = kernels[:1] if args.device == "cpu" else kernels
    batches = latent_batches(artwork, practice, autoencoder, args.batch, rng, device=args.device, fast=fast)
    denoise, read = (torch.compile(unet), torch.compile(text)) if args.compile else (unet, text)
    while run.progress < 1:
        chosen, clean, captions = next(batches)
        dropped = torch.rand(args.batch, generator=rng) < 0.1
        captions = ["" if drop else c for c, drop in zip(captions, dropped.tolist(), strict=True)]
        tokens = tokenizer(
            captions, padding="max_length", truncation=True, max_length=PROMPT_TOKENS, return_tensors="pt"
        ).input_ids.to(args.device)
        drawn = draw_times(share, args.batch, rng)
        times = drawn.to(args.device)
        a, s = alpha[times][:, None, None, None], sigma[times][:, None, None, None]
        noise = torch.randn(clean.shape, generator=rng).to(args.device)
        with torch.autocast(args.device, torch.bfloat16, enabled=fast), sdpa_kernel(attention):
            output = denoise(a * clean + s * noise, times, read(tokens).last_hidden_state).sample
        losses = (output.float() - (a * noise - s * clean)).square().mean(dim=(1, 2, 3))
        loss = losses.mean()
        loss.backward()
        nn.utils.clip_grad_norm_(average.live, 1.0)
        optimizer.step(rate_factor(step, run.progress, args.decay))
        average.update(step)
        practice.note(chosen, share[drawn], losses.detach())
        step += 1
        smooth = loss.detach() if smooth is None else smooth.lerp(loss.detach(), 0.01)
        if step % 100 == 0:
            run.log(step=step, samples=step * args.batch, loss=round(smooth.item(), 5))

        if time.monotonic() - run.saved > 300 or run.progress >= 1:
            run.save(
                step,
                {
                    "unet": unet.state_dict(),
                    "text": text.state_dict(),
                    "mean": average.mean,
                    "optimizer": optimizer.state_dict(),
                    "practice": practice.state_dict(),
                    "rng": rng.get_state(),
                },
            )
        if time.monotonic() - previewed > 60 * args.preview:
            previewed = time.monotonic()
            average.swap()
            assemble(run.folder, unet, text, autoencoder, tokenizer)
            preview(run.folder, args.device, step)
            average.swap()
            unet.train().requires_grad_(True)
            text.train().requires_grad_(True)
    average.swap()
    assemble(run.folder, unet, text, autoencoder, tokenizer)
    preview(run.folder, args.device, step)


def draw_times(share: Tensor, count: int, rng: Generator) -> Tensor:
    """Times (B,) whose `share` (1000,) of noise is logit-normal (Esser et al. 2024, 2403.03206, section 3.1), with mean
    0.3 before the sigmoid and deviation 1.

    Small latents are lost in noise early, so that equally likely times would mostly be those at which there is nothing
    to see. One draw comes from each of B equally likely ranges, which makes the gradient steadier.
    """
    even = (torch.randperm(count, generator=rng) + torch.rand(count, generator=rng)) / count
    wanted = torch.sigmoid(torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)) + 0.3)
    return torch.searchsorted(share, wanted).clamp(max=len(share) - 1)


def latent_batches(
    artwork: Artwork,
    practice: Practice,
    autoencoder: AutoencoderKL,
    count: int,
    rng: Generator,
    *,
    device: str,
    fast: bool,
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """Numbers of icons (B,), latents (B, C, h, w) of augmented pictures of them, and captions; each is used twice, the
    second time mirrored.

    On a CPU encoding takes a fifth of a step, and the autoencoder has learned that latents mirror with the picture.
    """
    while True:
        chosen = practice.draw(count, rng)
        pictures, captions = artwork.of(chosen, rng)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=fast):
            posterior = autoencoder.encode(pictures.to(device, memory_format=torch.channels_last)).latent_dist
        clean = posterior.mode().float()
        yield chosen, clean, captions
        yield chosen, clean.flip(-1), captions


def assemble(
    folder: Path,
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    autoencoder: AutoencoderKL,
    tokenizer: CLIPTokenizer,
) -> None:
    """Write the parts as one ordinary diffusers pipeline under `folder/pipeline`."""
    StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "pipeline", safe_serialization=True)


PREVIEWS = """
a red apple, noto cat, fluent3d airplane on a blue background, noto bicycle, a fish on a yellow background,
noto house with garden, a guitar, an elephant on a green background, a red car, noto umbrella on a black background,
fluent3d banana, a green apple, noto owl, noto castle on a pink background, a coffee cup,
fluent3d sailboat on a white background, a blue t-shirt, noto snail, a lion, noto pizza on a gray background,
a cactus, noto key, a shark on a purple background, fluent3d flower, a dog on an orange background
""".replace("\n", " ").split(", ")


@torch.no_grad()
def preview(folder: Path, device: str, step: int) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "pipeline").to(device)
    pipeline.set_progress_bar_config(disable=True)
    generators = [Generator().manual_seed(i) for i in range(len(PREVIEWS))]
    pictures = pipeline(
        [prompt.strip() for prompt in PREVIEWS],
        num_inference_steps=25,
        guidance_scale=4.0,
        generator=generators,
        output_type="pt",
    ).images
    save_image(pictures.float().cpu(), folder / f"preview-{step:06d}.png", nrow=5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["autoencoder", "diffusion", "decoder"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="emoji128, quickdraw, class_map.json")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; an existing one is resumed")
    parser.add_argument("--start", type=Path, help="pipeline folder whose weights diffusion or decoder starts from")
    parser.add_argument("--size", type=int, choices=sorted(SHAPES), default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=60, help="training time over all sessions")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument(
        "--decay", type=float, default=0.3, help="last part of the time in which the rate falls to zero"
    )
    parser.add_argument("--average", type=float, default=0.9995, help="decay of the moving average of the weights")
    parser.add_argument("--concepts", choices=["quickdraw", "all"], default="quickdraw")
    parser.add_argument("--styles", default="fluent3d,noto,emojitwo")
    parser.add_argument(
        "--loose", type=float, default=1.4, help="most that a picture is bent, so that shapes as drawn are known too"
    )
    parser.add_argument("--plain", type=float, default=0.45, help="share of pictures that are not bent at all")
    parser.add_argument(
        "--people", type=float, default=0.35, help="share of pictures laid out as people draw that thing"
    )
    parser.add_argument(
        "--focus", type=float, default=1.5, help="how much oftener icons are drawn that are learned badly; 0: evenly"
    )
    parser.add_argument(
        "--critic",
        type=float,
        default=0.5,
        help="how much a critic has to say about a decoder, beside the pixels",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="fuse what lies between the products; pays where those are fast (AMX, CUDA)",
    )
    parser.add_argument("--preview", type=float, default=15, help="minutes between preview sheets")
    args = parser.parse_args()
    if args.plain + args.people > 1:
        parser.error("--plain and --people are shares of the same pictures: together at most 1")
    if args.stage == "decoder" and args.start is None:
        parser.error("decoder needs --start: the pipeline folder whose decoder is to learn more")
    alone(train_diffusion if args.stage == "diffusion" else train_autoencoder, args)


def alone(train: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """`train` while no other run is at work in `args.out`; exits where it is refused."""
    try:
        with locked(args.out):
            train(args)
    except UsageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
