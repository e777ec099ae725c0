from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from sketchguide.evaluation.benchmark import Result
from sketchguide.evaluation.costs import Cost, LiveBytes, cost_table, costs
from sketchguide.methods import Batch, Built, Trained
from sketchguide.sampling import Moment


def test_only_what_lives_at_once_counts():
    outside = torch.zeros(1000)
    with LiveBytes() as counter:
        for _ in range(5):
            once = outside + 1  # 4000 bytes, dropped when the next one is there
            del once
        assert counter.peak == 4000
        kept = [outside * 2 for _ in range(3)]
    assert counter.peak == 12_000
    assert len(kept) == 3


def test_views_parameters_and_changes_in_place_cost_nothing():
    layer = nn.Linear(100, 100)
    with LiveBytes() as counter, torch.no_grad():
        value = layer(torch.ones(1, 100))
        value.add_(1).view(10, 10).t()
    assert counter.peak == 800  # the ones and the result


def test_a_graph_is_kept_alive_and_counts():
    start = torch.zeros(1000, requires_grad=True)

    def peak(*, graph: bool) -> int:
        with LiveBytes() as counter, torch.set_grad_enabled(graph):
            value = start
            for _ in range(10):
                value = value.exp()
        return counter.peak

    assert peak(graph=False) == 8000
    assert peak(graph=True) == 40_000


def nothing(batch: Batch) -> Iterator[Moment]:
    raise AssertionError(batch)


def test_costs_are_ratios_to_the_floor():
    def results(method: str, seconds: float) -> list[Result]:
        facts: dict[str, Any] = {"set": "s", "prompt": "", "seed": 1, "seconds": seconds}
        return [Result(method=method, drawing=name, **facts) for name in "ab"]

    network = nn.Linear(3, 4)
    built = {
        "text": Built(nothing),
        "told": Built(nothing, (Trained(network, {"training_images": 300, "seconds": 61.5}),)),
    }
    text, told = costs(built, [*results("text", 2), *results("told", 3)], {"text": 100, "told": 150}, floor="text")
    assert text == Cost(method="text", parameters=0, seconds=1, memory=1)
    assert told == Cost(method="told", parameters=16, images=300, training_seconds=61.5, seconds=1.5, memory=1.5)
    assert cost_table([text, told]).splitlines()[-1] == "| told | 16 | 300 | 62 | 1.50 | 1.50 |"
    (alone,) = costs({"told": built["told"]}, results("told", 3), {"told": 150}, floor=None)
    assert alone.seconds is None
    assert alone.memory is None


def test_a_method_costs_what_all_its_networks_cost():
    sketcher = Trained(nn.Linear(3, 4), {"training_images": 300, "seconds": 60.0})
    classifier = Trained(nn.Linear(1, 2), {"training_images": 50, "seconds": 1.5})
    (both,) = costs({"m": Built(nothing, (sketcher, classifier))}, [], {}, floor=None)
    assert (both.parameters, both.images, both.training_seconds) == (20, 350, 61.5)
    unknown = Trained(classifier.network, {})
    (partly,) = costs({"m": Built(nothing, (sketcher, unknown))}, [], {}, floor=None)
    assert (partly.parameters, partly.images, partly.training_seconds) == (20, None, None)


def test_the_figures_of_a_network_never_run_are_dashes():
    row = Cost(method="text", parameters=0)
    assert cost_table([row]).splitlines()[-1] == "| text | – | – | – | – | – |"


def test_it_leaves_no_mode_behind():
    with pytest.raises(ZeroDivisionError), LiveBytes():
        raise ZeroDivisionError
    with LiveBytes() as counter:
        pass
    torch.zeros(10)
    assert counter.peak == 0
