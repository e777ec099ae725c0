"""The laws of the core (tests/test_laws.py has them for UNets) for transformers that walk by flow."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sketchguide.backbones.tiny import tiny_flux, tiny_stable_diffusion_3
from sketchguide.controls.base import Step
from sketchguide.controls.strengths import Proportional, Score
from sketchguide.errors import TapError
from sketchguide.loading import from_pipe
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from support import Pull, Rewriting, hook_count, relative, shallow

STEPS = 3


@pytest.fixture(scope="module", params=[tiny_stable_diffusion_3, tiny_flux], ids=["sd3", "flux"])
def backbone(request: pytest.FixtureRequest) -> Any:
    return from_pipe(shallow(request.param()), name="flowing")


@pytest.fixture(scope="module")
def query(backbone: Any) -> str:
    """Queries of the pictures in a block where texts go through beside them."""
    path = "transformer_blocks.1.attn.to_q"
    assert path in {tap.path for tap in backbone.taps}
    return path


def towards_nothing(step: Step) -> Tensor:
    return step.prediction.clean.square().flatten(1).mean(dim=1)


def walk(backbone: Any, *, seeds: Sequence[int] = (3, 4), **controls: Any) -> Tensor:
    prompts = ["a cat" if seed == 3 else "two dogs" for seed in seeds]
    told, against = backbone.describe(prompts), backbone.describe(["a bird"] * len(seeds))
    begin = noise(generators(seeds), (backbone.latent_channels, 8, 12))
    *_, last = sample(backbone, told, begin, backbone.levels(STEPS), negative=against, scale=4.0, **controls)
    return last.latent


def test_law_02_controls_that_do_nothing_change_no_bit(backbone: Any, query: str) -> None:
    plain = walk(backbone)
    identity = Rewriting({query: lambda value: value, "transformer_blocks.0": lambda value: value})
    closed = Rewriting({query: lambda value: 2 * value}, window=(0.5, 0.5))
    guides = [Pull(towards_nothing, window=(0.5, 0.5)), Pull(towards_nothing, strength=Proportional(0.0))]
    assert torch.equal(walk(backbone, injections=[identity, closed], guides=guides), plain)
    turned = Rewriting({query: lambda value: -value})  # Flux norms its queries
    assert relative(walk(backbone, injections=[turned]), plain) > 1e-4
    assert relative(walk(backbone, guides=[Pull(towards_nothing)]), plain) > 1e-3


def test_law_03_guides_commute(backbone: Any, query: str) -> None:
    guides = [
        Pull(towards_nothing),
        Pull(lambda step: step.features[query].square().flatten(1).mean(dim=1), reads=[query], strength=Score(3.0)),
        Pull(lambda step: step.latent.square().flatten(1).mean(dim=1), window=(0.0, 0.5)),
    ]
    one = walk(backbone, guides=guides)
    assert relative(walk(backbone, guides=[guides[2], guides[0], guides[1]]), one) < 1e-5
    assert relative(walk(backbone, guides=guides[:1]), one) > 1e-3


def test_law_04_a_batch_of_two_is_two_batches_of_one(backbone: Any) -> None:
    first, second = (walk(backbone, seeds=[seed], guides=[Pull(towards_nothing)]) for seed in (3, 4))
    assert relative(walk(backbone, guides=[Pull(towards_nothing)]), torch.cat([first, second])) < 1e-3
    assert relative(first, second) > 0.1


def test_law_05_network_calls_do_not_grow_with_guides(backbone: Any) -> None:
    graphs: list[bool] = []
    handle = backbone.network.register_forward_hook(lambda *given: graphs.append(given[-1][0].grad_fn is not None))
    with handle:
        walk(backbone, guides=[Pull(towards_nothing, window=(0.0, stop)) for stop in (0.3, 0.6)])
    told = 1 if backbone.distilled else 2  # passes of a step
    assert graphs == [True, *[False] * (told - 1)] * 2 + [False] * told


@pytest.mark.parametrize("where", ["loss", "rewrite"])
def test_law_06_nothing_survives_a_failure(backbone: Any, query: str, where: str) -> None:
    def fail(_: object) -> Tensor:
        raise ZeroDivisionError

    guides, injections = [Pull(fail, reads=[query])], [Rewriting({query: fail})]
    controls = {"loss": {"guides": guides}, "rewrite": {"injections": injections}}
    with pytest.raises(ZeroDivisionError):
        walk(backbone, **controls[where])
    assert torch.is_grad_enabled()
    assert hook_count(backbone.network) == 0
    assert all(not p.requires_grad and p.grad is None for p in backbone.network.parameters())


@pytest.mark.parametrize("role", ["reads", "rewrites"])
def test_law_07_unknown_taps_raise_naming_the_path(backbone: Any, role: str) -> None:
    path = "transformer_blocks.99.attn"
    controls = {
        "reads": {"guides": [Pull(towards_nothing, reads=[path])]},
        "rewrites": {"injections": [Rewriting({path: lambda value: value})]},
    }
    with pytest.raises(TapError, match=r"transformer_blocks\.99\.attn"):
        walk(backbone, **controls[role])
