"""How well one map follows another, whether a picture is recognised, and how sure a mean is.

Maps are (B, 1, H, W) in [0, 1] and ink is 1. Both maps of a pair are thinned to lines one pixel wide before they are
compared, so that the thickness of a line neither helps nor harms, and a map that is white all over is one short line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sketchguide.errors import UsageError
from sketchguide.extractors import distance_to, thin

THRESHOLD = 0.5  # ink is what reaches it


@dataclass(frozen=True, kw_only=True)
class EdgeScore:
    """One value per pair of maps, each (B,) in [0, 1]."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and its confidence interval, which a single item has not."""

    estimate: float
    low: float | None = None
    high: float | None = None

    @property
    def reaches(self) -> tuple[float, float]:
        """How far the interval reaches below the estimate and above it; 0 where there is none."""
        if self.low is None or self.high is None:
            return 0, 0
        return max(0, self.estimate - self.low), max(0, self.high - self.estimate)


def edge_f1(predicted: Tensor, target: Tensor, *, tolerance: float) -> EdgeScore:
    """Agreement of the lines of two batches of maps (B, 1, H, W), pair by pair.

    Precision is the share of predicted line pixels that have a target line pixel within `tolerance` pixels, recall the
    share of target line pixels that have a predicted one, F1 their harmonic mean. One pixel may answer for several:
    hatching a whole region still earns some precision, so read F1 beside that of unguided pictures. Two maps without
    ink agree (all 1); where only one has ink, all are 0.
    """
    check_pair(predicted, target, tolerance=tolerance)
    return score(match(lines_of(predicted), lines_of(target), tolerance=tolerance))


def edge_counts(predicted: Tensor, target: Tensor, *, tolerance: float, thresholds: int) -> Tensor:
    """What `ods_of` is told of each pair: its counts of pixels at each threshold, (B, T, 4) as of `match`.

    Both are (B, 1, H, W). The `thresholds` that soft predictions are cut at lie evenly between 0 and 1; the target is
    cut at 0.5.
    """
    check_pair(predicted, target, tolerance=tolerance)
    if thresholds < 1:
        raise UsageError(f"{thresholds} thresholds were given; 1 is the least.", field="thresholds")
    wanted = lines_of(target)
    cuts = torch.arange(1, thresholds + 1, dtype=torch.float64) / (thresholds + 1)
    found = (lines_of(predicted, threshold=cut) for cut in cuts.tolist())
    return torch.stack([match(one, wanted, tolerance=tolerance) for one in found]).permute(2, 0, 1)


def ods_of(counts: Tensor) -> float:
    """F1 in [0, 1] of pairs whose `edge_counts` (B, T, 4) are given, at the one threshold that is best for all (ODS).

    Matched and counted pixels are summed over the set before precision and recall are taken, as in the Berkeley
    benchmark (Arbelaez et al., IEEE TPAMI 33(5), 2011, section 3.1); pixels match as in `edge_f1`.
    """
    return float(score(counts.sum(dim=0).T).f1.max())


def chamfer(first: Tensor, second: Tensor) -> Tensor:
    """Symmetric Chamfer distance (B,) between the lines of two batches of maps (B, 1, H, W).

    The mean distance from a line pixel of one map to the nearest of the other, averaged over both directions, as a
    fraction of the longer side. 0 where neither map has ink, 1 where only one has.
    """
    check_pair(first, second, tolerance=0)
    a, b = lines_of(first), lines_of(second)
    there, back = masked_mean(b.distance, a.ink), masked_mean(a.distance, b.ink)
    distance = (there + back) / 2 / max(first.shape[-2:])
    one_empty = a.ink.flatten(1).any(dim=1) != b.ink.flatten(1).any(dim=1)
    return torch.where(one_empty, 1.0, distance)


def accuracy(scores: Tensor, accepted: Tensor, *, top: int = 1) -> Tensor:
    """1 (B,) where one of the `top` highest `scores` (B, N) is of a class in `accepted` (B, N), bool; elsewhere 0."""
    if scores.ndim != 2 or scores.shape != accepted.shape:
        raise UsageError(
            f"Scores {tuple(scores.shape)} and accepted classes {tuple(accepted.shape)} must be the same (B, N).",
            field="accepted",
        )
    if not 1 <= top <= scores.shape[1]:
        raise UsageError(f"top={top} was given; 1 to {scores.shape[1]} is allowed.", field="top")
    best = scores.topk(top, dim=1).indices
    return accepted.to(best.device).gather(1, best).any(dim=1).float()


def bootstrap_interval(
    values: Tensor, *, over: Tensor | None = None, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of `values` (N,), or its ratio to the mean of `over` (N,), with a percentile bootstrap interval.

    The N items are drawn with replacement `samples` times (Efron and Tibshirani 1993, chapter 13); `values[i]` and
    `over[i]` belong to the same item and are drawn together. Items must be independent: average the seeds of one sketch
    first. Of a single item there is the estimate alone: it does not tell how others differ from it.
    Samples in which all of `over` is 0 have no ratio and are left out. Raises `UsageError` for empty, unequal or
    non-finite input and where the mean of `over` is 0.
    """
    paired = [values] if over is None else [values, over]
    if values.ndim != 1 or len(values) == 0 or any(v.shape != values.shape for v in paired):
        shapes = " and ".join(str(tuple(v.shape)) for v in paired)
        raise UsageError(f"Values of shape {shapes} were given; the same (N,) with N >= 1 is needed.", field="values")
    columns = torch.stack(paired).cpu().double()
    if not columns.isfinite().all():
        raise UsageError("Some values are not finite.", hint="Leave failed items out first.", field="values")
    check_bootstrap(level=level, samples=samples)
    if over is not None and columns[1].mean() == 0:
        raise UsageError("The ratio is not defined: the mean of `over` is 0.", field="over")
    estimate = float(columns[0].mean() if over is None else columns[0].mean() / columns[1].mean())
    if len(values) == 1:
        return Interval(estimate=estimate)
    drawn = torch.randint(values.shape[0], (samples, values.shape[0]), generator=Generator().manual_seed(seed))
    means = columns[:, drawn].mean(dim=2)
    statistics = means[0] if over is None else (means[0] / means[1])[means[1] != 0]
    if not len(statistics):  # rather than no interval, all that there is
        statistics = torch.tensor([estimate], dtype=torch.float64)
    return percentiles(estimate, statistics, level=level)


def percentiles(estimate: float, drawn: Tensor, *, level: float) -> Interval:
    """The interval that holds the share `level` of what bootstrap samples gave, (S,); NaN where one gave nothing."""
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = drawn.nanquantile(tails).tolist()
    return Interval(estimate=estimate, low=low, high=high)


def check_bootstrap(*, level: float, samples: int) -> None:
    if not 0 < level < 1:
        raise UsageError(f"A level of {level} was given; it must be between 0 and 1.", field="level")
    if samples < 1:
        raise UsageError(f"{samples} samples were given; 1 is the least.", field="samples")


def check_pair(first: Tensor, second: Tensor, *, tolerance: float) -> None:
    if first.ndim != 4 or first.shape[1] != 1 or first.shape != second.shape:
        raise UsageError(
            f"Maps of shape {tuple(first.shape)} and {tuple(second.shape)} were given; both need one (B, 1, H, W).",
            field="predicted",
        )
    if not tolerance >= 0:
        raise UsageError(f"A tolerance of {tolerance} was given; 0 pixels is the least.", field="tolerance")


class Lines(NamedTuple):
    """The thinned lines of maps, and how far it is to them in pixels."""

    ink: Tensor  # (B, 1, H, W), bool
    distance: Tensor  # (B, 1, H, W)


def lines_of(maps: Tensor, *, threshold: float = THRESHOLD) -> Lines:
    ink = thin(maps >= threshold)
    return Lines(ink, distance_to(ink))


def match(predicted: Lines, target: Lines, *, tolerance: float) -> Tensor:
    """Line pixels (4, B): predicted and matched, predicted, in the target and matched, in the target."""
    found = predicted.ink & (target.distance <= tolerance)
    covered = target.ink & (predicted.distance <= tolerance)
    return torch.stack([ink.flatten(1).sum(dim=1) for ink in (found, predicted.ink, covered, target.ink)])


def score(counts: Tensor) -> EdgeScore:
    """Scores (...) of the counts (4, ...) that `match` makes."""
    found, predicted, covered, target = counts.double()
    neither = (predicted == 0) & (target == 0)
    precision = torch.where(neither, 1.0, found / predicted.clamp(min=1))
    recall = torch.where(neither, 1.0, covered / target.clamp(min=1))
    f1 = 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(torch.float64).tiny)
    return EdgeScore(precision=precision.float(), recall=recall.float(), f1=f1.float())


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean (B,) of `values` (B, 1, H, W) where `mask` is set; 0 where it is nowhere."""
    return (values * mask).flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp(min=1)
