"""Fine-tuning of transformers that walk by flow: Stable Diffusion 3 and Flux."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sketchguide.backbones.pipeline import PipelineBackbone
from sketchguide.backbones.tiny import tiny_flux, tiny_stable_diffusion_3
from sketchguide.classifiers import IconClassifier
from sketchguide.loading import from_pipe, load_backbone
from sketchguide.lora import load_lora
from sketchguide.perception import Features
from sketchguide.seeds import seeded
from sketchguide.sketchers import Sketcher, SketcherConfig
from sketchguide.training.finetune import FineTuneRun, FineTuning, Judges, tunable

SIDE = 32
Make = Callable[[], Any]


@pytest.fixture(params=[tiny_stable_diffusion_3, tiny_flux], ids=["sd3", "flux"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


def loaded(make: Make) -> PipelineBackbone:
    return tunable(from_pipe(make(), name="tiny"))


def tune(backbone: PipelineBackbone, **values: Any) -> FineTuneRun:
    with seeded(1):
        sketcher = Sketcher(SketcherConfig(width=8, blocks=1)).eval().requires_grad_(False)
        first, second = (Features(IconClassifier(("a", "b"), size=SIDE, channels=(8, 16))) for _ in range(2))
        photo = torch.rand(1, 3, SIDE, SIDE) * 2 - 1
    drawing = torch.zeros(1, 1, SIDE, SIDE)
    drawing[..., 6, 4:28] = 1
    given: dict[str, Any] = {"steps": 3, "levels": 3, "rank": 2, "refine": 1, "rate": 1e-2, "unseen": 1, **values}
    return FineTuneRun(backbone, photo, drawing, Judges(sketcher, first, second), FineTuning(**given), prompt="a cat")


@pytest.mark.parametrize("gradient", ["chain", "last", "step"])
def test_the_weights_move_and_the_network_can_be_had_back(make: Make, gradient: str) -> None:
    backbone = loaded(make)
    frozen = {name: p.clone() for name, p in backbone.network.named_parameters()}
    run = tune(backbone, gradient=gradient, last=1)
    before = [p.detach().clone() for p in run.trained]
    assert all(step.loss > 0 for step in run)
    moved = [not torch.equal(p, old) for p, old in zip(run.trained, before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    assert run.skipped == 0
    run.remove()
    now = dict(backbone.network.named_parameters())
    assert now.keys() == frozen.keys()
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_the_walk_begins_where_there_is_a_signal(make: Make) -> None:
    backbone = loaded(make)
    run = tune(backbone, levels=4)
    assert backbone.default_size != (SIDE, SIDE)  # by which some models shift their levels
    assert run.levels == backbone.levels(4, "ddim", (SIDE, SIDE))[1:]
    assert run.levels[0].alpha > 0


@pytest.mark.parametrize("shift", [1.18, 2.0, 3.0])
def test_a_level_that_is_noise_up_to_rounding_is_none_to_begin_with(shift: float) -> None:
    pipeline = tiny_stable_diffusion_3(shift=shift)
    run = tune(tunable(from_pipe(pipeline, name="tiny")), levels=4)
    assert run.levels[0].alpha > 0.01


def test_the_lora_goes_on_the_pipeline_in_diffusers_and_here(make: Make, tmp_path: Path) -> None:
    backbone = loaded(make)
    run = tune(backbone, rate=0.1)
    list(run)
    run.save(tmp_path)
    latent = torch.randn(1, backbone.latent_channels, 16, 16, generator=torch.Generator().manual_seed(1))

    def seen(by: PipelineBackbone) -> torch.Tensor:
        with torch.no_grad():
            return by.predict(latent, by.level(0.5), by.describe(["a cat"])).noise

    with run.averaged():
        tuned = seen(backbone)
    plain = loaded(make)
    base = seen(plain)
    assert float((tuned - base).norm()) > 1e-3 * float(base.norm())
    plain.pipeline.load_lora_weights(str(tmp_path))  # diffusers alone
    torch.testing.assert_close(seen(plain), tuned, rtol=1e-4, atol=1e-4)
    again = loaded(make)
    load_lora(tmp_path, again, scale=1.0)
    torch.testing.assert_close(seen(again), tuned, rtol=1e-4, atol=1e-4)


def test_pictures_of_new_seeds_are_drawn(make: Make) -> None:
    run = tune(loaded(make), steps=1)
    list(run)
    made = run.pictures([5, 6], scale=2.0, steps=2)
    assert made.shape[:2] == (2, 3)
    assert made.isfinite().all()


def test_every_weight_can_be_tuned(make: Make, tmp_path: Path) -> None:
    run = tune(loaded(make), full=True, rate=1e-3, steps=2)
    frozen = [p.clone() for p in loaded(make).network.parameters()]
    list(run)
    run.save(tmp_path)
    saved = load_backbone(tmp_path / "model", device="cpu")
    with run.averaged():
        assert all(
            torch.equal(p, now)
            for p, now in zip(saved.network.parameters(), run.backbone.network.parameters(), strict=True)
        )
    moved = [not torch.equal(p, old) for p, old in zip(saved.network.parameters(), frozen, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
