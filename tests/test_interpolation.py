import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sketchguide.errors import UsageError
from sketchguide.interpolation import INTERPOLATIONS, between, linear, spherical, trigonometric
from sketchguide.seeds import generators, noise


def ends(size: int = 64) -> tuple[Tensor, Tensor]:
    first, second = noise(generators([1, 2]), (4, size, size)).split(1)
    return first, second


@pytest.mark.parametrize("way", INTERPOLATIONS)
def test_both_ends_are_reached(way: str) -> None:
    first, second = ends()
    frames = between(first, second, frames=5, way=way)
    assert frames.shape == (5, 4, 64, 64)
    assert torch.allclose(frames[:1], first, atol=1e-5)
    assert torch.allclose(frames[-1:], second, atol=1e-5)


def test_only_the_straight_line_shrinks_the_length() -> None:
    first, second = ends()
    length = float(first.norm())
    middle = {way: float(walk(first, second, 0.5).norm()) / length for way, walk in INTERPOLATIONS.items()}
    assert middle["linear"] == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert middle["spherical"] == pytest.approx(1, abs=0.01)
    assert middle["trigonometric"] == pytest.approx(1, abs=0.02)


def test_the_sphere_is_walked_at_an_even_pace_row_by_row() -> None:
    first, second = noise(generators([1, 2]), (4, 8, 8)), 3 * noise(generators([3, 4]), (4, 8, 8))
    angles: list[list[float]] = []
    walk = [spherical(first, second, place / 4) for place in range(5)]
    for one, other in pairwise(walk):
        cosine = torch.nn.functional.cosine_similarity(one.flatten(1), other.flatten(1))
        angles.append(cosine.acos().tolist())
    assert all(row == pytest.approx(angles[0], rel=1e-2) for row in angles)
    lengths = torch.stack([x.flatten(1).norm(dim=1) for x in walk])
    assert torch.allclose(lengths[2], (lengths[0] + lengths[4]) / 2, rtol=1e-4)
    assert torch.allclose(walk[2][:1], spherical(first[:1], second[:1], 0.5), atol=1e-6)


def test_the_trigonometric_way_turns_without_regard_to_the_ends_lengths() -> None:
    """Of a long end it has more than the way along the sphere, which goes by the directions alone."""
    first, second = ends()
    long = 3 * second
    mixed = math.cos(math.pi / 8) * first + math.sin(math.pi / 8) * long
    expected = mixed / mixed.norm() * (0.75 * first.norm() + 0.25 * long.norm())
    found = between(first, long, frames=5, way="trigonometric")[1:2]
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, spherical(first, long, 0.25), atol=0.1)


def test_equal_and_opposite_ends_stay_finite() -> None:
    first, _ = ends(8)
    assert torch.allclose(spherical(first, first, 0.3), first, atol=1e-4)
    assert bool(spherical(first, -first, 0.5).isfinite().all())
    assert bool(spherical(torch.zeros_like(first), first, 0.5).isfinite().all())
    assert torch.equal(linear(first, first, 0.5), first)
    assert torch.allclose(trigonometric(first, first, 0.5), first, atol=1e-4)
    assert bool(trigonometric(first, -first, 0.5).isfinite().all())


def test_what_cannot_be_joined_is_refused() -> None:
    first, second = ends(8)
    with pytest.raises(UsageError, match="no way 'cubic'"):
        between(first, second, frames=3, way="cubic")
    with pytest.raises(UsageError, match="frames is 1"):
        between(first, second, frames=1)
    with pytest.raises(UsageError, match="both must be"):
        between(first, ends(16)[1], frames=3)
