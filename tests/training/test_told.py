"""Training what tells a frozen network of a map, with sketch attention."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from torch import Generator, Tensor

from sketchguide.backbones.base import Condition
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.errors import TrainingError, UsageError
from sketchguide.extractors import EXTRACTORS
from sketchguide.training.checkpoints import Checkpoints
from sketchguide.training.data import Pictures, find_examples
from sketchguide.training.told import ToldRun, ToldTraining, begin_sketch_attention
from support import Tiny, gone_on, small_stable_diffusion


def make_run(backbone: UNetBackbone, boxes: Path, **settings: Any) -> ToldRun:
    values: dict[str, Any] = {"rate": 3e-3, "drop": 0.5, "steps": 2, "batch": 2, "warmup": 1} | settings
    pictures = Pictures(find_examples(boxes), size=(32, 32))
    told = begin_sketch_attention(backbone, seed=0)
    return ToldRun(told, pictures, EXTRACTORS["edges"], ToldTraining(**values))


def test_training_helps_and_leaves_the_model_alone(tiny: Tiny, boxes: Path) -> None:
    backbone = tiny(prediction_type="v_prediction")
    run = make_run(backbone, boxes, steps=8, rate=1e-2)
    before = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    scored = run.pictures.fixed(2)
    assert run.score(*scored) == 1.0  # it begins by adding nothing
    assert [step.step for step in run] == list(range(1, 9))
    helped = run.score(*scored)
    assert helped < 1 - 5e-4
    assert run.score(*scored) == helped
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.network.state_dict().items())
    moved = {name for name, p in run.module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {name for name, _ in run.module.named_parameters()}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_error_is_that_of_the_models_own_objective(
    tiny: Tiny, boxes: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    backbone = tiny(prediction_type=kind)
    run = make_run(backbone, boxes)
    clean = torch.randn(2, 4, 16, 16, generator=Generator().manual_seed(7))
    levels = [backbone.level(0.3), backbone.level(0.7)]
    offsets = (0.5, 2.0)

    def off_by_these(latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        assert times.tolist() == [level.time for level in levels]
        assert len(condition.embedding) == 2
        rows: list[Tensor] = []
        for seen, wanted, level, offset in zip(latent, clean, levels, offsets, strict=True):
            noise = (seen - level.alpha * wanted) / level.sigma
            assert float(noise.std()) == pytest.approx(1, abs=0.1)
            velocity = level.alpha * noise - level.sigma * wanted
            rows.append({"epsilon": noise, "v_prediction": velocity, "sample": wanted}[kind] + offset)
        return torch.stack(rows)

    monkeypatch.setattr(backbone, "run", off_by_these)
    errors = run._error(None, clean, ["a", "b"], levels, Generator().manual_seed(3))
    assert errors.tolist() == pytest.approx([0.25, 4.0], rel=1e-4)


@pytest.mark.parametrize(("cubic", "drop"), [(False, 0.5), (True, 0.0), (True, 1.0)])
def test_the_levels_and_captions_that_the_network_is_asked_at(
    tiny: Tiny, boxes: Path, monkeypatch: pytest.MonkeyPatch, cubic: bool, drop: float
) -> None:
    backbone = tiny()
    run = make_run(backbone, boxes, batch=400, cubic=cubic, drop=drop)
    asked: list[Tensor] = []
    captions: list[str] = []
    describe = backbone.describe

    def noted(prompts: list[str]) -> Condition:
        captions.extend(prompts)
        return describe(prompts[:1])

    monkeypatch.setattr(run, "_image", lambda _: None)
    monkeypatch.setattr(backbone, "describe", noted)
    monkeypatch.setattr(backbone, "run", lambda latent, times, _: asked.append(times) or torch.zeros_like(latent))
    run.loss()
    (times,) = asked
    progress = 1 - times / 999
    assert float(progress.mean()) == pytest.approx(0.25 if cubic else 0.5, abs=0.06)
    assert float((progress < 1 / 8).float().mean()) == pytest.approx(0.5 if cubic else 0.125, abs=0.1)
    assert float(progress.max()) > 0.9
    assert len(captions) == 400
    assert set(captions) <= {"", "a box"}
    assert captions.count("") == pytest.approx(400 * drop, abs=50 if 0 < drop < 1 else 0)


def test_the_control_is_shown_the_lines_of_the_pictures(
    tiny: Tiny, boxes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tiny(), boxes)
    images, captions = run.pictures.fixed(2)
    shown: list[Tensor] = []
    encode = run.module.encode
    monkeypatch.setattr(run.module, "encode", lambda image: shown.append(image) or encode(image))
    run.score(images, captions)
    (lines,) = shown
    assert torch.equal(lines, EXTRACTORS["edges"](images))
    assert 0.02 < float(lines.mean()) < 0.3  # of a box, ink 1


@pytest.mark.parametrize("bf16", [False, True])
def test_bfloat16_is_for_the_pass_alone(tiny: Tiny, boxes: Path, bf16: bool) -> None:
    backbone = tiny()
    run = make_run(backbone, boxes, steps=1, bf16=bf16)
    seen: set[torch.dtype] = set()
    hook = backbone.network.get_submodule("conv_in").register_forward_hook(lambda *given: seen.add(given[2].dtype))
    list(run)
    hook.remove()
    assert seen == {torch.bfloat16 if bf16 else torch.float32}
    assert {p.dtype for p in run.module.parameters()} == {torch.float32}


def test_a_resumed_run_goes_on_to_the_bit(tiny: Tiny, boxes: Path, tmp_path: Path) -> None:
    whole = make_run(tiny(), boxes)
    losses = [step.loss for step in whole]
    half = make_run(tiny(), boxes)
    next(iter(half))
    Checkpoints(tmp_path).save(half.step, half.state(), {})
    rest = gone_on(make_run(tiny(), boxes), Checkpoints(tmp_path))
    assert [step.loss for step in rest] == losses[1:]
    assert all(torch.equal(a, b) for a, b in zip(whole.module.parameters(), rest.module.parameters(), strict=True))


def test_the_rate_rises_and_falls(tiny: Tiny, boxes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tiny(), boxes, steps=20, warmup=2, rate=1.0)
    monkeypatch.setattr(run, "_error", lambda *_: sum(p.sum() for p in run.module.parameters()) * 0)
    rates = [run.optimizer.param_groups[0]["lr"] for _ in run]
    cosine = [0.5 * (1 + math.cos(math.pi * i / 20)) for i in range(20)]
    assert rates == pytest.approx([0.5, *cosine[1:]], abs=1e-4)
    short = make_run(tiny(), boxes, steps=5, warmup=100, rate=1.0)
    assert short.rate() == 1.0  # a short run has no time to warm up


def test_steps_that_are_not_finite_change_nothing(tiny: Tiny, boxes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tiny(), boxes, steps=100)
    before = [p.detach().clone() for p in run.module.parameters()]
    monkeypatch.setattr(run, "_error", lambda *_: sum(p.sum() for p in run.module.parameters()) * float("nan"))
    with pytest.raises(TrainingError, match="not finite for 20 steps"):
        list(run)
    assert all(torch.equal(p, old) for p, old in zip(run.module.parameters(), before, strict=True))


@pytest.mark.parametrize(("name", "value"), [("rate", 0.0), ("steps", 0), ("batch", -1), ("drop", 1.5)])
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is"):
        ToldTraining(**{name: value})


@pytest.mark.parametrize("part", ["network", "control"])
def test_weights_that_change_behind_a_pass_are_refused(boxes: Path, part: str) -> None:
    backbone = UNetBackbone(small_stable_diffusion())
    told, cpu = begin_sketch_attention(backbone, seed=0), torch.device("cpu")
    apply_group_offloading(getattr(told, part), cpu, cpu, offload_type="leaf_level")
    pictures = Pictures(find_examples(boxes), size=(32, 32))
    with pytest.raises(UsageError, match="with group_offloading: its weights change"):
        ToldRun(told, pictures, EXTRACTORS["edges"], ToldTraining(steps=1))
