from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sketchguide.backbones.unet import UNetBackbone
from sketchguide.controls.features import NegativePrompt, PlugAndPlay
from sketchguide.defaults import NEGATIVE_TIME, Decay
from sketchguide.inversion import Noised
from sketchguide.levels import Level
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Layout, LayoutSettings, Request
from sketchguide.sampling import Moment, sample
from sketchguide.seeds import generators, noise
from sketchguide.sources import SOURCE_SEED, Borrowed, borrow
from sketchguide.walking import first_latent, has_negative_pass, starts_from_source, walk, walk_from
from support import SIZE, Tiny, draw, pixels, returned


def asked(**settings: Any) -> Request:
    return Request.checked(**{"prompt": "a cat", "seed": 7, "steps": 2, "size": SIZE, **settings})


def walked(request: Request, backbone: UNetBackbone, **settings: Any) -> Moment:
    *_, last = walk(request, backbone, prompts=["a cat"], seeds=[7], **settings)
    return last


def sampled(request: Request, backbone: UNetBackbone, levels: Sequence[Level], **settings: Any) -> Moment:
    """What `walked` comes to without a word of `request` but its scale, and the noise that it begins with."""
    each, told = generators([7]), backbone.describe(["a cat"])
    latent = first_latent(request, backbone, each)
    *_, last = sample(backbone, told, latent, levels, scale=request.scale, generators=each, **settings)
    return last


def clean() -> Tensor:
    return noise(generators([9]), (4, 16, 16))


def noised(request: Request, backbone: UNetBackbone, **settings: Any) -> Borrowed:
    """The layout of `clean`."""
    return returned(borrow(LayoutSettings.checked(source="noised", **settings), request, backbone, clean()))


def test_a_walk_is_that_of_sample_with_the_settings_of_the_request(tiny: Tiny) -> None:
    backbone, request = tiny(), asked(negative="a dog", scale=3, solver="euler-ancestral")
    plain = sampled(
        request,
        backbone,
        backbone.levels(2, "euler-ancestral", SIZE),
        negative=backbone.describe(["a dog"]),
        solver=backbone.solvers["euler-ancestral"].solver,
    )
    assert torch.equal(walked(request, backbone).latent, plain.latent)


def test_a_walk_borrows_what_its_layout_says_and_for_as_long(tiny: Tiny) -> None:
    backbone, request = tiny(), asked(steps=4, scale=3)
    borrowing = {"source_prompt": "a ball", "share": 0.5, "branches": "conditional"}
    layout = noised(request, backbone, tau_f=0.25, tau_a=0.75, **borrowing)
    ours = walked(request, backbone, source=layout)
    assert layout.evaluations.source == 3
    by_hand = PlugAndPlay(
        backbone,
        Noised(clean(), generators([SOURCE_SEED])),
        backbone.describe(["a ball"]),
        features_until=0.25,
        attention_until=0.75,
        strength=0.5,
        branches="conditional",
    )
    negative = backbone.describe([""])
    same = sampled(request, backbone, backbone.levels(4), negative=negative, injections=[by_hand])
    assert torch.equal(ours.latent, same.latent)


@pytest.mark.parametrize("decay", ["linear", "constant"])
def test_a_walk_moves_away_from_the_sources_prompt_as_its_layout_says(tiny: Tiny, decay: Decay) -> None:
    backbone, request = tiny(), asked(negative="a dog", scale=3)
    layout = noised(request, backbone, share=0, source_prompt="a ball", alpha=0.75, decay=decay)
    away = NegativePrompt(backbone.describe(["a dog"]), backbone.describe(["a ball"]), alpha=0.75, decay=decay)
    same = sampled(request, backbone, backbone.levels(2), negative=away)
    assert torch.equal(walked(request, backbone, source=layout).latent, same.latent)


def test_a_layout_says_how_often_steps_are_taken_again(tiny: Tiny) -> None:
    """Of four, the second."""
    backbone, request = tiny(), asked(steps=4, scale=1)
    layout = noised(request, backbone, share=0, recurrence=3)
    assert walked(request, backbone, source=layout).evaluations.conditional == 4 + 3


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
