"""Latent Guidance Predictor: a small per-pixel MLP that reads a spatial map off a frozen network's activations.

Voynov et al. 2022 (2211.13752), section 3. The first layer commutes with bilinear resizing, so it is applied to every
tap at its own resolution, summed per resolution and only then upsampled; the result equals the paper's
resize-concatenate-MLP, and no tensor with all channels ever exists at full size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sketchguide.backbones.base import Backbone
from sketchguide.errors import MismatchError, OutputError, UsageError
from sketchguide.files import write_text
from sketchguide.levels import Level, check_window
from sketchguide.taps import TapInfo
from sketchguide.weights import find_file, read_network, write_network

KIND = "latent-predictor"
FILE_NAME = "predictor.safetensors"
NOISE_BANDS = 10
Reads = Literal["latent", "ink"]

# The paper's nine places in SD 1.x, in diffusers' names (input blocks 2, 4, 8; middle 0, 1, 2; output blocks 2, 4, 8):
# 9280 channels.
PAPER_TAPS = (
    "down_blocks.0.attentions.1",
    "down_blocks.1.attentions.0",
    "down_blocks.2.attentions.1",
    "mid_block.resnets.0",
    "mid_block.attentions.0",
    "mid_block.resnets.1",
    "up_blocks.0",
    "up_blocks.1.attentions.1",
    "up_blocks.2",
)
_STREAM = re.compile(r"(single_)?transformer_blocks\.\d+")  # a block of a transformer: the picture's tokens after it


@dataclass(frozen=True)
class PredictorConfig:
    """Everything a weight file must know about itself; stored in its header."""

    taps: tuple[str, ...]  # submodule paths
    channels: tuple[int, ...]  # of each tap
    latent_channels: int
    family: str  # Backbone.family
    backbone: str  # Backbone.name it was trained on, for people
    map_kind: str = "edges"
    widths: tuple[int, ...] = (256, 128, 64)  # hidden layers; the paper: 512, 256, 128, 64
    normalize_taps: bool = False  # each tap to mean 0, deviation 1 per image
    clean_widths: tuple[int, ...] = ()  # 3x3 convolutions that read a clean latent; the paper: none
    window: tuple[float, float] = (0.0, 1.0)  # progress of the noise levels seen in training
    # "latent": the map's latent, as in the paper. "ink": of each of the map's pixels, the log-odds that it is ink.
    reads: str = "latent"
    stride: int = 1  # pixels per latent pixel, where ink is read

    def __post_init__(self) -> None:
        if not self.taps or len(self.taps) != len(self.channels):
            raise UsageError(f"{len(self.taps)} taps with {len(self.channels)} channel counts.", field="taps")
        if not self.widths:
            raise UsageError("widths is empty; give at least one hidden layer.", field="widths")
        check_reads(self.reads)
        check_window(self.window)

    @property
    def outputs(self) -> int:
        """Numbers that are read off for each latent pixel."""
        return self.latent_channels if self.reads == "latent" else self.stride**2

    def target_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """The (channels, height, width) of what is read off for a latent of `size` (h, w)."""
        if self.reads == "latent":
            return self.latent_channels, *size
        return 1, size[0] * self.stride, size[1] * self.stride


class LatentPredictor(nn.Module):
    """Features of the taps in `config` -> the spatial map of the image being made: its latent (B, C, h, w), or where
    `config.reads` is "ink" the log-odds of ink (B, 1, H, W) at each of its pixels.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.source: str | None = None  # where it was loaded from
        first, *rest = config.widths
        self.first = nn.ModuleList(nn.Conv2d(c, first, 1, bias=False) for c in config.channels)
        self.noise = nn.Linear(NOISE_BANDS, first)
        layers: list[nn.Module] = [nn.ReLU(), nn.BatchNorm2d(first)]
        for before, after in zip([first, *rest], rest, strict=False):
            layers += [nn.Conv2d(before, after, 1), nn.ReLU(), nn.BatchNorm2d(after)]
        layers.append(nn.Conv2d(config.widths[-1], config.outputs, 1))
        self.rest = nn.Sequential(*layers)
        total = sum(config.channels)
        for layer in self.first:  # one layer of `total` inputs, split: its fan-in is the sum
            assert isinstance(layer, nn.Conv2d)
            nn.init.uniform_(layer.weight, -1 / math.sqrt(total), 1 / math.sqrt(total))
        layers = []
        for before, after in pairwise([config.latent_channels, *config.clean_widths]):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(after)]
        if layers:
            layers.append(nn.Conv2d(config.clean_widths[-1], config.outputs, 1))
        self.clean = nn.Sequential(*layers)
        self.eval()  # BatchNorm must not move while guiding; only a training step switches it

    def forward(self, features: Mapping[str, Tensor], level: Level, size: tuple[int, int]) -> Tensor:
        """`features[path]` (B, c, h/s, w/s) of each tap, or (B, N, c) tokens; `size` is the latent's (h, w)."""
        times = torch.full((1,), level.time, device=self.noise.weight.device)
        return self.predict_at(features, times, size)

    def predict_at(self, features: Mapping[str, Tensor], times: Tensor, size: tuple[int, int]) -> Tensor:
        """As `forward`, with `times` (B,) or (1,): one noise level per image, as training needs it."""
        sums: dict[tuple[int, int], Tensor] = {}
        for path, layer in zip(self.config.taps, self.first, strict=True):
            value = self.prepare(features[path], size)
            grid = (value.shape[-2], value.shape[-1])
            projected = layer(value)
            sums[grid] = sums[grid] + projected if grid in sums else projected
        hidden: Tensor = self.noise(encode_noise(times))[:, :, None, None]
        for value in sums.values():
            hidden = hidden + F.interpolate(value, size=size, mode="bilinear", align_corners=False)
        return self._arranged(self.rest(hidden))

    def read_clean(self, clean: Tensor) -> Tensor:
        """The map of the picture whose latent is `clean` (B, C, h, w), as `forward` gives it.

        The map's extractor, carried over to latents: it sees what is drawn there, and nothing of what may come.
        Raises UsageError for a predictor without `clean_widths`.
        """
        if not self.config.clean_widths:
            raise UsageError(
                "This predictor reads activations alone.",
                hint="Train it again, or set handover to 1.",
                field="handover",
            )
        return self._arranged(self.clean(clean.float()))

    def _arranged(self, read: Tensor) -> Tensor:
        """The outputs (B, n, h, w) of each latent pixel, where they belong in the map."""
        return F.pixel_shuffle(read, self.config.stride) if self.config.reads == "ink" else read

    def error(self, read: Tensor, target: Tensor) -> Tensor:
        """How far what was read is off the target, number by number: the squared difference of latents, or minus the
        log-likelihood of `target` in [0, 1], whose in-betweens are shares of ink. Either may serve for many pictures.
        """
        read, target = torch.broadcast_tensors(read, target)
        if self.config.reads == "ink":
            return F.binary_cross_entropy_with_logits(read, target, reduction="none")
        return (read - target).square()

    def prepare(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        """One tap as a float32 picture (B, c, h/s, w/s), normalised per image where the configuration says so."""
        value = feature.to(self.noise.weight.device, torch.float32)  # a network may lie on several devices
        if value.ndim == 3:
            value = value.transpose(1, 2).unflatten(2, token_grid(value.shape[1], size))
        return F.layer_norm(value, value.shape[1:]) if self.config.normalize_taps else value

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def check_fits(self, backbone: Backbone) -> None:
        """MismatchError, naming both, unless the backbone has these taps with these channels."""
        config = self.config
        here = {tap.path: tap for tap in backbone.taps}
        wrong = [
            f"{path} ({count} channels here, {here[path].channels if path in here else 'absent'} there)"
            for path, count in zip(config.taps, config.channels, strict=True)
            if path not in here or here[path].channels != count
        ]
        detail = f" Taps that differ: {'; '.join(wrong[:3])}." if wrong else ""
        if config.reads == "ink" and backbone.stride % config.stride:
            detail += f" Its latent pixels are {config.stride} pixels wide, here they are {backbone.stride}."
        if config.family != backbone.family or config.latent_channels != backbone.latent_channels or detail:
            raise MismatchError(
                f"This predictor was trained on {config.backbone!r} ({config.family}, {config.latent_channels} latent "
                f"channels) and does not fit {backbone.name!r} ({backbone.family}, {backbone.latent_channels})."
                + detail,
                hint="Train one for this model with `sketchguide train --model …`.",
                field="predictor",
            )

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write `predictor.safetensors` (configuration in its header) and, if given, `README.md`; returns the file."""
        folder = Path(folder)
        write_network(self, folder / FILE_NAME, kind=KIND, config=asdict(self.config))
        if card:
            write_text(folder / "README.md", card)
        return folder / FILE_NAME

    @classmethod
    def from_pretrained(cls, source: str | Path) -> LatentPredictor:
        """Load from a folder, a `.safetensors` file or a hub id (`owner/name`); eval mode, frozen, on the CPU."""

        def build(config: dict[str, Any]) -> LatentPredictor:
            sizes = (*config["channels"], *config["widths"], *config.get("clean_widths", ()))
            counts = (*sizes, config["latent_channels"], config.get("stride", 1) ** 2)
            if not all(type(count) is int and 0 < count < 2**14 for count in counts):
                raise ValueError("its sizes are beyond measure")
            return cls(PredictorConfig(**config))

        file = find_file(source, FILE_NAME, kind="predictor", field="predictor")
        predictor = read_network(file, kind=KIND, build=build, field="predictor")
        predictor.source = str(source)
        return predictor

    def push_to_hub(self, repo_id: str, *, folder: str | Path, private: bool = False) -> str:
        """Upload a folder written by `save_pretrained` to the hub; returns its address."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api = HfApi()
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            files = [FILE_NAME, "README.md", "training.json"]
            return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder), allow_patterns=files))
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise OutputError(
                f"{folder} cannot be uploaded to {repo_id!r}: {error}.",
                hint="Check the name, the network and that you are logged in.",
                field="repo_id",
            ) from error


def check_reads(reads: str) -> None:
    """UsageError unless a predictor can read that."""
    if reads not in get_args(Reads):
        raise UsageError(f"reads is {reads!r}; it must be {' or '.join(get_args(Reads))}.", field="reads")


def encode_noise(times: Tensor) -> Tensor:
    """sin(2 pi t 2^-l), l = 1 … 10, of times (B,) on the 0..1000 scale -> (B, 10) (LGP, section 3).

    The paper starts at l = 0, which is zero for every whole t.
    """
    bands = 2.0 ** -torch.arange(1, NOISE_BANDS + 1, device=times.device, dtype=torch.float32)
    return torch.sin(2 * math.pi * (times.float()[:, None] * bands).frac())


def token_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """The (h, w) of `tokens` image tokens for a latent of `size`: the same aspect, shrunk by a power of two."""
    height, width = size
    for stride in (1, 2, 4, 8, 16):
        if -(-height // stride) * -(-width // stride) == tokens:
            return -(-height // stride), -(-width // stride)
    raise UsageError(f"{tokens} tokens do not tile a latent of {height} x {width}.", field="taps")


def choose_taps(taps: Sequence[TapInfo]) -> tuple[TapInfo, ...]:
    """Default places for a UNet: the paper's nine where it has them, else one tap per stage on the same plan.

    That is the last attention or residual block of every down block and up block and the three middle blocks. Of a
    transformer: its stream of image tokens after nine blocks, from the first to the last.
    """
    table = {tap.path: tap for tap in taps}
    if streams := [path for path in table if _STREAM.fullmatch(path)]:
        count = min(len(streams), len(PAPER_TAPS))
        return tuple(table[streams[round(i * (len(streams) - 1) / max(1, count - 1))]] for i in range(count))
    if all(path in table for path in PAPER_TAPS):
        return tuple(table[path] for path in PAPER_TAPS)
    chosen: list[TapInfo] = []
    for stage in _stages(table):
        blocks = [table[p] for p in table if p.startswith(stage) and p.count(".") == 3 and _is_block(p)]
        attentions = [tap for tap in blocks if ".attentions." in tap.path]
        if stage.startswith("mid_block"):
            chosen += [table[p] for p in table if p.startswith("mid_block.") and p.count(".") == 2 and _is_block(p)]
        elif blocks:
            chosen.append((attentions or blocks)[-1])
    if not chosen:
        raise UsageError(
            "This network has no stages of a UNet or blocks of a transformer to tap.",
            hint="Name the taps yourself.",
            field="taps",
        )
    return tuple(chosen)


def _stages(table: Mapping[str, TapInfo]) -> list[str]:
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    stages = {
        ".".join(p.split(".")[: 1 if p.startswith("mid") else 2]) + "." for p in table if p.split(".")[0] in order
    }
    return sorted(stages, key=lambda s: (order[s.split(".")[0]], s))


def _is_block(path: str) -> bool:
    return path.split(".")[-2] in ("resnets", "attentions")
