from typing import Any

import numpy as np
import pytest
import torch

from sketchguide.defaults import NEGATIVE_TIME
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Layout, Request
from sketchguide.sampling import sample
from sketchguide.seeds import generators
from sketchguide.walking import first_latent, has_negative_pass, starts_from_source, walk, walk_from
from support import SIZE, Tiny, draw, pixels


def asked(**settings: Any) -> Request:
    return Request.checked(**{"prompt": "a cat", "seed": 7, "steps": 2, "size": SIZE, **settings})


def test_a_walk_is_that_of_sample_with_the_settings_of_the_request(tiny: Tiny) -> None:
    backbone, request = tiny(), asked(negative="a dog", scale=3, solver="euler-ancestral")
    *_, ours = walk(request, backbone, prompts=["a cat"], seeds=[7])
    each = generators([7])
    *_, plain = sample(
        backbone,
        backbone.describe(["a cat"]),
        first_latent(request, backbone, each),
        backbone.levels(2, "euler-ancestral", SIZE),
        negative=backbone.describe(["a dog"]),
        scale=3,
        solver=backbone.solvers["euler-ancestral"].solver,
        generators=each,
    )
    assert torch.equal(ours.latent, plain.latent)


def test_a_walk_from_the_noise_of_seeds_is_the_walk_of_these_seeds(tiny: Tiny) -> None:
    backbone, request = tiny(), asked(scale=3)
    *_, ours = walk(request, backbone, prompts=["a cat", "a cat"], seeds=[5, 6])
    *_, same = walk_from(request, backbone, first_latent(request, backbone, generators([5, 6])))
    assert torch.equal(ours.latent, same.latent)


def test_there_is_a_negative_pass_unless_the_scale_is_one(tiny: Tiny) -> None:
    assert has_negative_pass(asked(scale=3), tiny())
    assert not has_negative_pass(asked(scale=1), tiny())


@pytest.mark.parametrize(
    ("settings", "starts"),
    [({}, True), ({"start": "noise"}, False), ({"source": "noised"}, False), ({"recurrence": 1}, False)],
    ids=str,
)
def test_layouts_that_begin_with_the_noise_of_their_source(settings: dict[str, Any], starts: bool) -> None:
    assert starts_from_source(asked(layout=Layout.checked(picture="", **settings))) is starts
    assert not starts_from_source(asked())


def test_the_negative_pass_is_told_of_more_noise_where_a_predictor_reads_the_drawing(
    tiny: Tiny, predictor: LatentPredictor
) -> None:
    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        (first,), (second,) = draw(tiny, predictor, **one), draw(tiny, predictor, **other)
        return np.array_equal(pixels(first.image), pixels(second.image))

    told = {"negative_time": NEGATIVE_TIME.default}
    assert same({}, told)
    assert not same({}, {"negative_time": 0})
    assert same({"sketch": None}, {"sketch": None, "negative_time": 0})
    assert not same({"sketch": None}, {"sketch": None, **told})
