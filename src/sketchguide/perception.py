"""What a frozen network sees in a picture, with a gradient: the ground that perceptual and identity losses stand on.

Any network of torchvision, timm or transformers serves, by name, and so does a classifier of one's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sketchguide.classifiers import FORMAT, load_classifier
from sketchguide.errors import ModelNotFoundError, SketchguideError, UsageError, WeightsError, reason_of
from sketchguide.extractors import check_images
from sketchguide.files import is_file
from sketchguide.taps import TapInfo, survey, tapped
from sketchguide.weights import opened, read_weights

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SIDE = 224  # what networks are trained on that say nothing else
_HEADS = ("avgpool", "classifier", "fc", "head")  # what turns features into classes
_PROBE = (64, 96)  # not square, so that tokens are never taken for a picture


class Features:
    """The stages of a frozen `network`: what it computes before each halving of the picture, from fine to coarse.

    Pictures are resized until their shorter side has `side` pixels (none: as they are), and normalised by `mean` and
    `deviation` of RGB in [0, 1]. `probe` is the (height, width) at which the stages are looked for: the own size of a
    network that brings every picture to one. A network that refuses it is shown squares of `side` only.
    Raises UsageError for a network that takes neither, or has no stages.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        side: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        deviation: Sequence[float] = (0.5, 0.5, 0.5),
        probe: tuple[int, int] = _PROBE,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.side = side
        self.mean = torch.tensor(mean)[:, None, None]
        self.deviation = torch.tensor(deviation)[:, None, None]
        self.taps, self._fixed = _stages(self.network, probe, side or _SIDE)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) in [-1, 1] to feature maps (B, C, h, w), of N tokens (B, C, N, 1); the graph is kept."""
        check_images(images)
        height, width = images.shape[-2:]
        pictures = (images + 1) / 2
        if self.side is not None and (self.side, self.side) != (height, width):
            scale = self.side / min(height, width)
            size = (self.side, self.side) if self._fixed else (round(height * scale), round(width * scale))
            pictures = F.interpolate(pictures, size=size, mode="bilinear", antialias=scale < 1)
        pictures = (pictures - self.mean.to(pictures)) / self.deviation.to(pictures)
        with tapped(self.network, self.taps) as record:
            self.network(pictures)
        return tuple(_as_map(record[path]) for path in self.taps)

    def to(self, device: torch.device) -> Features:
        self.network.to(device)
        return self


def perceptual_loss(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Distance (B,) of two pictures' stages, in [0, 1] for features >= 0 (Zhang et al. 2018, 1801.03924, eq. 1, all
    its learned weights equal): half the squared distance of unit vectors, averaged over places, then over stages."""
    return torch.stack([between(a, b) for a, b in zip(first, second, strict=True)]).mean(dim=0)


def identity_loss(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """L1 distance (B,) of two pictures' last stages, relative to the size of the second's (DiffSketching, L_i)."""
    distance = (first[-1] - second[-1]).abs().flatten(1).mean(dim=1)
    return distance / second[-1].abs().flatten(1).mean(dim=1).clamp_min(1e-6)


def between(first: Tensor, second: Tensor) -> Tensor:
    """Half the squared distance (B,) of unit feature vectors (B, C, h, w), averaged over the places."""
    return (F.normalize(first) - F.normalize(second)).square().sum(dim=1).mean(dim=(1, 2)) / 2


def load_features(name: str, *, device: torch.device | str = "cpu", field: str = "features") -> Features:
    """The network called `name`, ready for use.

    `FILE.safetensors`: a picture classifier that `sketchguide component` wrote. `torchvision:NAME`, `timm:NAME` and
    `transformers:HUB_ID` are taken with their published weights; `torchvision:NAME=FILE.safetensors` and
    `timm:NAME=FILE.safetensors` with those in the file, so that nothing is downloaded.

    Raises ModelNotFoundError for a network or library that is not there, WeightsError for a file that does not fit,
    both naming `field`.
    """
    try:
        return _loaded(name).to(torch.device(device))
    except SketchguideError as error:
        error.field = field
        raise


def _loaded(name: str) -> Features:
    kind, colon, rest = name.partition(":")
    if not colon or kind not in ("torchvision", "timm", "transformers"):
        path = Path(name)
        if not is_file(path):
            raise ModelNotFoundError(
                f"No classifier at {name!r}.",
                hint="Give its .safetensors file, or torchvision:NAME, timm:NAME or transformers:HUB_ID.",
            )
        with opened(path, field="features") as file:
            own = (file.metadata() or {}).get("format") == FORMAT
        if not own:
            raise WeightsError(
                f"{path} holds no picture classifier of sketchguide.",
                hint="For torchvision's weights say torchvision:NAME=FILE.",
            )
        classifier = load_classifier(path)
        size = (classifier.size, classifier.size)
        return Features(classifier, side=classifier.size, probe=size)
    model, equals, file = rest.partition("=")
    network = _published(kind, model, Path(file) if equals else None)
    side, mean, deviation = _trained_on(kind, model, network, published=not equals)
    return Features(network, side=side, mean=mean, deviation=deviation)


def _published(kind: str, name: str, file: Path | None) -> nn.Module:
    try:
        network: nn.Module
        if kind == "torchvision":
            from torchvision import models

            network = models.get_model(name, weights=None if file else "DEFAULT")
        elif kind == "timm":
            import timm  # pyright: ignore[reportMissingImports]

            if not re.fullmatch(r"[\w.]+", name):  # `hf-hub:` and `local-dir:` may be pickles of anybody
                raise ValueError("only names of timm's own list are taken")
            network = timm.create_model(name, pretrained=file is None)
        else:
            from transformers import AutoModel

            network = AutoModel.from_pretrained(
                name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
            network = getattr(network, "vision_model", network)  # CLIP and its like read texts too
    except ImportError as error:
        raise ModelNotFoundError(
            f"{kind}:{name} needs the library {kind}.", hint=f"Install it: pip install {kind}."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = reason_of(error)
        raise ModelNotFoundError(
            f"{kind} has no network {name!r}, or its weights cannot be had: {reason}",
            hint="Check the name and the network, or give the weights: NAME=FILE.safetensors.",
        ) from error
    if file is not None:
        tensors, _ = read_weights(file, field="features")
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise WeightsError(
                f"{file} does not hold the weights of {kind}:{name}.",
                hint="Give those of this network in safetensors format.",
            ) from error
    return network


def _trained_on(
    kind: str, name: str, network: nn.Module, *, published: bool
) -> tuple[int, Sequence[float], Sequence[float]]:
    """The side of the pictures that a network was trained on, and their mean and deviation, as far as it says so."""
    mean, deviation = _IMAGENET
    side: Any = None
    if kind == "torchvision":
        from torchvision import models

        if published:
            transforms = models.get_model_weights(name)["DEFAULT"].transforms()
            mean, deviation, (side, *_) = transforms.mean, transforms.std, transforms.crop_size
        side = getattr(network, "image_size", side)
    elif kind == "timm":
        told = getattr(network, "pretrained_cfg", None) or {}
        mean, deviation = told.get("mean", mean), told.get("std", deviation)
        side = min(told.get("input_size", (3, _SIDE, _SIDE))[1:])
    else:
        from transformers import AutoImageProcessor

        side = getattr(network.config, "image_size", None)
        try:
            processor: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError):
            pass  # it comes without one
        else:
            mean = getattr(processor, "image_mean", None) or mean
            deviation = getattr(processor, "image_std", None) or deviation
    side = min(side) if isinstance(side, list | tuple) else side
    return side or _SIDE, mean, deviation


def _stages(network: nn.Module, size: tuple[int, int], side: int) -> tuple[tuple[str, ...], bool]:
    """The last place of each size, and none inside a block that shrinks it; of a network that keeps one size (a ViT),
    four blocks spread over its depth.

    And whether the network refuses pictures of `size` (height, width) and takes squares of `side` pixels only.
    """

    def places_at(height: int, width: int) -> list[TapInfo]:
        def probe() -> None:
            with torch.no_grad():
                network(torch.zeros(1, 3, height, width))

        return survey(network, probe, grid=(height, width))

    fixed = False
    try:
        places = places_at(*size)
    except (RuntimeError, ValueError, AssertionError):
        size, fixed = (side, side), True
        try:
            places = places_at(*size)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UsageError(
                f"{type(network).__name__} takes no pictures of {side} pixels: {reason_of(error)}",
                hint="Use a network that is made for pictures.",
            ) from error
    last: dict[int, str] = {}
    strides = {tap.path: tap.stride for tap in places}
    for tap in places:
        if tap.stride is None or not 2 <= tap.stride <= min(size) // 2 or tap.path.split(".")[0] in _HEADS:
            continue
        around = accumulate(tap.path.split(".")[:-1], "{}.{}".format)
        blocks = [path for path in around if not isinstance(network.get_submodule(path), nn.Sequential)]
        if all(strides.get(path) in (None, tap.stride) for path in blocks):  # else it is on its way to the next size
            last[tap.stride] = tap.path
    if len(last) > 1:
        return tuple(last[stride] for stride in sorted(last)), fixed
    blocks: list[str] = []
    for path, module in network.named_modules():
        attentive = any("attention" in type(child).__name__.lower() for child in module.children())
        if attentive and not (blocks and path.startswith(f"{blocks[-1]}.")):
            blocks.append(path)
    chosen = [blocks[round((i + 1) * len(blocks) / 4) - 1] for i in range(4)] if len(blocks) >= 4 else blocks
    if not chosen:
        raise UsageError(
            f"{type(network).__name__} has no stages to compare pictures by.",
            hint="Use a convolutional network or a vision transformer.",
        )
    return tuple(chosen), fixed


def _as_map(value: Tensor) -> Tensor:
    return value.mT[..., None] if value.ndim == 3 else value
