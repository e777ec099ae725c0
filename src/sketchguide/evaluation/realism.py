"""How far a set of pictures is from a set of true ones, on features (N, D) that a trained network gives.

Both distances are of sets, not of pictures. Their values depend on the network: compare only what the same one saw.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sketchguide.errors import UsageError
from sketchguide.evaluation.metrics import Interval, check_bootstrap, percentiles


def kid(
    pictures: Tensor,
    reference: Tensor,
    *,
    groups: Tensor | None = None,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Kernel distance of `pictures` (N, D) from `reference` (M, D), with a percentile bootstrap interval.

    The unbiased estimate of the squared maximum mean discrepancy under the kernel (x . y / D + 1)^3 (Binkowski et al.,
    arXiv 1801.01401, section 4), over all pairs instead of random subsets: its expectation is the same for any N and M,
    0 for two samples of one distribution, so it can be slightly negative.

    `groups` (N,) says which pictures belong together (the seeds of one drawing): they are drawn together, and pairs
    within one group are left out as those of a picture with itself are. A picture drawn twice makes no pair with
    itself: such pairs would lift every sample above the estimate.
    Raises `UsageError` for features of different D or not finite, and for fewer than two pictures or groups.
    """
    estimate, drawn = kid_samples(pictures, reference, groups=groups, level=level, samples=samples, seed=seed)
    return percentiles(estimate, drawn, level=level)


def kid_difference(
    pictures: Tensor,
    others: Tensor,
    reference: Tensor,
    *,
    groups: Tensor | None = None,
    other_groups: Tensor | None = None,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """`kid` of `pictures` (N, D) less that of `others` (L, D), with a percentile bootstrap interval.

    Below 0 `pictures` are nearer to the reference. The groups with equal numbers belong together (what two methods made
    of one drawing): they, and the reference, are drawn together for both. Errors as for `kid`, and `UsageError` where
    one of the two has groups that the other one lacks.
    """
    numbers = [
        (torch.arange(len(one)) if own is None else own.cpu()).unique()
        for one, own in ((pictures, groups), (others, other_groups))
    ]
    if not torch.equal(*numbers):
        raise UsageError("Both must have pictures of the same groups.", field="other_groups")
    first, second = (
        kid_samples(one, reference, groups=own, level=level, samples=samples, seed=seed)
        for one, own in ((pictures, groups), (others, other_groups))
    )
    return percentiles(first[0] - second[0], first[1] - second[1], level=level)


def kid_samples(
    pictures: Tensor, reference: Tensor, *, groups: Tensor | None, level: float, samples: int, seed: int
) -> tuple[float, Tensor]:
    """The estimate, and that of each bootstrap sample (S,); the same draws for as many groups and the same seed."""
    pictures, reference = check_features(pictures, reference)
    members = membership(groups, len(pictures))
    check_bootstrap(level=level, samples=samples)

    def between(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    # Only the sums over groups matter, whatever the weights.
    sizes = members.sum(dim=1)
    own = (members @ between(pictures, pictures) @ members.T).fill_diagonal_(0)
    true = between(reference, reference).fill_diagonal_(0)
    cross = members @ between(pictures, reference)

    def distance(w: Tensor, v: Tensor) -> Tensor:
        """The estimates (S,) for S rows of multiplicities of the groups and of the reference."""
        drawn, drawn_true = w @ sizes, v.sum(dim=1)
        own_pairs, true_pairs = drawn**2 - w**2 @ sizes**2, drawn_true**2 - (v**2).sum(dim=1)
        inside = form(w, own, w) / own_pairs + form(v, true, v) / true_pairs
        return inside - 2 * form(w, cross, v) / (drawn * drawn_true)

    estimate = distance(torch.ones(1, len(members)).double(), torch.ones(1, len(reference)).double())
    generator = Generator().manual_seed(seed)
    drawn = distance(
        multiplicities(len(members), samples, generator), multiplicities(len(reference), samples, generator)
    )
    return float(estimate), drawn


def fid(
    pictures: Tensor,
    reference: Tensor,
    *,
    groups: Tensor | None = None,
    level: float = 0.95,
    samples: int = 50,
    seed: int = 0,
) -> Interval:
    """Frechet distance between normal distributions fitted to `pictures` (N, D) and `reference` (M, D); >= 0.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al., arXiv 1706.08500, equation 6). It is too high by an
    amount that falls with N and M: compare only sets of equal sizes, and trust `kid` below some thousand pictures. A
    bootstrap sample is too high again, so the interval is the estimate plus and minus the normal quantile times the
    standard deviation of the samples. `groups` and errors as for `kid`.
    """
    pictures, reference = check_features(pictures, reference)
    members = membership(groups, len(pictures))
    check_bootstrap(level=level, samples=samples)
    estimate = frechet(pictures, reference)
    generator = Generator().manual_seed(seed)
    drawn = [
        frechet(repeated(pictures, w @ members), repeated(reference, v))
        for w, v in zip(
            multiplicities(len(members), samples, generator),
            multiplicities(len(reference), samples, generator),
            strict=True,
        )
    ]
    half = NormalDist().inv_cdf((1 + level) / 2) * float(torch.tensor(drawn).double().std(correction=0))
    return Interval(estimate=estimate, low=max(estimate - half, 0.0), high=estimate + half)


def frechet(first: Tensor, second: Tensor) -> float:
    means = first.mean(dim=0), second.mean(dim=0)
    roots: list[Tensor] = []
    for features, mean in zip((first, second), means, strict=True):
        # R of X = QR has the covariance of X and at most D rows.
        roots.append(torch.linalg.qr((features - mean) / max(len(features) - 1, 1) ** 0.5, mode="r").R)
    # With C1 = A^T A and C2 = B^T B the trace of (C1 C2)^(1/2) is the sum of the singular values of A B^T.
    shared = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = roots[0].square().sum() + roots[1].square().sum()
    return max(float((means[0] - means[1]).square().sum() + spread - 2 * shared), 0.0)


def check_features(pictures: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both in double precision on the CPU."""
    for name, features in (("pictures", pictures), ("reference", reference)):
        if features.ndim != 2 or len(features) < 2 or features.shape[1:] != pictures.shape[1:]:
            raise UsageError(
                f"Features {tuple(pictures.shape)} of pictures and {tuple(reference.shape)} of the reference were "
                "given; (N, D) and (M, D) with N, M >= 2 are needed.",
                field=name,
            )
        if not features.isfinite().all():
            raise UsageError(f"Some features of `{name}` are not finite.", hint="Leave failed ones out.", field=name)
    return pictures.detach().cpu().double(), reference.detach().cpu().double()


def membership(groups: Tensor | None, count: int) -> Tensor:
    """One row per group, one column per picture, (G, N): 1 where the picture belongs to the group."""
    groups = torch.arange(count) if groups is None else groups.cpu()
    if groups.shape != (count,):
        raise UsageError(f"Groups of shape {tuple(groups.shape)} were given for {count} pictures.", field="groups")
    numbers = groups.unique(return_inverse=True)[1]
    members = F.one_hot(numbers).T.double()
    if len(members) < 2:
        raise UsageError("All pictures are of one group; two groups are the least.", field="groups")
    return members


def multiplicities(count: int, samples: int, generator: Generator) -> Tensor:
    """How often each of `count` items is in each of the samples drawn with replacement, (samples, count), double."""
    drawn = torch.randint(count, (samples, count), generator=generator)
    return torch.zeros(samples, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())


def repeated(features: Tensor, times: Tensor) -> Tensor:
    return features.repeat_interleave(times.long(), dim=0)


def form(left: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    """Row by row, left_s^T matrix right_s: (S,)."""
    return ((left @ matrix) * right).sum(dim=1)
