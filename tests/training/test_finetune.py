"""Fine-tuning must move the weights, keep them when a loss goes bad, and leave a file that plain diffusers loads."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from sketchguide.backbones.base import GUIDANCE, Condition
from sketchguide.backbones.tiny import tiny_stable_diffusion, tiny_stable_diffusion_xl
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.backbones.wrapped import with_sketch_attention
from sketchguide.classifiers import IconClassifier
from sketchguide.defaults import SCALE
from sketchguide.errors import MismatchError, ModelNotFoundError, OutputError, SketchError, TrainingError, UsageError
from sketchguide.fingerprints import fingerprint
from sketchguide.lora import LORA_FILE, adapted, load_lora
from sketchguide.perception import Features
from sketchguide.sketchers import Sketcher, SketcherConfig
from sketchguide.training.checkpoints import Checkpoints
from sketchguide.training.finetune import FineTuneRun, FineTuning, Judges
from sketchguide.training.run import describe
from support import attention_for, gone_on, small_stable_diffusion

SIDE = 32


@pytest.fixture(scope="module")
def judges() -> Judges:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sketcher = Sketcher(SketcherConfig(width=8, blocks=1)).eval().requires_grad_(False)
        first, second = (Features(IconClassifier(("a", "b"), size=SIDE, channels=(8, 16))) for _ in range(2))
    return Judges(sketcher, first, second)


@pytest.fixture
def backbone() -> UNetBackbone:
    """A fresh one: fine-tuning changes its network. Its latents are as large as those of a trained autoencoder."""
    pipeline = small_stable_diffusion()
    pipeline.vae.register_to_config(scaling_factor=10.0)
    pipeline.set_progress_bar_config(disable=True)
    return UNetBackbone(pipeline, name="tiny")


def photos(count: int = 1) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def drawings(count: int = 1) -> Tensor:
    ink = torch.zeros(count, 1, SIDE, SIDE)
    for i in range(count):
        ink[i, :, 6 + i, 4:28] = 1
        ink[i, :, 6:28, 8 + 2 * i] = 1
    return ink


def tune(backbone: UNetBackbone, judges: Judges, *, count: int = 1, **values: Any) -> FineTuneRun:
    settings = FineTuning(
        **(
            {"steps": 3, "levels": 2, "rank": 2, "targets": ("attn1.to_q", "conv1"), "refine": 1, "rate": 1e-2}
            | {"unseen": 2, "gradient": "chain"}
            | values
        )
    )
    return FineTuneRun(backbone, photos(), drawings(count), judges, settings, prompt="a cat")


@pytest.mark.parametrize("mode", ["chain", "last", "step"])
def test_the_gradient_reaches_the_weights_and_they_move(backbone: UNetBackbone, judges: Judges, mode: str) -> None:
    frozen = {name: p.clone() for name, p in backbone.network.named_parameters()}
    run = tune(backbone, judges, gradient=mode, last=1)
    before = [p.detach().clone() for p in run.trained]
    assert len(run.trained) > 30
    losses = [step.loss for step in run]
    assert all(loss > 0 for loss in losses)
    moved = [not torch.equal(p, old) for p, old in zip(run.trained, before, strict=True)]
    # The first factor of an adapter starts to move once the second is not zero. Nothing is left behind.
    assert sum(moved) > 0.95 * len(moved)
    assert run.skipped == 0
    run.remove()
    now = dict(backbone.network.named_parameters())
    assert now.keys() == frozen.keys()
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_the_loss_falls(backbone: UNetBackbone, judges: Judges) -> None:
    same = {"gradient": "last", "last": 1, "identity": 0.0, "unseen": 0}  # every step begins with the same noise
    losses = [step.loss for step in tune(backbone, judges, steps=12, **same)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_step_without_gradient_stops_the_run(
    backbone: UNetBackbone, judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tune(backbone, judges)
    monkeypatch.setattr(run, "compare", lambda images, *_: 0 * images.sum(dim=(1, 2, 3)))
    with pytest.raises(TrainingError, match="No gradient reaches the weights"):
        next(iter(run))


def test_the_checkpointed_chain_is_the_whole_gradient(backbone: UNetBackbone, judges: Judges) -> None:
    """The same as without checkpoints, and not that of the last step alone."""
    run = tune(backbone, judges, steps=4)
    steps = iter(run)
    next(steps), next(steps)
    pairs = [(0, 0)]

    def gradient(latent: Tensor) -> Tensor:
        loss = run.compare(backbone.decode(latent), pairs).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, run.trained)])

    plain = run._starts
    for now, to in zip(run.levels, run.levels[1:], strict=False):
        plain = run._down(plain, now, to)
    whole = gradient(plain)
    checkpointed = gradient(run._descend(run._starts, run.levels, carrying=2))
    last = gradient(run._descend(run._starts, run.levels, carrying=1))
    assert torch.allclose(checkpointed, whole, rtol=1e-3, atol=1e-7)
    assert float((last - whole).norm() / whole.norm()) > 0.05


def test_inversion_leads_back_to_the_photo(backbone: UNetBackbone, judges: Judges) -> None:
    rough, fine = (tune(backbone, judges, levels=6, refine=passes).fidelity() for passes in (1, 6))
    assert fine > rough
    assert fine > 30


def test_the_lora_file_loads_in_plain_diffusers_and_changes_the_picture(
    backbone: UNetBackbone, judges: Judges, tmp_path: Path
) -> None:
    run = tune(backbone, judges, steps=4, gradient="last", rate=0.1)
    untuned = run.pictures([5], steps=2)
    list(run)
    file = run.save(tmp_path)
    with run.averaged():
        tuned = run.pictures([5], steps=2)
    assert file == tmp_path / LORA_FILE
    assert not torch.allclose(tuned, untuned, atol=1e-3)

    plain = small_stable_diffusion()  # no sketchguide from here on
    plain.set_progress_bar_config(disable=True)

    def draw() -> Any:
        rng = torch.Generator().manual_seed(3)
        return plain("a cat", num_inference_steps=2, height=32, width=32, generator=rng, output_type="pt").images

    before = draw()
    plain.load_lora_weights(str(tmp_path))
    after = draw()
    assert float((before - after).abs().max()) > 1e-4
    with safe_open(file, framework="pt") as opened:
        held = [key for key in opened.keys() if "lora_B" in key or "lora.up" in key]  # noqa: SIM118
        assert held
        assert "a cat" in opened.metadata()["sketchguide"]

    fresh = small_stable_diffusion()
    fresh.vae.register_to_config(scaling_factor=10.0)
    again = UNetBackbone(fresh, name="tiny")
    latent, level, told = torch.randn(1, 4, 16, 16), again.level(0.5), again.describe(["a cat"])
    base = again.predict(latent, level, told).noise
    shifts = []
    for scale in (0.0, 0.5, 1.0):
        load_lora(tmp_path, again, scale=scale)  # replaces the one before
        shifts.append(float((again.predict(latent, level, told).noise - base).norm()))
    assert shifts[0] == 0
    assert 0 < shifts[1] < shifts[2]
    assert not any(p.requires_grad for p in again.network.parameters())
    with run.averaged():
        same = backbone.predict(latent, level, told).noise
    assert torch.allclose(same, again.predict(latent, level, told).noise, atol=1e-4)


def test_lora_files_that_do_not_fit_are_refused(backbone: UNetBackbone, judges: Judges, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="No LoRA at"):
        load_lora(tmp_path, backbone)
    run = tune(backbone, judges)
    run.trained[0].data = torch.randn(3, 7)
    run._average[0] = torch.randn(3, 7)
    run.save(tmp_path)
    with pytest.raises(MismatchError, match=r"does not fit 'other': Error.*: size mismatch for"):
        load_lora(tmp_path, UNetBackbone(small_stable_diffusion(), name="other"))


@pytest.mark.parametrize(("mode", "levels"), [("last", 2), ("step", 3)])
def test_a_resumed_run_is_the_uninterrupted_one(
    backbone: UNetBackbone, judges: Judges, mode: str, levels: int, tmp_path: Path
) -> None:
    """Also one that stops within a walk."""

    def begin() -> FineTuneRun:
        return tune(backbone, judges, steps=4, levels=levels, gradient=mode, last=1, count=2, unseen=1)

    whole = begin()
    list(whole)
    expected = [value.clone() for value in [*whole.trained, *whole._average]]
    half = begin()
    for _ in zip(range(2), half, strict=False):
        pass
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(half.step, half.state(), {})
    rest = gone_on(begin(), checkpoints)
    list(rest)
    for one, other in zip(expected, [*rest.trained, *rest._average], strict=True):
        assert torch.equal(one, other)


def test_bad_losses_are_skipped_and_then_stop_with_the_last_good_weights(
    backbone: UNetBackbone, judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sketchguide.training.run.MAX_SKIPS", 3)
    run = tune(backbone, judges, steps=100, gradient="step")
    steps = iter(run)
    next(steps), next(steps)
    good = [value.clone() for value in [*run.trained, *run._average]]
    compare = run.compare
    monkeypatch.setattr(run, "compare", lambda *given: compare(*given) * float("nan"))
    with pytest.raises(TrainingError, match="not finite for 3 steps in a row"):
        list(steps)
    assert run.skipped == 3
    assert all(torch.equal(one, other) for one, other in zip(good, [*run.trained, *run._average], strict=True))


@pytest.mark.parametrize(("updates", "decay"), [(1, 2 / 11), (90, 0.91), (10**6, 0.9999)])
def test_the_average_warms_up(backbone: UNetBackbone, judges: Judges, updates: int, decay: float) -> None:
    run = tune(backbone, judges, gradient="step", levels=1, unseen=0)
    run._updates = updates - 1
    run._average = [value + 1 for value in run._average]
    before = [value.clone() for value in run._average]
    next(iter(run))
    expected = [decay * old + (1 - decay) * new.detach() for old, new in zip(before, run.trained, strict=True)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, run._average, strict=True))
    own = [p.detach().clone() for p in run.trained]
    with run.averaged():
        assert all(torch.equal(p, value) for p, value in zip(run.trained, run._average, strict=True))
    assert all(torch.equal(p, value) for p, value in zip(run.trained, own, strict=True))


def test_every_weight_can_be_trained(backbone: UNetBackbone, judges: Judges, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in backbone.network.named_parameters()}
    run = tune(backbone, judges, steps=1, full=True, gradient="last", last=1)
    list(run)
    for name in ("model.old", "model.new"):  # of the user
        (tmp_path / name).mkdir()
    moved = [not torch.equal(p, before[name]) for name, p in backbone.network.named_parameters()]
    assert len(run.trained) == len(before)
    assert sum(moved) > 0.9 * len(moved)
    for _ in range(2):
        assert (run.save(tmp_path) / "model_index.json").is_file()
    assert {file.name for file in tmp_path.iterdir()} == {"model", "model.old", "model.new"}


def test_a_pipeline_that_cannot_be_written_leaves_the_earlier_one(
    backbone: UNetBackbone, judges: Judges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise SafetensorError("No space left on device")

    run = tune(backbone, judges, full=True, gradient="last", last=1)
    monkeypatch.setattr(backbone.pipeline, "save_pretrained", fail)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "earlier").touch()
    with pytest.raises(OutputError, match="No space left"):
        run.save(tmp_path)
    assert (tmp_path / "model" / "earlier").is_file()


@pytest.mark.parametrize("full", [False, True])
def test_losses_are_scaled_in_float16(judges: Judges, full: bool) -> None:
    """Gradients too large for it cost a step and lower the scale; the weights learn nothing bad, and go on."""
    pipeline = small_stable_diffusion().to(torch.float16)
    run = tune(UNetBackbone(pipeline, name="tiny"), judges, steps=5, full=full, gradient="step", count=2, unseen=0)
    run._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = [p.detach().clone() for p in run.trained]
    assert {p.dtype for p in run.trained} == {torch.float32}
    steps = iter(run)
    next(steps)
    assert run.updates == 0
    assert run._scaler.get_scale() < 2.0**60
    assert all(torch.equal(p, q) for p, q in zip(run.trained, before, strict=True))
    run._scaler.update(2.0**10)
    list(steps)
    assert run.updates >= 3
    assert all(bool(p.isfinite().all()) for p in run.trained)
    assert any(not torch.equal(p, q) for p, q in zip(run.trained, before, strict=True))
    assert run.state()["scaler"]["scale"] == run._scaler.get_scale()


@pytest.mark.parametrize("mode", ["chain", "step"])
def test_an_autoencoder_that_half_precision_overflows_passes_the_gradient(judges: Judges, mode: str) -> None:
    run = tune(UNetBackbone(tiny_stable_diffusion_xl().to(torch.float16), name="xl"), judges, gradient=mode)
    run.loss().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in run.trained)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_pictures_are_decoded_again_on_the_way_back(
    judges: Judges, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the autoencoder keeps for its own gradient: that of SDXL is widened, and has hooks there."""
    monkeypatch.setattr("sketchguide.training.finetune._AT_ONCE", SIDE * SIDE)
    run = tune(UNetBackbone(tiny_stable_diffusion_xl().to(dtype), name="xl"), judges, gradient="last", last=1)
    decoded: list[int] = []
    decode = UNetBackbone.decode

    def counted(self: UNetBackbone, latent: Tensor) -> Tensor:
        decoded.append(len(latent) if torch.is_grad_enabled() else 0)
        return decode(self, latent)

    monkeypatch.setattr(UNetBackbone, "decode", counted)
    loss = run.loss()
    assert sum(decoded) == 0
    loss.backward()
    assert [rows for rows in decoded if rows] == [1, 1, 1]


def test_a_network_that_is_told_the_scale_is_told_the_usual_one(
    backbone: UNetBackbone, judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def spied(backbone: UNetBackbone, captions: list[str]) -> Condition:
        asked.append(captions)
        return describe(backbone, captions)

    monkeypatch.setattr("sketchguide.training.finetune.describe", spied)
    run = tune(backbone, judges, steps=1, gradient="last")
    list(run)
    assert asked == [["a cat"]], "the text encoder runs once"
    assert GUIDANCE not in run._told(2).extras
    monkeypatch.setattr(UNetBackbone, "distilled", True)
    assert spied(backbone, ["a cat"]).rows([0, 0]).extras[GUIDANCE].tolist() == [SCALE.default] * 2


def test_all_weights_of_a_model_in_half_precision_learn_in_single(judges: Judges) -> None:
    pipeline = small_stable_diffusion().to(torch.bfloat16)
    half = UNetBackbone(pipeline, name="tiny")
    run = tune(half, judges, steps=1, full=True, gradient="last", last=1)
    seen: list[torch.dtype] = []
    half.network.get_submodule("conv_in").register_forward_hook(lambda *given: seen.append(given[2].dtype))
    (step,) = run
    assert math.isfinite(step.loss)
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in run.trained)


def test_the_papers_rules(backbone: UNetBackbone, judges: Judges) -> None:
    run = tune(backbone, judges, rate=None, full=True)
    assert isinstance(run.module, nn.ParameterList)
    assert run.batch == 1
    assert run.rate() == 1e-4
    assert run.optimizer.defaults["betas"] == (0.9, 0.999)
    assert FineTuning().identity == 0.4
    many = tune(backbone, judges, count=4)
    assert many.batch == 4
    assert len(many._pairs) == 4


def test_what_cannot_be_used_is_refused(backbone: UNetBackbone, judges: Judges) -> None:
    for wrong in (
        {"identity": 1.5},
        {"steps": 0},
        {"gradient": "all"},
        {"rate": 0.0},
        {"depth": 0.0},
        {"batch": 0},
        {"unseen": -1},
    ):
        with pytest.raises(UsageError):
            FineTuning(**wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SketchError, match="blank"):
        FineTuneRun(backbone, photos(), torch.zeros(1, 1, SIDE, SIDE), judges, FineTuning(), prompt="")
    with pytest.raises(UsageError, match="The photos are 32x32, the drawings 16x16"):
        FineTuneRun(backbone, photos(), torch.ones(1, 1, 16, 16), judges, FineTuning(), prompt="")
    with pytest.raises(UsageError, match="no style 'oil'"):
        tune(backbone, judges, style="oil")
    with pytest.raises(UsageError, match="targets fit no layer"):
        tune(backbone, judges, targets=("none",))
    other: Any = with_sketch_attention(backbone, attention_for(backbone), torch.ones(1, 1, SIDE, SIDE))
    with pytest.raises(UsageError, match="cannot be tuned; it is no plain pipeline"):
        FineTuneRun(other, photos(), torch.ones(1, 1, SIDE, SIDE), judges, FineTuning(), prompt="")


def wear(network: Any, layer: str) -> None:
    """A LoRA of the user."""
    inject_adapter_in_model(LoraConfig(r=2, target_modules=[layer]), network)


@pytest.mark.parametrize(("part", "layer"), [("unet", "to_q"), ("text_encoder", "q_proj")])
def test_all_weights_beside_loras_are_refused(backbone: UNetBackbone, judges: Judges, part: str, layer: str) -> None:
    """What would be saved could not be loaded."""
    wear(getattr(backbone.pipeline, part), layer)
    with pytest.raises(UsageError, match="has LoRAs, beside which all of its weights cannot be trained") as caught:
        tune(backbone, judges, full=True)
    assert "fuse_lora" in caught.value.hint


@pytest.mark.parametrize("by", ["diffusers", "torchao"])
def test_all_weights_of_what_is_quantised_are_refused(backbone: UNetBackbone, judges: Judges, by: str) -> None:
    if by == "diffusers":
        backbone.network.is_quantized = True
    else:
        weight = backbone.network.conv_in.weight.data
        backbone.network.conv_in.weight = nn.Parameter(TwoTensor(weight, weight), requires_grad=False)
        assert backbone.network.conv_in.weight.dtype == torch.float32
    with pytest.raises(UsageError, match="are quantised and cannot be trained"):
        tune(backbone, judges, full=True)


@pytest.mark.parametrize("way", ["merge", "enable_adapters"])
def test_loras_that_are_fused_or_switched_off_are_refused(backbone: UNetBackbone, judges: Judges, way: str) -> None:
    wear(backbone.network, "to_q")
    for _, _, layer in adapted(backbone.network):
        layer.merge() if way == "merge" else layer.enable_adapters(enabled=False)
    with pytest.raises(UsageError, match="fused or switched off"):
        tune(backbone, judges)


@pytest.mark.parametrize("mode", ["chain", "step"])
@pytest.mark.parametrize("part", ["network", "autoencoder"])
def test_weights_that_change_behind_a_pass_are_refused(
    backbone: UNetBackbone, judges: Judges, part: str, mode: str
) -> None:
    cpu = torch.device("cpu")
    getattr(backbone, part).enable_group_offload(cpu, cpu, offload_type="leaf_level")
    with pytest.raises(UsageError, match="with group_offloading: its weights change"):
        tune(backbone, judges, gradient=mode)


@pytest.mark.parametrize("mode", ["chain", "last", "step"])
def test_rows_of_noise_alone_move_the_weights(
    backbone: UNetBackbone, judges: Judges, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tune(backbone, judges, steps=1, gradient=mode, last=1, unseen=3)
    compare, seen = run.compare, []

    def those_beyond_the_pairs(images: Tensor, pairs: Any, shown: Any) -> Tensor:
        seen.append((len(images), len(pairs), len(shown[0])))
        return compare(images, pairs, shown)[len(pairs) :]

    monkeypatch.setattr(run, "compare", those_beyond_the_pairs)
    before = [p.detach().clone() for p in run.trained]
    list(run)
    assert seen == [(4, 1, 3)]
    assert any(not torch.equal(p, old) for p, old in zip(run.trained, before, strict=True))


def test_every_photo_and_drawing_has_its_turn(
    backbone: UNetBackbone, judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two photos and two drawings, one to one: every walk begins at a pair's own photo and is held to that pair."""
    settings = FineTuning(
        steps=1, batch=4, levels=1, rank=2, targets=("attn1.to_q",), refine=1, unseen=0, gradient="step"
    )
    run = FineTuneRun(backbone, photos(2), drawings(2), judges, settings, prompt="a cat")
    held: list[tuple[int, int]] = []
    monkeypatch.setattr(run, "compare", lambda images, pairs, _: held.extend(pairs) or images.mean(dim=(1, 2, 3)))
    for _ in range(4):
        run.loss()
    assert set(held) == {(0, 0), (1, 1)}
    assert not torch.allclose(run._starts[0], run._starts[1], atol=0.1)
    assert torch.equal(run._begun([(1, 1), (0, 0)]), run._starts.flip(0))
    monkeypatch.undo()
    with torch.no_grad():
        losses = run.compare(photos(2), [(1, 1), (0, 0)])
        identity, apart = judges.identity(photos(2))[-1], run._apart(photos(2))
    for row, wanted in ((0, 1), (1, 0)):
        kind = (identity[row] - identity[wanted]).abs().mean() / identity[wanted].abs().mean()
        assert float(losses[row]) == pytest.approx(float(0.4 * kind + 0.6 * apart[row, wanted]), rel=1e-4)


def test_gradients_are_shortened_to_one(
    backbone: UNetBackbone, judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tune(backbone, judges, gradient="step", levels=1, unseen=0)
    monkeypatch.setattr(run, "compare", lambda images, *_: 1e6 * images.sum(dim=(1, 2, 3)))
    next(iter(run))
    gradient = torch.cat([p.grad.flatten() for p in run.trained if p.grad is not None])
    assert float(gradient.norm()) == pytest.approx(1, rel=1e-3)


def test_a_row_of_noise_is_held_to_the_frozen_picture_and_the_nearest_drawing(
    backbone: UNetBackbone, judges: Judges
) -> None:
    run = tune(backbone, judges, count=2, rate=0.1)
    pairs = [(0, 1)]
    start = run._begun(pairs)
    assert torch.equal(start[:1], run._starts)
    assert start.shape[0] == 3
    untuned = run._undisturbed(start[1:], run.levels)
    list(run)
    kept = run._undisturbed(start[1:], run.levels)
    assert torch.equal(kept, untuned)  # by the frozen network, whatever was learned
    with torch.no_grad():
        images = backbone.decode(run._descend(start, run.levels, carrying=0))
        loss = run.compare(images, pairs, run._shown(kept))
        identity, apart = judges.identity(images), run._apart(images)
        frozen = judges.identity(backbone.decode(kept))
        photo = judges.identity(photos())
    for row, (same, drawing) in enumerate(
        [(photo[-1][0], apart[0, 1]), (frozen[-1][0], apart[1].min()), (frozen[-1][1], apart[2].min())]
    ):
        kind = (identity[-1][row] - same).abs().mean() / same.abs().mean()
        assert loss[row] == pytest.approx(float(0.4 * kind + 0.6 * drawing), rel=1e-4)
    assert run.sketch_distance(images) == pytest.approx(float(apart.mean()))
    assert run.nearest_distance(images) == pytest.approx(float(apart.amin(dim=1).mean()))


@pytest.mark.parametrize("to_one", [True, False])
def test_a_network_that_is_untouched_foresees_what_the_frozen_one_does(judges: Judges, to_one: bool) -> None:
    """Also where the last level keeps some noise, as Stable Diffusion 1.x's does."""
    pipeline = tiny_stable_diffusion(set_alpha_to_one=to_one)
    run = tune(UNetBackbone(pipeline, name="tiny"), judges, gradient="step")
    assert (run.levels[-1].sigma == 0) is to_one
    clean, kept, pairs = run._walked()
    assert torch.allclose(clean[len(pairs) :], kept, atol=1e-4 * float(kept.abs().max()))
    assert len(kept) == 2


@pytest.mark.parametrize("mode", ["chain", "step"])
def test_large_pictures_are_gone_through_in_parts_to_the_same_gradient(
    judges: Judges, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients: list[list[Tensor]] = []
    rows: list[int] = []
    for at_once in (2**18, SIDE * SIDE):
        monkeypatch.setattr("sketchguide.training.finetune._AT_ONCE", at_once)
        pipeline = small_stable_diffusion()
        pipeline.vae.register_to_config(scaling_factor=10.0)
        backbone = UNetBackbone(pipeline, name="tiny")
        run = tune(backbone, judges, gradient=mode)
        with torch.no_grad():
            for p in run.trained:
                p.add_(0.01)  # adapters begin at zero, where half of the gradients are
        backbone.network.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
        run.loss().backward()
        gradients.append([p.grad.clone() for p in run.trained if p.grad is not None])
        rows.append(0)
    assert len(gradients[0]) == len(gradients[1]) > 30
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 1e-6 + 0.02 * one.norm()  # rounding depends on the place in the batch
    whole, parts = rows[: rows.index(0)], rows[rows.index(0) + 1 : -1]
    assert max(whole) == 3
    assert set(parts) == {1}


def test_photos_and_drawings_in_pairs_are_as_many(backbone: UNetBackbone, judges: Judges) -> None:
    with pytest.raises(UsageError, match="1 photos and 2 drawings cannot go together"):
        FineTuneRun(backbone, photos(), drawings(2), judges, FineTuning(), prompt="a cat", paired=True)


def test_a_shallow_chain_begins_with_what_the_frozen_network_makes_of_noise(
    backbone: UNetBackbone, judges: Judges
) -> None:
    run = tune(backbone, judges, levels=4, depth=0.5, unseen=1)
    every = backbone.levels(4, "ddim")
    assert (run._lead, run.levels) == (every[:3], every[2:])
    start = run._begun([(0, 0)])
    fresh = torch.randn(1, *start.shape[1:], generator=torch.Generator().manual_seed(0))
    assert torch.allclose(start[1:], run._descend(fresh, every[:3], carrying=0), atol=1e-5)


def test_loras_that_are_on_the_model_stay_on_where_they_are(backbone: UNetBackbone, judges: Judges) -> None:
    unet: Any = backbone.network
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        torch.manual_seed(4)
        for name, layer in (("style", "to_q"), ("shape", "conv1")):
            unet.add_adapter(LoraConfig(r=2, target_modules=[layer], init_lora_weights=False), adapter_name=name)
    for _, _, layer in adapted(unet):
        layer.set_adapter(list(layer.scaling), inference_mode=True)
    acting = {path: layer.active_adapters for _, path, layer in adapted(unet)}
    assert set(map(tuple, acting.values())) == {("shape",), ("style",)}
    unet.requires_grad_(False)
    before = fingerprint(unet)
    run = tune(backbone, judges)
    with torch.no_grad():
        assert torch.allclose(run._descend(run._starts, run.levels, carrying=0), run.reconstruction, atol=1e-5)
    assert sum(p.requires_grad for p in unet.parameters()) == len(run.trained)
    run.remove()
    assert {path: layer.active_adapters for _, path, layer in adapted(unet)} == acting
    assert fingerprint(unet) == before
    assert not any(p.requires_grad for p in unet.parameters())
    with pytest.raises(UsageError, match="targets fit no layer"):
        tune(backbone, judges, targets=("none",))
    assert {path: layer.active_adapters for _, path, layer in adapted(unet)} == acting


def test_one_step_from_pure_noise_is_refused(judges: Judges) -> None:
    pipeline = small_stable_diffusion()
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    with pytest.raises(UsageError, match="pure noise"):
        tune(UNetBackbone(pipeline, name="tiny"), judges, levels=1)
