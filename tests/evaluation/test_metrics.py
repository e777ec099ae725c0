from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage import morphology
from torch import Tensor

from sketchguide.errors import UsageError
from sketchguide.evaluation.metrics import Interval, accuracy, bootstrap_interval, chamfer, edge_counts, edge_f1, ods_of


def columns(*where: int, width: int = 1) -> Tensor:
    """A map (1, 1, 32, 32) with a vertical line from each column of `where` on."""
    drawn = torch.zeros(1, 1, 32, 32)
    for column in where:
        drawn[..., column : column + width] = 1
    return drawn


def scribble(seed: int) -> Tensor:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((40, 30)), 2)
    return torch.from_numpy(np.abs(field) < 0.02).float()[None, None]


def skeleton_points(drawn: Tensor) -> Tensor:
    return torch.from_numpy(morphology.thin(np.pad(drawn[0, 0].numpy() >= 0.5, 1))).nonzero().float()


def f1_by_hand(predicted: Tensor, target: Tensor, tolerance: float) -> tuple[float, float, float]:
    """The definition, point by point, on scikit-image's skeletons."""
    gaps = torch.cdist(skeleton_points(predicted), skeleton_points(target))
    precision = (gaps.min(dim=1).values <= tolerance + 1e-4).double().mean().item()
    recall = (gaps.min(dim=0).values <= tolerance + 1e-4).double().mean().item()
    return precision, recall, 2 * precision * recall / (precision + recall)


def test_f1_of_shifted_lines_steps_at_the_tolerance() -> None:
    target = columns(10)
    assert edge_f1(columns(12), target, tolerance=2).f1.tolist() == [1]
    assert edge_f1(columns(13), target, tolerance=2).f1.tolist() == [0]


def test_precision_falls_with_extra_lines_and_recall_with_missing_ones() -> None:
    score = edge_f1(columns(4, 20), columns(20), tolerance=1)
    assert (score.precision.item(), score.recall.item()) == (0.5, 1.0)
    assert score.f1.item() == pytest.approx(2 / 3)
    score = edge_f1(columns(20), columns(4, 12, 20, 28), tolerance=1)
    assert (score.precision.item(), score.recall.item()) == (1.0, 0.25)


def test_thickness_neither_helps_nor_harms() -> None:
    target = columns(16)
    assert edge_f1(columns(15, width=3), target, tolerance=1).f1.item() == pytest.approx(1, abs=0.05)
    assert edge_f1(columns(20, width=9), target, tolerance=2).f1.item() < 0.1
    busy = columns(3, 9, 15, 21, 27)
    assert edge_f1(torch.ones_like(busy), busy, tolerance=2).f1.item() < 0.2


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 3])
def test_f1_equals_the_definition(tolerance: float) -> None:
    predicted, target = torch.cat([scribble(1), scribble(2)]), torch.cat([scribble(3), scribble(4)])
    score = edge_f1(predicted, target, tolerance=tolerance)
    for k in range(2):
        expected = f1_by_hand(predicted[k : k + 1], target[k : k + 1], tolerance)
        assert (score.precision[k].item(), score.recall[k].item(), score.f1[k].item()) == pytest.approx(expected)


def test_f1_without_ink() -> None:
    empty, line = torch.zeros(1, 1, 32, 32), columns(3)
    score = edge_f1(torch.cat([empty, empty, line]), torch.cat([empty, line, empty]), tolerance=2)
    assert score.f1.tolist() == score.precision.tolist() == score.recall.tolist() == [1, 0, 0]


def ods(predicted: Tensor, target: Tensor, *, thresholds: int) -> float:
    return ods_of(edge_counts(predicted, target, tolerance=1, thresholds=thresholds))


def test_ods_finds_the_threshold_at_which_the_false_line_goes() -> None:
    predicted = columns(8) * 0.9 + columns(20) * 0.6
    assert ods(predicted, columns(8), thresholds=9) == 1  # at 0.7, 0.8 and 0.9
    assert ods(predicted, columns(8), thresholds=1) == pytest.approx(2 / 3)  # one of two lines right, nothing missed


def test_ods_pools_counts_and_takes_one_threshold_for_all() -> None:
    # The true line is strong in one and weak in the other, as weak as the false line of the first: a threshold for each
    # would find both alone.
    predicted = torch.cat([columns(8) * 0.9 + columns(20) * 0.4, columns(8) * 0.3])
    target = torch.cat([columns(8), columns(8)])
    assert ods(predicted, target, thresholds=9) == pytest.approx(0.8)  # at 0.1 2 of 3 lines right, nothing missed
    assert [ods(*pair, thresholds=9) for pair in zip(predicted[:, None], target[:, None], strict=True)] == [1, 1]


def test_ods_is_the_best_f1_of_a_soft_map_over_its_thresholds() -> None:
    predicted, target = scribble(5) * torch.linspace(0, 1, 30), scribble(6)
    cut = [(predicted >= k / 10).float() for k in range(1, 10)]
    expected = max(f1_by_hand(one, target, 1)[2] for one in cut)
    assert ods(predicted, target, thresholds=9) == pytest.approx(expected)
    assert ods(predicted, target, thresholds=1) == pytest.approx(edge_f1(predicted, target, tolerance=1).f1.item())


def test_chamfer_of_parallel_lines_and_of_nothing() -> None:
    empty = torch.zeros(1, 1, 32, 32)
    first = torch.cat([columns(4), columns(4), empty, empty, columns(4)])
    second = torch.cat([columns(4), columns(12), empty, columns(4), columns(4, 12)])
    assert chamfer(first, second).tolist() == pytest.approx([0, 8 / 32, 0, 1, 2 / 32])


def test_chamfer_equals_brute_force_and_is_symmetric() -> None:
    a, b = scribble(7), scribble(8)
    gaps = torch.cdist(skeleton_points(a), skeleton_points(b))
    expected = (gaps.min(dim=0).values.mean() + gaps.min(dim=1).values.mean()).item() / 2 / 40
    assert chamfer(a, b).item() == pytest.approx(expected, rel=1e-4)
    assert torch.equal(chamfer(a, b), chamfer(b, a))


@pytest.mark.parametrize("bad", [torch.zeros(1, 1, 8, 9), torch.zeros(1, 3, 8, 8), torch.zeros(8, 8)])
def test_maps_must_be_pairs(bad: Tensor) -> None:
    good = torch.zeros(1, 1, 8, 8)
    for call in (lambda: edge_f1(bad, good, tolerance=1), lambda: chamfer(bad, good)):
        with pytest.raises(UsageError, match="both need one"):
            call()


def test_bad_tolerance_and_thresholds() -> None:
    line = columns(3)
    with pytest.raises(UsageError, match="tolerance"):
        edge_f1(line, line, tolerance=float("nan"))
    with pytest.raises(UsageError, match="thresholds"):
        edge_counts(line, line, tolerance=1, thresholds=0)


def test_accuracy_by_hand() -> None:
    scores = torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 2, 3]])
    accepted = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]]).bool()
    assert accuracy(scores, accepted).tolist() == [1, 0, 0]
    assert accuracy(scores, accepted, top=2).tolist() == [1, 1, 1]


@pytest.mark.parametrize("top", [0, 4])
def test_accuracy_refuses_a_top_out_of_range(top: int) -> None:
    with pytest.raises(UsageError, match="1 to 3"):
        accuracy(torch.zeros(1, 3), torch.ones(1, 3).bool(), top=top)


def test_accuracy_refuses_other_shapes() -> None:
    with pytest.raises(UsageError, match="same"):
        accuracy(torch.zeros(2, 3), torch.ones(2, 4).bool())


def test_bootstrap_of_a_mean_agrees_with_scipy_and_theory() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) * 2 + 5
    ours = bootstrap_interval(values, level=0.9, samples=4000)
    theirs = stats.bootstrap(
        (values.numpy(),),
        np.mean,
        confidence_level=0.9,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert ours.estimate == pytest.approx(values.mean().item(), rel=1e-6)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert ours.high - ours.low == pytest.approx(2 * 1.645 * values.std().item() / 20, rel=0.08)


def test_bootstrap_of_a_ratio_is_paired() -> None:
    over = torch.rand(200, generator=torch.Generator().manual_seed(1)) + 0.5
    exact = bootstrap_interval(over * 3, over=over)
    assert (exact.low, exact.estimate, exact.high) == pytest.approx((3, 3, 3))
    values = over * 2 + torch.randn(200, generator=torch.Generator().manual_seed(2)) * 0.2
    ours = bootstrap_interval(values, over=over)
    theirs = stats.bootstrap(
        (values.numpy(), over.numpy()),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours.low < ours.estimate < ours.high


def test_a_single_item_has_no_interval() -> None:
    assert bootstrap_interval(torch.tensor([0.5])) == Interval(estimate=0.5)
    assert bootstrap_interval(torch.tensor([0.5]), over=torch.tensor([0.25])) == Interval(estimate=2)


def test_samples_without_a_ratio_are_left_out() -> None:
    values, over = torch.tensor([0.5, 0.5, 0.6]), torch.tensor([0.0, 0.3, 0.0])
    ratio = bootstrap_interval(values, over=over)
    assert ratio.estimate == pytest.approx(16 / 3)
    assert 1 < ratio.low < ratio.estimate < ratio.high < 8


def test_bootstrap_repeats_with_its_seed() -> None:
    values = torch.arange(30.0)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


@pytest.mark.parametrize(
    ("values", "options", "field"),
    [
        (torch.zeros(0), {}, "values"),
        (torch.zeros(2, 2), {}, "values"),
        (torch.tensor([1.0, float("nan")]), {}, "values"),
        (torch.ones(3), {"over": torch.ones(2)}, "values"),
        (torch.ones(3), {"over": torch.zeros(3)}, "over"),
        (torch.ones(3), {"level": 1.0}, "level"),
        (torch.ones(3), {"samples": 0}, "samples"),
    ],
)
def test_bootstrap_refuses(values: Tensor, options: dict[str, Tensor | float], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        bootstrap_interval(values, **options)  # type: ignore[arg-type]
    assert caught.value.field == field
