"""What does a picture, a drawing or a noisy latent show? Small classifiers, each with its class names in its file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from heapq import nlargest
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sketchguide.backbones.base import Backbone
from sketchguide.errors import MismatchError, UsageError, WeightsError
from sketchguide.extractors import check_images
from sketchguide.levels import Level, check_window
from sketchguide.predictors import NOISE_BANDS, encode_noise
from sketchguide.weights import opened, read_network, read_weights, write_network, write_weights

FORMAT = "sketchguide-icon-classifier-1"
KIND = "latent-classifier"
PLURALS = (  # how names may end, and how their plurals do
    ("", "s"),
    ("s", "ses"),
    ("x", "xes"),
    ("z", "zes"),
    ("ch", "ches"),
    ("sh", "shes"),
    ("o", "oes"),
    ("y", "ies"),
    ("f", "ves"),
    ("fe", "ves"),
)
LATENT_WIDTHS = (64, 96, 160, 192)  # of the stem and of each block; every block but the last halves the grid


def find_class(name: str, classes: Sequence[str]) -> int:
    """The number of the class called `name`, upper and lower case alike; UsageError offers the nearest names."""
    wanted = " ".join(name.split()).casefold()
    known = {one.casefold(): number for number, one in enumerate(classes)}
    if wanted in known:
        return known[wanted]
    hint = _nearest([wanted], classes)
    raise UsageError(f"There is no class {name!r} among the {len(classes)} known.", hint=hint, field="class")


def find_class_in(text: str, classes: Sequence[str]) -> int:
    """The number of the class whose name `text` has as whole words, upper and lower case alike, or where it has none
    the plural of one; of several the longest, and of equally long ones the first in `classes`. A class may have several
    names, with commas between. UsageError where there is none offers the nearest names.
    """

    def padded(words: str) -> str:
        return " ".join(["", *re.findall(r"[^\W_]+", words.casefold()), ""])

    here = padded(text)
    names = [(number, name) for number, every in enumerate(classes) for name in every.split(",")]
    names = [one for one in names if padded(one[1]).strip()]  # symbols are no words
    named = [one for one in names if padded(one[1]) in here]
    named = named or [one for one in names if any(padded(plural) in here for plural in _plurals(one[1]))]
    if not named:
        raise UsageError(
            f"{text!r} names none of the {len(classes)} classes that the classifier knows.",
            hint=_nearest(here.split(), [name.strip() for _, name in names]),
            field="class",
        )
    return max(named, key=lambda one: len(one[1]))[0]


def _plurals(name: str) -> list[str]:
    name = name.casefold()
    return [name.removesuffix(end) + plural for end, plural in PLURALS if name.endswith(end)]


def _nearest(wanted: Sequence[str], names: Sequence[str]) -> str:
    """A hint: those of `names` that are most like one of the words `wanted`."""
    telling = [word for word in wanted[:30] if 2 < len(word) < 40]  # more would take seconds
    like = {
        name: max((SequenceMatcher(None, name.casefold(), word).ratio() for word in telling), default=0.0)
        for name in names
    }
    near = [name for name in nlargest(3, like, key=like.__getitem__) if like[name] >= 0.5]
    return f"Did you mean {', '.join(near)}?" if near else f"Some of them: {', '.join(names[:5])}."


def calibration_error(scores: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error, 0 to 1: how far confidence is from accuracy (Guo et al. 2017, 1706.04599, eq. 3).

    `scores` (N, K) are logits, `labels` (N,) class numbers. Confidences fall into `bins` of equal width; the error is
    the mean distance of a bin's accuracy from its confidence, weighted with the answers in it.
    """
    confidence, answer = scores.softmax(dim=1).max(dim=1)
    place = (confidence * bins).long().clamp(max=bins - 1)
    right = (answer == labels).to(confidence)
    gap = torch.zeros(bins, device=scores.device).index_add_(0, place, right - confidence)
    return float(gap.abs().sum() / len(labels))


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """The T, 0.1 to 30, whose softmax(scores / T) is the likeliest (temperature scaling, Guo et al. 2017, section 4.2).

    `scores` (N, K) are logits that were not trained on, `labels` (N,) class numbers. Above 1 it was overconfident.
    """
    candidates = torch.logspace(math.log10(0.1), math.log10(30), 250, device=scores.device)
    losses = torch.stack([F.cross_entropy(scores.float() / t, labels) for t in candidates])
    return float(candidates[losses.argmin()])


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Everything a weight file must know about itself; stored in its header."""

    classes: tuple[str, ...]
    latent_channels: int
    stride: int  # pixels per latent pixel
    family: str  # Backbone.family
    backbone: str  # Backbone.name it was trained on, for people
    widths: tuple[int, ...] = LATENT_WIDTHS
    window: tuple[float, float] = (0.0, 1.0)  # progress of the noise levels seen in training
    temperatures: tuple[tuple[float, float], ...] = ()  # (time, what logits are divided by), times rising

    def __post_init__(self) -> None:
        if len(set(self.classes)) < max(len(self.classes), 2):
            raise UsageError("At least two classes are needed, each with its own name.", field="classes")
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise UsageError(f"widths is {self.widths}; give at least two, each at least 1.", field="widths")
        check_window(self.window)
        times = [time for time, _ in self.temperatures]
        if times != sorted(set(times)) or any(temperature <= 0 for _, temperature in self.temperatures):
            raise UsageError(
                "The times of temperatures must rise, and no temperature be 0 or less.", field="temperatures"
            )


class LatentClassifier(nn.Module):
    """p(y | x_t, t): which class a noisy latent belongs to (Dhariwal & Nichol 2021, 2105.05233).

    A residual network with BatchNorm, told the noise level in every block. Its logits are divided by the configured
    temperatures, interpolated between their noise levels.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        first, *others = config.widths
        self.noise = nn.Sequential(nn.Linear(NOISE_BANDS, 64), nn.SiLU())
        self.stem = nn.Conv2d(config.latent_channels, first, 3, padding=1)
        strides = [2] * (len(others) - 1) + [1]
        self.blocks = nn.ModuleList(
            LevelledResidual(a, b, told=64, stride=s)
            for (a, b), s in zip(pairwise(config.widths), strides, strict=True)
        )
        self.head = nn.Linear(config.widths[-1], len(config.classes))
        self.eval()  # BatchNorm must not move while guiding; only a training step switches it

    def forward(self, latent: Tensor, level: Level) -> Tensor:
        """Latents (B, C, h, w) at `level` to logits (B, K)."""
        return self.predict_at(latent, torch.full((1,), level.time, device=latent.device))

    def predict_at(self, latent: Tensor, times: Tensor) -> Tensor:
        """As `forward`, with `times` (B,) or (1,): one noise level per image, as training needs it."""
        told = self.noise(encode_noise(times))
        hidden = self.stem(latent.float())
        for block in self.blocks:
            hidden = block(hidden, told)
        logits = self.head(hidden.mean(dim=(2, 3)))
        return logits / self._temperature(times)[:, None] if self.config.temperatures else logits

    def _temperature(self, times: Tensor) -> Tensor:
        known, values = zip(*self.config.temperatures, strict=True)
        found = np.interp(times.detach().cpu().numpy(), known, values)
        return torch.tensor(found, dtype=torch.float32, device=times.device)

    def class_number(self, name: str) -> int:
        """The output of the class called `name`; UsageError offers the nearest names."""
        return find_class(name, self.config.classes)

    def check_fits(self, backbone: Backbone) -> None:
        """MismatchError, naming both, unless the backbone has latents of this kind."""
        config = self.config
        ours = (config.family, config.latent_channels, config.stride)
        theirs = (backbone.family, backbone.latent_channels, backbone.stride)
        if ours != theirs:
            raise MismatchError(
                f"This classifier was trained on {config.backbone!r} ({ours[0]}, {ours[1]} latent channels of "
                f"{ours[2]} pixels) and does not fit {backbone.name!r} ({theirs[0]}, {theirs[1]} of {theirs[2]}).",
                hint="Train one for this model with `sketchguide component latent-classifier --model …`.",
                field="classifier",
            )

    def save(self, path: Path) -> None:
        """Write the weights with the configuration in the header, whole or not at all. Raises OutputError."""
        write_network(self, path, kind=KIND, config=asdict(self.config))

    @classmethod
    def load(cls, path: Path) -> LatentClassifier:
        """The classifier that `save` wrote; eval mode, frozen, on the CPU. Raises WeightsError for anything else."""

        return read_network(path, kind=KIND, build=lambda config: cls(ClassifierConfig(**config)), field="classifier")


class _Ways(nn.Module):
    """Two 3x3 convolutions, and a shortcut beside them; both halve the grid where `stride` is 2."""

    def __init__(self, channels: int, outside: int, *, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, outside, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(stride, ceil_mode=True),  # an odd grid rounds up, as the strided convolution does
            nn.Conv2d(channels, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )


class Residual(_Ways):
    """Both ways added up."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x) + self.shortcut(x)).relu()


class LevelledResidual(_Ways):
    """A `Residual` whose noise level scales and shifts what is between its two convolutions."""

    def __init__(self, channels: int, outside: int, *, told: int, stride: int) -> None:
        super().__init__(channels, outside, stride=stride)
        self.tell = nn.Linear(told, 2 * outside)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.tell(told)[:, :, None, None].chunk(2, dim=1)
        first, norm, *rest = self.branch
        hidden = norm(first(x)) * (1 + scale) + shift
        for layer in rest:
            hidden = layer(hidden)
        return (hidden + self.shortcut(x)).relu()


class IconClassifier(nn.Module):
    """A residual network of about one million parameters.

    `classes` are the names of its outputs, `size` the side in pixels of the pictures it sees; others are resized.
    """

    def __init__(self, classes: Sequence[str], *, size: int = 64, channels: Sequence[int] = (32, 64, 128, 192)) -> None:
        super().__init__()
        if len(set(classes)) < max(len(classes), 2):
            raise UsageError("At least two classes are needed, each with its own name.", field="classes")
        self.classes = tuple(classes)
        self.size = size
        self.channels = tuple(channels)
        first = self.channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        strides = [1] + [2] * (len(self.channels) - 1)
        inside = (first, *self.channels[:-1])
        self.blocks = nn.Sequential(
            *(Residual(a, b, stride=s) for a, b, s in zip(inside, self.channels, strides, strict=True))
        )
        self.head = nn.Linear(self.channels[-1], len(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], H, W >= 16, to class scores (B, N), the larger the likelier."""
        check_images(images)
        size = (self.size, self.size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        return self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))

    def accepted(self, answers: Iterable[Collection[str]]) -> Tensor:
        """True (B, N) for the classes that are right for each of B pictures, which `answers` lists by name."""
        index = {name: i for i, name in enumerate(self.classes)}
        answers = list(answers)
        mask = torch.zeros(len(answers), len(self.classes), dtype=torch.bool)
        for row, names in zip(mask, answers, strict=True):
            unknown = sorted(set(names) - set(index))
            if unknown or not names:
                problem = (
                    f"The classifier does not know {', '.join(unknown)}." if unknown else "A picture has no class."
                )
                raise UsageError(
                    problem,
                    hint="Leave such pictures out of the class accuracy and say how many.",
                    field="answers",
                )
            row[[index[name] for name in names]] = True
        return mask


def save_classifier(classifier: IconClassifier, path: Path) -> None:
    """Write the weights, the class list and the size into one safetensors file, whole or not at all."""
    shape = {"classes": classifier.classes, "size": classifier.size, "channels": classifier.channels}
    metadata = {"format": FORMAT, "classifier": json.dumps(shape)}
    write_weights(classifier.state_dict(), path, metadata=metadata, field="path")


def load_classifier(path: Path, *, device: torch.device | str = "cpu") -> IconClassifier:
    """The classifier that `save_classifier` wrote to `path`, ready for use; raises `WeightsError` for anything else."""
    tensors, header = read_weights(path, field="path")
    with _usable(path):
        classifier = _untrained(header)
        classifier.load_state_dict(tensors)
    return classifier.to(device).eval().requires_grad_(False)


def classes_in(path: Path) -> tuple[str, ...]:
    """The classes that the classifier in `path` knows, without its weights; raises as `load_classifier`."""
    with opened(path, field="path") as file, _usable(path), torch.device("meta"):
        return _untrained(file.metadata() or {}).classes


@contextmanager
def _usable(path: Path) -> Generator[None]:
    """Within the block WeightsError takes the place of what a file of something else leads to."""
    try:
        yield
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"The classifier at {path} cannot be used: {error}.",
            hint="Train it anew.",
            field="path",
        ) from error


def _untrained(header: Mapping[str, str]) -> IconClassifier:
    """A classifier as the `header` of a file describes it."""
    if header.get("format") != FORMAT:
        raise ValueError(f"its format is {header.get('format')!r}, not {FORMAT!r}")
    shape = json.loads(header["classifier"])
    return IconClassifier(shape["classes"], size=shape["size"], channels=shape["channels"])
