from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sketchguide.evaluation.benchmark import Result
from sketchguide.evaluation.metrics import Interval
from sketchguide.evaluation.summary import Summary, failures, ods, paired, shown


def result(method: str, drawing: str, seed: int, f1: float, *, error: str = "", **more: Any) -> Result:
    figures = {} if error else {"f1": f1, "chamfer": 0.1, "right": float(f1 > 0.5), "seconds": 1.0, **more}
    return Result(method=method, set="s", drawing=drawing, prompt="a", seed=seed, error=error, **figures)


@pytest.fixture
def uneven() -> Summary:
    """Two methods that do exactly alike, but one has failed at the easier seed of two of three drawings."""
    results: list[Result] = []
    for number, drawing in enumerate("abc"):
        for seed, f1 in ((number, 0.2), (10 + number, 0.8)):
            failed = f1 == 0.8 and drawing != "c"
            results.append(result("text", drawing, seed, f1))
            results.append(result("lgp", drawing, seed, f1, error="out of memory" if failed else ""))
    judges = SimpleNamespace(features=None, reference=None)
    bench: Any = SimpleNamespace(labels=lambda: [("text", "s"), ("lgp", "s")], floor="text", judges=judges)
    return Summary(bench, results)


def test_methods_are_compared_on_the_seeds_that_both_have(uneven: Summary) -> None:
    (beside,) = uneven.comparisons("lgp")
    assert beside.drawings == 3
    assert (beside.f1.low, beside.f1.estimate, beside.f1.high) == (0, 0, 0)
    assert beside.right is not None
    assert (beside.right.low, beside.right.high) == (0, 0)


def test_a_row_is_a_multiple_of_the_floor_at_the_same_seeds(uneven: Summary) -> None:
    _, row = uneven.rows()
    assert row.failed == 2
    assert row.ratio is not None
    assert (row.ratio.low, row.ratio.high) == (1, 1)
    assert row.more_right is not None
    assert (row.more_right.low, row.more_right.high) == (0, 0)
    assert row.f1 is not None
    assert row.f1.estimate == pytest.approx((0.2 + 0.2 + 0.5) / 3)  # its own, all that it made


def test_times_compare_where_the_floor_has_failed() -> None:
    results = [result("text", "a", 1, 0.5), result("text", "b", 2, 0.5, error="x")]
    results += [result("lgp", "a", 1, 0.5, seconds=1.5), result("lgp", "b", 2, 0.5, seconds=9.0)]
    judges = SimpleNamespace(features=None, reference=None)
    bench: Any = SimpleNamespace(labels=lambda: [("text", "s"), ("lgp", "s")], floor="text", judges=judges)
    assert Summary(bench, results).rows()[1].seconds == 1.5


def test_nothing_is_shown_as_less_than_nothing() -> None:
    assert shown(Interval(estimate=-0.0004, low=-0.0316, high=-0.0001), 3) == "0.000 (-0.032 to 0.000)"
    assert shown(Interval(estimate=0.25, low=-0.0001, high=0.5), 2) == "0.25 (0.00–0.50)"
    assert shown(Interval(estimate=-0.25), 2) == "-0.25"


def test_ods_needs_the_counts_of_every_picture() -> None:
    """One of two lines right at the lower threshold, at the upper one nothing else found."""
    one = result("lgp", "a", 1, 0.5, counts=[[1, 2, 1, 1], [1, 1, 1, 1]])
    other = result("lgp", "b", 1, 0.5, counts=[[1, 2, 1, 1], [0, 0, 0, 1]])
    assert ods([one]) == 1
    assert ods([one, other]) == pytest.approx(2 / 3)  # precision 1/2, recall 1; above, 1 and 1/2
    assert ods([one, replace(other, counts=[])]) is None


def test_pairs_are_in_one_order() -> None:
    ours = [result("a", "x", 1, 0.1), result("a", "y", 2, 0.2), result("a", "x", 3, 0.3)]
    others = [result("b", "x", 3, 0.6), result("b", "x", 1, 0.4), result("b", "z", 2, 0.5)]
    left, right = paired(ours, others)
    assert [(r.drawing, r.seed) for r in left] == [(r.drawing, r.seed) for r in right] == [("x", 1), ("x", 3)]
    assert [r.f1 for r in right] == [0.4, 0.6]


def test_failures_are_told_once_for_each_reason() -> None:
    results = [result("lgp", drawing, seed, 0.5, error="too much") for seed in (1, 2) for drawing in "ab"]
    results += [result("lgp", "c", 1, 0.5, error="too little"), result("text", "a", 1, 0.5)]
    results += [replace(result("lgp", "a", 1, 0.5, error="too much"), set="t")]
    assert failures(results) == [
        "lgp failed on 2 drawings of s (the first: a): too much",
        "lgp failed on c of s: too little",
        "lgp failed on a of t: too much",
    ]


def test_a_single_drawing_is_shown_without_an_interval(uneven: Summary) -> None:
    (row, *_) = Summary(uneven.benchmark, [r for r in uneven.results if r.drawing == "a"]).rows()
    assert row.f1 == Interval(estimate=pytest.approx(0.5))
    assert shown(row.f1, 3) == "0.500"
    assert shown(Interval(estimate=0.5, low=0.4, high=0.6), 1) == "0.5 (0.4–0.6)"
