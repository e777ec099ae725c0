from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from sketchguide.errors import UsageError
from sketchguide.evaluation.realism import fid, kid, kid_difference


def normal(count: int, width: int = 4, *, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def kid_by_hand(x: Tensor, y: Tensor) -> float:
    """The definition, pair by pair."""

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a.double() @ b.double()) / len(a) + 1) ** 3

    xx = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    yy = [kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    xy = [kernel(a, b) for a in x for b in y]
    return float(np.mean(xx) + np.mean(yy) - 2 * np.mean(xy))


def fid_by_hand(x: Tensor, y: Tensor) -> float:
    """The definition, with SciPy's square root of a matrix."""
    first, second = (np.cov(f.double().numpy(), rowvar=False) for f in (x, y))
    root = linalg.sqrtm(first @ second).real
    gap = (x.double().mean(dim=0) - y.double().mean(dim=0)).square().sum().item()
    return gap + float(np.trace(first + second - 2 * root))


def test_kid_equals_the_definition() -> None:
    x, y = normal(9, seed=0), normal(13, seed=1, shift=0.5)
    assert kid(x, y, samples=10).estimate == pytest.approx(kid_by_hand(x, y), rel=1e-9)
    assert kid(y, x, samples=10).estimate == pytest.approx(kid_by_hand(x, y), rel=1e-9)


def test_kid_of_points() -> None:
    # k(0, .) = 1; k(2, 2) = (4 / 1 + 1)^3 = 125
    x, y = torch.zeros(3, 1), torch.full((2, 1), 2.0)
    assert kid(x, y, samples=10) == kid(x, y, samples=20)  # nothing varies
    assert kid(x, y, samples=10).estimate == pytest.approx(1 + 125 - 2)
    assert kid(y, y, samples=10).estimate == pytest.approx(0)


def test_kid_is_unbiased() -> None:
    values = [kid(normal(10, seed=k), normal(15, seed=k + 500), samples=1).estimate for k in range(300)]
    mean, error = np.mean(values), np.std(values) / math.sqrt(300)
    assert abs(mean) < 3 * error
    assert min(values) < 0


def test_kid_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    intervals = [
        kid(normal(60, seed=2 * k, shift=0.4), normal(60, seed=2 * k + 1), level=0.9, samples=100) for k in range(100)
    ]
    truth = np.mean([i.estimate for i in intervals])
    covered = np.mean([i.low <= truth <= i.high for i in intervals])
    assert 0.8 < covered <= 0.98


def test_kid_with_groups_leaves_out_pairs_within_a_group() -> None:
    x, y = normal(12, seed=3), normal(8, seed=4)
    groups = torch.arange(12) // 3

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / 4 + 1) ** 3

    apart = groups[:, None] != groups
    off = ~torch.eye(8, dtype=torch.bool)
    expected = kernel(x, x)[apart].mean() + kernel(y, y)[off].mean() - 2 * kernel(x, y).mean()
    assert kid(x, y, groups=groups, samples=10).estimate == pytest.approx(expected.item())


def test_groups_of_copies_do_not_narrow_the_interval() -> None:
    x, y = normal(40, seed=5, shift=0.5), normal(40, seed=6)
    once, copied = kid(x, y), kid(x.repeat(3, 1), y, groups=torch.arange(40).repeat(3))
    assert copied.estimate == pytest.approx(once.estimate)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    alone = kid(x.repeat(3, 1), y)
    assert alone.high - alone.low < 0.9 * (once.high - once.low)


def test_kid_difference_is_that_of_the_two_and_knows_what_belongs_together() -> None:
    base, y = normal(40, seed=5), normal(40, seed=6)
    x, z = base + 0.5, base + 0.4  # both shifted, each picture beside its like
    found = kid_difference(x, z, y)
    assert found.estimate == pytest.approx(kid(x, y).estimate - kid(z, y).estimate)
    assert found.low > 0, "the pictures further off are further off, whichever are drawn"
    assert kid(x, y).low < kid(z, y).estimate, "apart the two cannot be told from each other"
    same = kid_difference(x, x, y)
    assert (same.low, same.estimate, same.high) == (0, 0, 0)


def test_kid_difference_needs_pictures_of_the_same_groups() -> None:
    x, y = normal(6, seed=1), normal(5, seed=2)
    seeds = torch.arange(6) // 2
    assert kid_difference(x, x[::2], y, groups=seeds, other_groups=seeds[::2]).estimate != 0
    with pytest.raises(UsageError, match="same groups"):
        kid_difference(x, x, y, groups=seeds, other_groups=seeds + 1)
    with pytest.raises(UsageError, match="same groups"):
        kid_difference(x, x[:4], y)


def test_fid_of_two_normal_distributions_is_that_of_the_formula() -> None:
    x = normal(400, seed=0)
    assert fid(x, x, samples=2).estimate == pytest.approx(0, abs=1e-9)
    assert fid(x, x + 3, samples=2).estimate == pytest.approx(4 * 9)
    # Covariances C and 4 C share their axes: tr(C + 4 C - 2 * 2 C) = tr C
    doubled = (x - x.mean(dim=0)) * 2 + x.mean(dim=0)
    assert fid(x, doubled, samples=2).estimate == pytest.approx(x.double().var(dim=0).sum().item(), rel=1e-5)


@pytest.mark.parametrize("counts", [(50, 60), (5, 60), (3, 4)])
def test_fid_equals_scipy_also_with_fewer_pictures_than_features(counts: tuple[int, int]) -> None:
    mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(9))
    x, y = normal(counts[0], 6, seed=1) @ mix, normal(counts[1], 6, seed=2, shift=0.3)
    assert fid(x, y, samples=2).estimate == pytest.approx(fid_by_hand(x, y), rel=1e-4)


def test_fid_interval_has_the_width_of_the_spread_over_new_samples() -> None:
    values = [fid(normal(80, seed=k, shift=1), normal(80, seed=k + 300), samples=1).estimate for k in range(200)]
    interval = fid(normal(80, seed=0, shift=1), normal(80, seed=300), samples=200)
    assert interval.low < interval.estimate < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.std(values), rel=0.3)


def test_intervals_repeat_with_their_seed() -> None:
    x, y = normal(20, seed=0), normal(20, seed=1)
    for distance in (kid, fid):
        assert distance(x, y, samples=20, seed=1) == distance(x, y, samples=20, seed=1)
        assert distance(x, y, samples=20, seed=1) != distance(x, y, samples=20, seed=2)


@pytest.mark.parametrize("distance", [kid, fid])
@pytest.mark.parametrize(
    ("pictures", "reference", "options", "field"),
    [
        (torch.zeros(3), torch.zeros(3), {}, "pictures"),
        (torch.zeros(1, 2), torch.zeros(3, 2), {}, "pictures"),
        (torch.zeros(3, 2), torch.zeros(3, 4), {}, "reference"),
        (torch.full((3, 2), math.nan), torch.zeros(3, 2), {}, "pictures"),
        (torch.zeros(3, 2), torch.zeros(3, 2), {"groups": torch.zeros(3)}, "groups"),
        (torch.zeros(3, 2), torch.zeros(3, 2), {"groups": torch.arange(2)}, "groups"),
        (torch.zeros(3, 2), torch.zeros(3, 2), {"samples": 0}, "samples"),
        (torch.zeros(3, 2), torch.zeros(3, 2), {"level": 1.0}, "level"),
    ],
)
def test_bad_features(
    distance: Callable[..., object], pictures: Tensor, reference: Tensor, options: dict[str, object], field: str
) -> None:
    with pytest.raises(UsageError) as caught:
        distance(pictures, reference, **options)
    assert caught.value.field == field
