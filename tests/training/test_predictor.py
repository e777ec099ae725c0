import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Generator, Tensor, nn

from sketchguide.backbones.base import Condition
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.errors import TrainingError, UsageError
from sketchguide.predictors import PAPER_TAPS
from sketchguide.training.checkpoints import Checkpoints
from sketchguide.training.data import Augmentation, Pictures, find_examples
from sketchguide.training.predictor import PredictorRun, PredictorTraining
from sketchguide.training.run import MAX_SKIPS, TrainingStep
from support import Tiny, gone_on, hook_count

TAPS = ("down_blocks.0.attentions.1", "mid_block.resnets.1", "up_blocks.2")


class Ink:
    """Dark is ink."""

    name = "ink"

    def __call__(self, images: Tensor, /) -> Tensor:
        return (images.mean(dim=1, keepdim=True) < 0).float()


class Broken(Ink):
    """No map is a number."""

    def __call__(self, images: Tensor, /) -> Tensor:
        return super().__call__(images) * float("nan")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder = tmp_path_factory.mktemp("pictures")
    for index, name in enumerate(("box", "ball", "bar", "slab")):
        image = Image.new("RGB", (32, 32), "white")
        corner = 3 + 4 * index
        ImageDraw.Draw(image).rectangle((corner, 6, corner + 10, 26 - 3 * index), fill=(0, 30 * index, 60))
        image.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}")
    still = Augmentation(flip=False, scale=(1.0, 1.0), rotate=0.0, shift=0.0)
    return Pictures(find_examples(folder), size=(32, 32), augmentation=still)


def settings(**values: Any) -> PredictorTraining:
    return PredictorTraining(
        **({"steps": 4, "batch": 4, "views": 1, "rate": 1e-2, "widths": (16, 8), "taps": TAPS} | values)
    )


def finite(module: nn.Module) -> bool:
    return all(value.isfinite().all() for value in module.state_dict().values())


def copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


class Recording:
    """A backbone that notes what it is asked."""

    def __init__(self, backbone: UNetBackbone) -> None:
        self.backbone = backbone
        self.ran: list[tuple[Tensor, Tensor, Condition]] = []
        self.encoded: list[Tensor] = []
        self.described: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def run(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        self.ran.append((latent, times, condition))
        return self.backbone.run(latent, times, condition)

    def encode(self, images: Tensor) -> Tensor:
        self.encoded.append(images)
        return self.backbone.encode(images)

    def describe(self, prompts: Sequence[str]) -> Condition:
        self.described.append(list(prompts))
        return self.backbone.describe(prompts)


# ---------------------------------------------------------------------------------------------------------- learning


def test_the_predictor_learns_and_the_backbone_stays(tiny: Tiny, pictures: Pictures) -> None:
    backbone = tiny()
    network, autoencoder = copies(backbone.network), copies(backbone.autoencoder)
    run = PredictorRun(
        backbone, pictures, Ink(), settings(steps=16, window=(0.6, 1.0), clean_widths=(), reads="latent")
    )
    before = copies(run.predictor)
    images, captions = pictures.fixed(4)
    untrained = run.score(images, captions)
    steps = list(run)
    assert [step.step for step in steps] == list(range(1, 17))
    assert sum(step.loss for step in steps[-4:]) < 0.8 * sum(step.loss for step in steps[:4])
    assert run.score(images, captions) < untrained
    assert changed(run.predictor, before) == set(before)  # every weight, and the statistics
    assert not changed(backbone.network, network)
    assert not changed(backbone.autoencoder, autoencoder)
    assert not run.predictor.training


def test_the_result_says_what_it_was_trained_for(tiny: Tiny, pictures: Pictures) -> None:
    config = PredictorRun(tiny(), pictures, Ink(), settings(window=(0.1, 0.7))).predictor.config
    assert (config.family, config.backbone, config.map_kind, config.window) == ("unet", "tiny", "ink", (0.1, 0.7))
    assert config.taps == TAPS
    assert PredictorRun(tiny(), pictures, Ink(), settings(taps=())).predictor.config.taps == PAPER_TAPS


def test_it_learns_to_read_clean_latents_too(tiny: Tiny, pictures: Pictures) -> None:
    run = PredictorRun(tiny(), pictures, Ink(), settings(steps=60, window=(0.8, 1.0), clean_widths=(16, 16)))
    images, captions = pictures.fixed(4)
    levels = [run.backbone.level(0.9)] * 4

    def errors() -> list[float]:
        with torch.no_grad():
            return run._error(images, captions, levels, Generator().manual_seed(3)).mean(dim=1).tolist()

    before = errors()
    list(run)
    assert all(now < 0.8 * then for now, then in zip(errors(), before, strict=True))
    alone = PredictorRun(tiny(), pictures, Ink(), settings(clean_widths=()))
    assert len(alone._error(images, captions, levels, Generator().manual_seed(3))) == 1
    assert not alone.predictor.config.clean_widths


def test_clean_latents_are_read_through_noise_of_every_amount(
    tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Recording(tiny())
    run = PredictorRun(backbone, pictures, Ink(), settings(steps=1, batch=24, views=6, clean_widths=(16,)))
    given: list[Tensor] = []
    read = run.predictor.read_clean
    monkeypatch.setattr(run.predictor, "read_clean", lambda latent: given.append(latent) or read(latent))
    list(run)
    (spoilt,) = given
    clean = backbone.backbone.encode(backbone.encoded[0])[:4]
    amounts = (spoilt - clean.repeat(6, 1, 1, 1)).flatten(1).std(dim=1)
    assert float(amounts.min()) < 0.1
    assert 0.3 < float(amounts.max()) < 0.45


def test_it_learns_to_read_ink(tiny: Tiny, pictures: Pictures) -> None:
    backbone = Recording(tiny())
    wanted = settings(steps=60, window=(0.8, 1.0), clean_widths=(16, 16), reads="ink")
    run = PredictorRun(backbone, pictures, Ink(), wanted)
    assert (run.predictor.config.reads, run.predictor.config.stride) == ("ink", backbone.stride)
    images, captions = pictures.fixed(4)
    before = run.score(images, captions)
    losses = [step.loss for step in run]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert run.score(images, captions) < min(before, 1.0)
    assert all(encoded.shape[0] <= 4 for encoded in backbone.encoded)  # pictures alone, and no maps


def test_the_score_of_ink_is_a_share_too(tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who knows how much ink there is has 1, one who knows where has 0, of maps with shares of ink as well."""

    class Grey(Ink):
        def __call__(self, images: Tensor, /) -> Tensor:
            return 0.1 + 0.7 * super().__call__(images)

    images, captions = pictures.fixed(4)
    for extractor in (Ink(), Grey()):
        run = PredictorRun(tiny(), pictures, extractor, settings(reads="ink"))
        ink = extractor(images)
        share = ink.mean().expand_as(ink)
        for known, score in ((share, 1.0), (ink, 0.0)):
            monkeypatch.setattr(run, "_read", lambda *_, known=known: known.logit(1e-6))
            assert run.score(images, captions) == pytest.approx(score, abs=1e-4)


def test_maps_without_ink_have_no_score(tiny: Tiny, pictures: Pictures) -> None:
    class Blank(Ink):
        def __call__(self, images: Tensor, /) -> Tensor:
            return super().__call__(images) * 0

    run = PredictorRun(tiny(), pictures, Blank(), settings(reads="ink"))
    assert math.isnan(run.score(*pictures.fixed(4)))


def test_the_score_is_a_share_of_what_varies(tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who knows the targets' mean alone has 1, one who knows the half of what varies a quarter."""
    backbone = tiny()
    images, captions = pictures.fixed(4)
    run = PredictorRun(backbone, pictures, Ink(), settings(reads="latent"))
    _, target = run._encoded(images)
    mean = target.mean(dim=(0, 2, 3), keepdim=True)
    for known, score in ((0.0, 1.0), (0.5, 0.25), (1.0, 0.0)):
        monkeypatch.setattr(run, "_read", lambda *_, known=known: mean + known * (target - mean))
        assert run.score(images, captions) == pytest.approx(score, abs=1e-4)


def test_the_rate_falls_along_a_cosine(tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    run = PredictorRun(tiny(), pictures, Ink(), settings(steps=10, rate=0.01))
    monkeypatch.setattr(run, "loss", lambda: sum(0 * p.sum() for p in run.predictor.parameters()))
    rates = [run.optimizer.param_groups[0]["lr"] for _ in run]
    assert rates == pytest.approx([0.005 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])


@pytest.mark.parametrize(("size", "clipped"), [(1e4, 1.0), (0.25, 0.25)])
def test_gradients_are_shortened_to_one(
    tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, size: float, clipped: float
) -> None:
    run = PredictorRun(tiny(), pictures, Ink(), settings())
    count = sum(p.numel() for p in run.predictor.parameters())
    monkeypatch.setattr(run, "loss", lambda: size / count**0.5 * sum(p.sum() for p in run.predictor.parameters()))
    next(iter(run))
    gradient = torch.cat([p.grad.flatten() for p in run.predictor.parameters() if p.grad is not None])
    assert float(gradient.norm()) == pytest.approx(clipped, rel=1e-3)


def test_equal_seeds_give_equal_runs(tiny: Tiny, pictures: Pictures) -> None:
    runs = [PredictorRun(tiny(), pictures, Ink(), settings(steps=2, seed=seed)) for seed in (5, 5, 6)]
    losses = [[step.loss for step in run] for run in runs]
    assert losses[0] == losses[1] != losses[2]


# ------------------------------------------------------------------------------- defects of public ports (methods.md)


@pytest.mark.parametrize("window", [(0.0, 0.01), (0.4, 0.5), (0.9, 1.0)], ids=["noisy", "middle", "clean"])
def test_defect_network_fed_with_clean_latents(tiny: Tiny, pictures: Pictures, window: tuple[float, float]) -> None:
    """The network sees alpha * clean + sigma * noise, with the time of that level and the picture's own caption."""
    backbone = Recording(tiny())
    run = PredictorRun(backbone, pictures, Ink(), settings(steps=1, window=window))
    list(run)
    ((latent, times, _),) = backbone.ran
    clean = backbone.backbone.encode(backbone.encoded[0])
    assert len(set(times.tolist())) > 1  # one level per picture
    progress = 1 - times / 999
    assert window[0] - 1e-3 <= float(progress.min())
    assert float(progress.max()) <= window[1] + 1e-3
    for row in range(len(times)):
        level = backbone.level(float(progress[row]))
        assert level.time == times[row]
        realised = (latent[row] - level.alpha * clean[row]) / level.sigma
        assert float(realised.mean()) == pytest.approx(0, abs=0.15)
        assert float(realised.std()) == pytest.approx(1, abs=0.15)
    captions = backbone.described[-1]
    assert len(captions) == 4
    assert set(captions) <= {"a box", "a ball", "a bar", "a slab"}


def test_defect_same_batch_optimised_many_times(
    tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of the optimizer for each fresh batch, with fresh noise."""
    backbone = Recording(tiny())
    run = PredictorRun(backbone, pictures, Ink(), settings(steps=3))
    stepped: list[int] = []
    step = run.optimizer.step
    monkeypatch.setattr(run.optimizer, "step", lambda: (stepped.append(run.step), step()))
    list(run)
    assert stepped == [0, 1, 2]
    latents = [latent for latent, _, _ in backbone.ran]
    assert len(latents) == 3
    assert not any(torch.equal(latents[i], latents[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_defect_hooks_registered_for_every_batch(tiny: Tiny, pictures: Pictures) -> None:
    run = PredictorRun(tiny(), pictures, Ink(), settings(steps=3))
    for _ in run:
        assert hook_count(tiny().network) == 0


def test_defect_grey_background(tiny: Tiny, pictures: Pictures) -> None:
    """The target is the encoding of white lines on a black ground, exactly -1."""
    backbone = Recording(tiny())
    list(PredictorRun(backbone, pictures, Ink(), settings(steps=1, reads="latent")))
    drawn = backbone.encoded[0][4:]  # after the pictures themselves
    assert drawn.shape == (4, 3, 32, 32)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert (drawn == -1).float().mean() > 0.5


def test_defect_batchnorm_statistics_moved_by_scoring(tiny: Tiny, pictures: Pictures) -> None:
    run = PredictorRun(tiny(), pictures, Ink(), settings(steps=1))
    images, captions = pictures.fixed(3)
    for _ in range(2):  # before and after the first step
        before = copies(run.predictor)
        score = run.score(images, captions)
        assert not changed(run.predictor, before)
        assert run.score(images, captions) == score
        list(run)


def test_the_score_encodes_no_more_pictures_than_training_and_is_the_same_for_it(
    tiny: Tiny, pictures: Pictures
) -> None:
    images, captions = pictures.fixed(4)
    scores: list[float] = []
    for batch, views, encoded in ((16, 4, [8]), (6, 4, [4, 4]), (2, 2, [2, 2, 2, 2]), (3, 1, [6, 2])):
        backbone = Recording(tiny())
        run = PredictorRun(backbone, pictures, Ink(), settings(batch=batch, views=views, reads="latent"))
        scores.append(run.score(images, captions))
        assert [len(images) for images in backbone.encoded] == encoded
    assert scores == pytest.approx([scores[0]] * 4, rel=1e-4)


def test_views_show_each_picture_at_several_levels(tiny: Tiny, pictures: Pictures) -> None:
    """Five rows of three pictures: each with its own level, noise and caption, encoded and mapped once."""
    backbone = Recording(tiny())
    list(PredictorRun(backbone, pictures, Ink(), settings(steps=1, batch=5, views=2)))
    ((latent, times, _),) = backbone.ran
    assert len(backbone.encoded[0]) == 3
    clean = backbone.backbone.encode(backbone.encoded[0])
    assert latent.shape[0] == len(times) == 5
    assert len(set(times.tolist())) == 5
    captions = backbone.described[-1]
    assert captions[3:] == captions[:2]
    noises = []
    for row in range(5):
        level = backbone.level(1 - float(times[row]) / 999)
        noises.append((latent[row] - level.alpha * clean[row % 3]) / level.sigma)
        assert float(noises[-1].std()) == pytest.approx(1, abs=0.15)
    assert not torch.allclose(noises[0], noises[3])
    with pytest.raises(UsageError, match="views is 0; it must be at least 1"):
        settings(views=0)


# ------------------------------------------------------------------------------------------------------------ faults


def test_a_resumed_run_is_the_uninterrupted_run(tiny: Tiny, pictures: Pictures, tmp_path: Path) -> None:
    whole = PredictorRun(tiny(), pictures, Ink(), settings())
    losses = [step.loss for step in whole]

    first = PredictorRun(tiny(), pictures, Ink(), settings())
    steps = iter(first)
    before = [next(steps).loss, next(steps).loss]
    steps.close()
    store = Checkpoints(tmp_path)
    store.save(first.step, first.state(), first.config)
    second = gone_on(PredictorRun(tiny(), pictures, Ink(), settings()), store)
    after = list(second)

    assert [step.step for step in after] == [3, 4]
    assert before + [step.loss for step in after] == losses
    assert not changed(second.predictor, copies(whole.predictor))
    assert second.seconds > first.seconds


def test_a_loss_that_is_never_finite_stops_the_run(tiny: Tiny, pictures: Pictures) -> None:
    run = PredictorRun(tiny(), pictures, Broken(), settings(steps=100, taps=TAPS[:1]))
    before = {name: value.clone() for name, value in run.predictor.named_parameters()}
    seen: list[TrainingStep] = []
    with pytest.raises(TrainingError, match="not finite"):
        seen.extend(run)
    assert run.skipped == MAX_SKIPS
    assert all(torch.equal(value, before[name]) for name, value in run.predictor.named_parameters())
    assert finite(run.predictor)


class OneBadBatch:
    """Pictures whose second batch is not finite, and with it every activation."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.made = 0

    def batch(self, rng: Generator, count: int) -> tuple[Tensor, list[str]]:
        images, captions = self.pictures.batch(rng, count)
        self.made += 1
        return (images * float("nan") if self.made == 2 else images), captions

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pictures, name)


def test_a_resumed_run_remembers_what_was_skipped(tiny: Tiny, pictures: Pictures, tmp_path: Path) -> None:
    bad: Any = OneBadBatch(pictures)
    first = PredictorRun(tiny(), bad, Ink(), settings(steps=3))
    for _ in zip(range(2), first, strict=False):
        pass
    store = Checkpoints(tmp_path)
    store.save(first.step, first.state(), first.config)
    second = gone_on(PredictorRun(tiny(), pictures, Ink(), settings(steps=3)), store)
    assert [(step.step, step.skipped) for step in second] == [(3, 1)]


def test_one_bad_batch_is_skipped_and_leaves_no_trace(tiny: Tiny, pictures: Pictures) -> None:
    bad: Any = OneBadBatch(pictures)
    run = PredictorRun(tiny(), bad, Ink(), settings(steps=3))
    steps = list(run)
    assert [step.skipped for step in steps] == [0, 1, 1]
    assert torch.tensor([steps[0].loss, steps[2].loss]).isfinite().all()
    assert finite(run.predictor)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"batch": 1}, "batch"),
        ({"rate": -1.0}, "rate"),
        ({"reads": "lines"}, "reads"),
        ({"rate": float("nan")}, "rate"),
        ({"window": (0.5, 0.2)}, "window"),
        ({"window": (0.5, 0.5)}, "window"),
        ({"window": (0.0, float("nan"))}, "window"),
    ],
    ids=str,
)
def test_bad_settings_are_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(**values)
    assert caught.value.field == field


def test_what_is_not_asked_for_is_as_it_was_saved() -> None:
    saved = asdict(settings(normalize_taps=True, widths=(4, 2), window=(0.1, 0.5), rate=1e-3)) | {"model": "tiny"}
    asked = settings(steps=9)
    continued = asked.as_saved(json.loads(json.dumps(saved)), but=("steps", "rate"))
    assert continued == settings(steps=9, normalize_taps=True, widths=(4, 2), window=(0.1, 0.5))
    assert asked.as_saved({}, but=()) == asked


def test_a_tap_that_the_model_lacks_is_named(tiny: Tiny, pictures: Pictures) -> None:
    with pytest.raises(UsageError, match=r"up_blocks\.8"):
        PredictorRun(tiny(), pictures, Ink(), settings(taps=("up_blocks.8",)))
