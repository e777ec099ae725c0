"""How alike two pictures are: to the eye, and in structure alone.

Pictures are (B, 3, H, W) in [-1, 1]. The features are an argument: `features.SqueezeNet` gives both kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from sketchguide.errors import UsageError
from sketchguide.evaluation.features import Places, Stages
from sketchguide.extractors import check_images
from sketchguide.perception import between

_BATCH = 16


def perceptual_distance(first: Tensor, second: Tensor, stages: Stages) -> Tensor:
    """Distance (B,) of the features of two batches of pictures, pair by pair; 0 for equal ones.

    Half the squared distance of the unit feature vectors (1 - cosine), averaged over the places of a stage, then over
    the stages: the distance of Zhang et al. (arXiv 1801.03924, equation 1) with all its learned weights equal, up to a
    factor. In [0, 1] for features >= 0, as SqueezeNet's are; up to 2 for others.
    """
    check_pictures(first, second)
    parts = [
        torch.stack([between(a, b) for a, b in zip(stages(x), stages(y), strict=True)]).mean(dim=0)
        for x, y in zip(first.split(_BATCH), second.split(_BATCH), strict=True)
    ]
    return torch.cat(parts)


def diversity(pictures: Tensor, stages: Stages) -> Tensor:
    """How much the pictures of one prompt and drawing differ: (B, S, 3, H, W) of S >= 2 seeds to (B,).

    The mean `perceptual_distance` over all pairs of the S pictures; 0 where all are equal, range as there.
    """
    if pictures.ndim != 5 or pictures.shape[1] < 2:
        raise UsageError(
            f"Pictures of shape {tuple(pictures.shape)} were given; (B, S, 3, H, W) with S >= 2 seeds is needed.",
            field="pictures",
        )
    return torch.stack([between_seeds(stages(seeds)) for seeds in pictures])


def between_seeds(maps: Sequence[Tensor]) -> Tensor:
    """The diversity of S >= 2 pictures, given the stages (S, C, h, w) of their features."""
    pairs = torch.tensor(list(combinations(range(len(maps[0])), 2)), device=maps[0].device).T
    return torch.stack([between(m[pairs[0]], m[pairs[1]]).mean() for m in maps]).mean()


def structure_distance(first: Tensor, second: Tensor, places: Places) -> Tensor:
    """Distance (B,) of the self-similarities of two batches of pictures, pair by pair; blind to colour and style.

    The mean squared difference of the (N, N) cosine similarities of each picture's places with each other (Tumanyan et
    al., arXiv 2201.00424, equation 3, who take the keys of the last layer of DINO-ViT as `places`; figures of different
    features do not compare). In [0, 1] for features >= 0, as SqueezeNet's are; up to 4 for others.
    """
    check_pictures(first, second)
    parts = [
        between_places(places(x), places(y)) for x, y in zip(first.split(_BATCH), second.split(_BATCH), strict=True)
    ]
    return torch.cat(parts)


def between_places(first: Tensor, second: Tensor) -> Tensor:
    """The structure distance (B,) of two batches of pictures, given the vectors (B, N, C) of their places."""
    return (self_similarity(first) - self_similarity(second)).square().mean(dim=(1, 2))


def self_similarity(places: Tensor) -> Tensor:
    """Cosine (B, N, N) of the angle between the vectors (B, N, C) of any two places; 0 for a vector of 0."""
    unit = F.normalize(places, dim=2)
    return unit @ unit.mT


def check_pictures(first: Tensor, second: Tensor) -> None:
    check_images(first)
    if first.shape != second.shape:
        raise UsageError(
            f"Pictures of shape {tuple(first.shape)} and {tuple(second.shape)} were given; both need one shape.",
            field="second",
        )
