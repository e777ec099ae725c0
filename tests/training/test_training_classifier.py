import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.errors import UsageError
from sketchguide.training.checkpoints import Checkpoints
from sketchguide.training.classifier import ClassifierTraining, LatentClassifierRun, PictureClassifierRun, classes_of
from sketchguide.training.data import Augmentation, Example, Pictures, find_examples
from support import gone_on


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Bright and dark pictures with a bar somewhere."""
    folder = tmp_path_factory.mktemp("classes")
    for index in range(8):
        name = ("bright", "dark")[index % 2]
        image = Image.new("RGB", (32, 32), "white" if name == "bright" else "black")
        ImageDraw.Draw(image).rectangle((2 * index, 4, 2 * index + 6, 28), fill=(128, 20 * index, 90))
        (folder / name).mkdir(exist_ok=True)
        image.save(folder / name / f"{index}.png")
    still = Augmentation(flip=False, scale=(1.0, 1.0), rotate=0.0, shift=0.0)
    return Pictures(find_examples(folder), size=(32, 32), augmentation=still)


@pytest.fixture(scope="module")
def backbone() -> UNetBackbone:
    """The latents of a random autoencoder are faint; here noise does not drown them."""
    pipeline = tiny_stable_diffusion()
    pipeline.vae.register_to_config(scaling_factor=10.0)
    return UNetBackbone(pipeline, name="tiny")


def settings(**values: Any) -> ClassifierTraining:
    return ClassifierTraining(**({"steps": 30, "batch": 8, "rate": 5e-3, "widths": (8, 16)} | values))


def test_a_noise_aware_classifier_learns_(backbone: UNetBackbone, pictures: Pictures) -> None:
    run = LatentClassifierRun(backbone, pictures, settings(), classes=("bright", "dark"))
    images, captions = pictures.fixed(8)
    steps = list(run)
    assert sum(step.loss for step in steps[-5:]) < 0.8 * sum(step.loss for step in steps[:5])
    latents = run.encode(images)
    table = run.calibrate(latents, captions, count=3)
    assert [round(row.progress, 2) for row in table] == [0.25, 0.5, 0.75]
    assert table[-1].accuracy == 1
    assert table[-1].confidence > table[0].confidence
    assert all(0 <= row.error <= 1 for row in table)
    assert run.score(images, captions) < 0.4
    assert run.calibrate(latents, captions, count=3) == table
    assert run.classifier.config.classes == ("bright", "dark")


def test_latents_that_are_kept_stay_few(
    backbone: UNetBackbone, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    for allowed, kept in ((1, {1}), (2**31, set(range(2, 9)))):
        monkeypatch.setattr("sketchguide.training.run.POOL_BYTES", allowed)
        run = LatentClassifierRun(backbone, pictures, settings(), classes=("bright", "dark"))
        list(run)
        assert len(run._pool) in kept


def test_temperatures_are_fitted_for_every_noise_level(backbone: UNetBackbone, pictures: Pictures) -> None:
    run = LatentClassifierRun(backbone, pictures, settings(steps=4), classes=("bright", "dark"))
    list(run)
    with torch.no_grad():
        run.classifier.head.weight.mul_(500)  # far too sure of itself
    images, captions = pictures.fixed(8)
    latents = run.encode(images)
    before = run.calibrate(latents, captions, count=3)
    run.fit_temperatures(latents, captions, count=3)
    temperatures = run.classifier.config.temperatures
    assert [time for time, _ in temperatures] == sorted(backbone.level(p).time for p in (0.25, 0.5, 0.75))
    after = run.calibrate(latents, captions, count=3)
    assert [row.accuracy for row in after] == [row.accuracy for row in before]
    assert sum(row.error for row in after) < sum(row.error for row in before)
    run.fit_temperatures(latents, captions, count=3)
    assert run.classifier.config.temperatures == temperatures, "what was fitted before plays no part"


def test_pictures_are_encoded_once_and_more_come_as_it_goes_on(
    backbone: UNetBackbone, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = LatentClassifierRun(backbone, pictures, settings(steps=20, pool=2), classes=("bright", "dark"))
    encode, encoded = backbone.encode, list[int]()

    def counted(images: torch.Tensor) -> torch.Tensor:
        encoded.append(run.step)
        return encode(images)

    monkeypatch.setattr(backbone, "encode", counted)
    list(run)
    first, second = encoded
    assert first == 0
    assert second >= 4


@pytest.mark.parametrize("window", [(0.0, 1.0), (0.4, 0.6)])
def test_latents_are_classified_at_every_noise_level_of_the_window(
    backbone: UNetBackbone, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, window: tuple[float, float]
) -> None:
    asked = settings(steps=1, batch=64, window=window)
    run = LatentClassifierRun(backbone, pictures, asked, classes=("bright", "dark"))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    predict = run.classifier.predict_at
    monkeypatch.setattr(run.classifier, "predict_at", lambda *given: seen.append(given) or predict(*given))
    list(run)
    ((latents, times),) = seen
    progress, width = 1 - times / 999, window[1] - window[0]
    assert progress.min().item() == pytest.approx(window[0], abs=0.1 * width)
    assert progress.max().item() == pytest.approx(window[1], abs=0.1 * width)
    assert progress.mean().item() == pytest.approx(sum(window) / 2, abs=0.15 * width)
    clean = run._group(0)[0].repeat(2, 1, 1, 1)  # the pool has one group yet
    for latent, time, picture in zip(latents, times, clean, strict=True):
        level = backbone.level(1 - float(time) / 999)
        assert float(((latent - level.alpha * picture) / level.sigma).std()) == pytest.approx(1, abs=0.1)


def test_the_loss_is_the_cross_entropy_of_smoothed_labels(pictures: Pictures) -> None:
    asked = settings(smoothing=0.2)
    run = PictureClassifierRun(pictures, asked, classes=("bright", "dark"), device=torch.device("cpu"))
    logits = torch.tensor([[math.log(3), 0.0]])
    loss = run.cross_entropy(lambda: logits, torch.tensor([0]))
    assert float(loss) == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))


def test_the_rate_falls_along_a_cosine(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(steps=10, rate=0.01)
    run = PictureClassifierRun(pictures, asked, classes=("bright", "dark"), device=torch.device("cpu"))
    monkeypatch.setattr(run, "loss", lambda: sum(0 * p.sum() for p in run.classifier.parameters()))
    rates = [run.optimizer.param_groups[0]["lr"] for _ in run]
    assert rates == pytest.approx([0.005 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])


@pytest.mark.parametrize("kind", ["latent", "picture"])
def test_bfloat16_leaves_the_weights_in_float32(backbone: UNetBackbone, pictures: Pictures, kind: str) -> None:
    names, asked = ("bright", "dark"), settings(steps=2, bf16=True)
    run = (
        LatentClassifierRun(backbone, pictures, asked, classes=names)
        if kind == "latent"
        else PictureClassifierRun(pictures, asked, classes=names, device=torch.device("cpu"))
    )
    seen = set[torch.dtype]()
    run.classifier.head.register_forward_hook(lambda *parts: seen.add(parts[-1].dtype))
    list(run)
    assert seen == {torch.bfloat16}
    assert {value.dtype for value in run.classifier.parameters()} == {torch.float32}


def test_a_picture_classifier_learns(pictures: Pictures) -> None:
    run = PictureClassifierRun(pictures, settings(), classes=("bright", "dark"), device=torch.device("cpu"))
    list(run)
    assert run.score(*pictures.fixed(8)) == 0
    assert not run.classifier.training


@pytest.mark.parametrize("kind", ["latent", "picture"])
def test_a_resumed_run_is_the_uninterrupted_one(
    backbone: UNetBackbone, pictures: Pictures, kind: str, tmp_path: Path
) -> None:
    def run() -> LatentClassifierRun | PictureClassifierRun:
        if kind == "latent":
            return LatentClassifierRun(backbone, pictures, settings(steps=12), classes=("bright", "dark"))
        names, device = ("bright", "dark"), torch.device("cpu")
        return PictureClassifierRun(pictures, settings(steps=12), classes=names, device=device)

    whole = run()
    list(whole)
    half = run()
    for _ in zip(range(6), half, strict=False):
        pass
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(half.step, half.state(), {})
    rest = gone_on(run(), checkpoints)
    list(rest)
    for name, value in whole.classifier.state_dict().items():
        assert torch.equal(value, rest.classifier.state_dict()[name]), name


def test_classes_are_the_captions() -> None:
    examples = [Example(Path("x"), caption, caption) for caption in ("b", "a", "b")]
    assert classes_of(examples) == ("a", "b")
    for captions in (["a"], ["a", ""]):
        with pytest.raises(UsageError, match="classes"):
            classes_of([Example(Path("x"), caption, caption) for caption in captions])


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 1}, {"rate": 0}, {"smoothing": 1}, {"window": (0.9, 0.1)}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        settings(**wrong)
