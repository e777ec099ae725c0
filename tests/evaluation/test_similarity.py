from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sketchguide.errors import UsageError
from sketchguide.evaluation.features import load_squeezenet
from sketchguide.evaluation.similarity import diversity, perceptual_distance, structure_distance


def stages(images: Tensor) -> list[Tensor]:
    """Colours, and the mean colours of 4x4 pixels."""
    return [images, F.avg_pool2d(images, 4)]


def places(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 8).flatten(2).mT


def pictures(count: int, *, seed: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def plain(*colours: tuple[float, float, float]) -> Tensor:
    return torch.tensor(colours)[..., None, None].expand(-1, -1, 16, 16).clone()


RED, GREEN, PINK = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.6, 0.8, 0.0)


def test_perceptual_distance_of_known_colours() -> None:
    distance = perceptual_distance(plain(RED, RED, RED, RED), plain(RED, GREEN, PINK, (-0.5, 0.0, 0.0)), stages)
    assert distance.tolist() == pytest.approx([0, 1, 1 - 0.6, 2])
    black = plain((0.0, 0.0, 0.0))
    assert perceptual_distance(black, black, stages).item() == 0
    assert perceptual_distance(black, plain(RED), stages).item() == 0.5


def test_perceptual_distance_is_the_mean_of_one_minus_cosine() -> None:
    a, b = pictures(20, seed=0), pictures(20, seed=1)  # more than pass at once
    cosines = [1 - F.cosine_similarity(x, y) for x, y in zip(stages(a), stages(b), strict=True)]
    expected = torch.stack([c.mean(dim=(1, 2)) for c in cosines]).mean(dim=0)
    assert torch.allclose(perceptual_distance(a, b, stages), expected, atol=1e-6)
    assert torch.allclose(perceptual_distance(b, a, stages), expected, atol=1e-6)


def test_diversity_is_the_mean_over_pairs() -> None:
    assert diversity(plain(RED, RED, GREEN)[None], stages).item() == pytest.approx(2 / 3)
    assert diversity(plain(RED, RED, RED)[None], stages).item() == 0
    several = torch.stack([pictures(3, seed=2), pictures(3, seed=3)])
    pairs = [perceptual_distance(several[:, i], several[:, j], stages) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert torch.allclose(diversity(several, stages), torch.stack(pairs).mean(dim=0), atol=1e-6)


def halves(left: tuple[float, float, float], right: tuple[float, float, float]) -> Tensor:
    picture = plain(left)
    picture[..., 8:] = plain(right)[..., 8:]
    return picture


def test_structure_distance_of_known_layouts() -> None:
    # Four places. Two unlike halves against one colour: half of the 16 similarities change from 0 to 1.
    one, two = plain(RED), halves(RED, GREEN)
    assert structure_distance(one, two, places).item() == pytest.approx(8 / 16)
    between = halves(RED, PINK)
    assert structure_distance(one, between, places).item() == pytest.approx(8 / 16 * 0.4**2, rel=1e-5)


def test_structure_distance_is_blind_to_what_the_colours_are_and_sees_where_they_are() -> None:
    two = halves(RED, GREEN)
    assert structure_distance(two, halves(GREEN, RED), places).item() == pytest.approx(0, abs=1e-6)
    assert structure_distance(two, halves((0.0, 0.0, 0.3), (0.2, 0.0, 0.0)), places).item() == pytest.approx(0)
    assert structure_distance(two, two.mT, places).item() == pytest.approx(8 / 16)


def test_structure_distance_equals_a_loop() -> None:
    a, b = pictures(18, seed=4), pictures(18, seed=5)
    distance = structure_distance(a, b, places)
    for k in (0, 17):
        x, y = places(a)[k], places(b)[k]
        terms = [
            (float(F.cosine_similarity(x[i], x[j], dim=0)) - float(F.cosine_similarity(y[i], y[j], dim=0))) ** 2
            for i in range(4)
            for j in range(4)
        ]
        assert distance[k].item() == pytest.approx(math.fsum(terms) / 16, rel=1e-4)


def test_bad_pictures() -> None:
    good = pictures(2, seed=0)
    for bad in (pictures(3, seed=0), torch.zeros(2, 1, 16, 16)):
        with pytest.raises(UsageError, match="were given"):
            perceptual_distance(bad, good, stages)
        with pytest.raises(UsageError, match="were given"):
            structure_distance(bad, good, places)
    for bad in (good, good[None, :1]):
        with pytest.raises(UsageError, match="seeds"):
            diversity(bad, stages)


@pytest.mark.shared
def test_squeezenet_ranks_as_the_eye_does(shared: Path) -> None:
    path = shared / "weights" / "squeezenet1_0_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"there are no weights {path}")
    network = load_squeezenet(path)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 64)] * 2, indexing="ij")
    disk = torch.hypot(x, y) < 0.6
    stripes = (x * 10).sin() > 0

    def painted(mask: Tensor, ink: tuple[float, ...], paper: tuple[float, ...]) -> Tensor:
        return torch.where(mask, torch.tensor(ink)[:, None, None], torch.tensor(paper)[:, None, None])[None]

    first = painted(disk, (0.8, -0.6, -0.6), (0.9, 0.9, 0.9))
    recoloured = painted(disk, (-0.6, -0.2, 0.8), (0.9, 0.9, 0.6))
    other = painted(stripes, (0.8, -0.6, -0.6), (0.9, 0.9, 0.9))
    faint = first + 0.02 * torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    structure = [structure_distance(first, b, network.places).item() for b in (first, recoloured, other)]
    assert structure[0] < 1e-9
    assert structure[1] < 0.5 * structure[2]
    look = [perceptual_distance(first, b, network.stages).item() for b in (first, faint, recoloured, other)]
    assert look[0] < 1e-6
    assert look[1] < look[2] < look[3]
