from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sketchguide.evaluation.features import load_squeezenet
from sketchguide.evaluation.similarity import between_seeds, structure_distance
from sketchguide.perception import perceptual_loss


def stages(images: Tensor) -> list[Tensor]:
    """Colours, and the mean colours of 4x4 pixels."""
    return [images, F.avg_pool2d(images, 4)]


def places(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 8).flatten(2).mT


def structure(first: Tensor, second: Tensor) -> Tensor:
    return structure_distance(places(first), places(second))


def pictures(count: int, *, seed: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def plain(*colours: tuple[float, float, float]) -> Tensor:
    return torch.tensor(colours)[..., None, None].expand(-1, -1, 16, 16).clone()


RED, GREEN, PINK = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.6, 0.8, 0.0)


def test_diversity_is_the_mean_over_pairs() -> None:
    assert between_seeds(stages(plain(RED, RED, GREEN))).item() == pytest.approx(2 / 3)
    assert between_seeds(stages(plain(RED, RED, RED))).item() == 0
    three = pictures(3, seed=2)
    pairs = [perceptual_loss(stages(three[i : i + 1]), stages(three[j : j + 1])) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert between_seeds(stages(three)).item() == pytest.approx(torch.cat(pairs).mean().item(), abs=1e-6)


def halves(left: tuple[float, float, float], right: tuple[float, float, float]) -> Tensor:
    picture = plain(left)
    picture[..., 8:] = plain(right)[..., 8:]
    return picture


def test_structure_distance_of_known_layouts() -> None:
    # Four places. Two unlike halves against one colour: half of the 16 similarities change from 0 to 1.
    one, two = plain(RED), halves(RED, GREEN)
    assert structure(one, two).item() == pytest.approx(8 / 16)
    between = halves(RED, PINK)
    assert structure(one, between).item() == pytest.approx(8 / 16 * 0.4**2, rel=1e-5)


def test_structure_distance_is_blind_to_what_the_colours_are_and_sees_where_they_are() -> None:
    two = halves(RED, GREEN)
    assert structure(two, halves(GREEN, RED)).item() == pytest.approx(0, abs=1e-6)
    assert structure(two, halves((0.0, 0.0, 0.3), (0.2, 0.0, 0.0))).item() == pytest.approx(0)
    assert structure(two, two.mT).item() == pytest.approx(8 / 16)


def test_structure_distance_equals_a_loop() -> None:
    a, b = pictures(3, seed=4), pictures(3, seed=5)
    distance = structure(a, b)
    for k in (0, 2):
        x, y = places(a)[k], places(b)[k]
        terms = [
            (float(F.cosine_similarity(x[i], x[j], dim=0)) - float(F.cosine_similarity(y[i], y[j], dim=0))) ** 2
            for i in range(4)
            for j in range(4)
        ]
        assert distance[k].item() == pytest.approx(math.fsum(terms) / 16, rel=1e-4)


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
    seen, again, slightly, coloured, striped = map(network.look, (first, first, faint, recoloured, other))
    built = [structure_distance(seen.places, b.places).item() for b in (again, coloured, striped)]
    assert built[0] < 1e-9
    assert built[1] < 0.5 * built[2]
    look = [perceptual_loss(seen.stages, b.stages).item() for b in (again, slightly, coloured, striped)]
    assert look[0] < 1e-6
    assert look[1] < look[2] < look[3]
