"""How alike pictures are in structure alone, and how much those of one prompt differ.

Both are told what a network sees in the pictures, `features.SqueezeNet` for instance. `perception.perceptual_loss` says
how alike two are to the eye.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from sketchguide.perception import between


def between_seeds(maps: Sequence[Tensor]) -> Tensor:
    """The diversity of S >= 2 pictures of one prompt and drawing, given the stages (S, C, h, w) of their features.

    The mean `perceptual_loss` over all pairs of them; 0 where all are equal, range as there.
    """
    pairs = torch.tensor(list(combinations(range(len(maps[0])), 2)), device=maps[0].device).T
    return torch.stack([between(m[pairs[0]], m[pairs[1]]).mean() for m in maps]).mean()


def structure_distance(first: Tensor, second: Tensor) -> Tensor:
    """Distance (B,) of the self-similarities of two batches of pictures, pair by pair; blind to colour and style.

    Given are the vectors (B, N, C) of the pictures' places. The mean squared difference of the (N, N) cosine
    similarities of each picture's places with each other (Tumanyan et al., arXiv 2201.00424, equation 3, who take the
    keys of the last layer of DINO-ViT; figures of different features do not compare). In [0, 1] for features >= 0, as
    SqueezeNet's are; up to 4 for others.
    """
    return (self_similarity(first) - self_similarity(second)).square().mean(dim=(1, 2))


def self_similarity(places: Tensor) -> Tensor:
    """Cosine (B, N, N) of the angle between the vectors (B, N, C) of any two places; 0 for a vector of 0."""
    unit = F.normalize(places, dim=2)
    return unit @ unit.mT
