import math
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sketchguide.classifiers import (
    FORMAT,
    ClassifierConfig,
    IconClassifier,
    LatentClassifier,
    calibration_error,
    classes_in,
    find_class,
    find_class_in,
    fit_temperature,
    load_classifier,
    save_classifier,
)
from sketchguide.errors import MismatchError, OutputError, UsageError, WeightsError
from support import Tiny

CLASSES = ("duck", "house", "red apple")
SIDES, SMALL = ("left", "right", "both"), (4, 8)


def classifier(seed: int = 0, **config: object) -> LatentClassifier:
    settings = {"latent_channels": 4, "stride": 2, "family": "unet", "backbone": "tiny", "widths": (8, 16)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LatentClassifier(ClassifierConfig(classes=CLASSES, **(settings | config)))  # pyright: ignore[reportArgumentType]


def test_it_hears_the_noise_level_and_takes_any_size(tiny: Tiny) -> None:
    latent = torch.randn(2, 4, 15, 24, generator=torch.Generator().manual_seed(1))
    one, other = (classifier()(latent, tiny().level(p)) for p in (0.1, 0.9))
    assert one.shape == (2, 3)
    assert not torch.allclose(one, other, atol=1e-4)
    both = classifier().predict_at(latent, torch.tensor([tiny().level(0.1).time, tiny().level(0.9).time]))
    assert torch.allclose(both, torch.stack([one[0], other[1]]), atol=1e-5)


def test_a_saved_one_is_the_same_and_knows_itself(tmp_path: Path, tiny: Tiny) -> None:
    path = tmp_path / "classifier.safetensors"
    first = classifier(window=(0.1, 0.9))
    first.save(path)
    again = LatentClassifier.load(path)
    assert again.config == first.config
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    level = tiny().level(0.5)
    assert torch.equal(again(latent, level), first(latent, level))
    assert not any(p.requires_grad for p in again.parameters())
    again.check_fits(tiny())


def test_it_refuses_another_latent_naming_both(tiny: Tiny) -> None:
    with pytest.raises(MismatchError, match=r"'other' \(unet, 8 latent channels of 2 pixels\).*'tiny'"):
        classifier(latent_channels=8, backbone="other").check_fits(tiny())


@pytest.mark.parametrize("fault", ["kind", "missing", "widths"])
def test_files_that_are_something_else_are_refused(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "classifier.safetensors"
    classifier().save(path)
    tensors = load_file(path)
    header = '{"kind": "latent-predictor", "version": 1}'
    if fault == "missing":
        path.unlink()
    elif fault == "kind":
        save_file(tensors, path, {"sketchguide": header})
    else:
        del tensors["head.weight"]
        save_file(tensors, path, {"sketchguide": header.replace("predictor", "classifier")})
    with pytest.raises(WeightsError):
        LatentClassifier.load(path)


def test_names_are_found_and_near_ones_offered() -> None:
    assert find_class(" Red  APPLE", CLASSES) == 2
    with pytest.raises(UsageError, match="no class 'dck'") as caught:
        find_class("dck", CLASSES)
    assert caught.value.hint == "Did you mean duck?"
    with pytest.raises(UsageError) as caught:
        find_class("zzz", CLASSES)
    assert "duck, house" in caught.value.hint


def test_the_class_that_a_text_names() -> None:
    classes = ("apple", "red apple", "car", "t-shirt", "hat")
    assert find_class_in("A Red Apple, on a hat", classes) == 1
    assert find_class_in("an apple-red car", classes) == 0
    assert find_class_in("noto t-shirt", classes) == 3
    assert find_class_in("a hat in a car", classes) == 2  # of equally long names the first class
    assert find_class_in("a mug", ("cup, mug", "smug")) == 0
    assert find_class_in("a cup", ("car", "cup, mug")) == 1
    assert find_class_in("a cup", ("car,", "🍎", "cup")) == 2  # what is no word names nothing
    with pytest.raises(UsageError, match="'a carpet' names none of the 5 classes") as caught:
        find_class_in("a carpet", classes)
    assert caught.value.hint == "Did you mean car, apple?"
    with pytest.raises(UsageError) as caught:
        find_class_in("a capp on a blue shirt", ("t-shirt", "sun", "cup, cap"))
    assert caught.value.hint == "Did you mean cap, t-shirt, cup?"
    with pytest.raises(UsageError) as caught:
        find_class_in("", classes)
    assert caught.value.hint == "Some of them: apple, red apple, car, t-shirt, hat."


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cats", "Cat"),
        ("two wolves", "wolf"),
        ("berries on a plate", "berry"),
        ("BOXES", "box"),
        ("wine glasses", "wine glass"),
        ("three knives", "knife"),
        ("mugs", "cup, mug"),
        ("keys", "key"),
        ("a box of berries", "box"),  # the name itself comes first
    ],
)
def test_the_plural_of_a_class_names_it(text: str, name: str) -> None:
    classes = ("Cat", "wolf", "berry", "box", "wine glass", "knife", "cup, mug", "key")
    assert classes[find_class_in(text, classes)] == name


@pytest.mark.parametrize("text", ["bos", "wolfes", "berrys more", "catss"])
def test_what_is_no_plural_names_no_class(text: str) -> None:
    with pytest.raises(UsageError, match="names none"):
        find_class_in(text, ("cat", "box", "wolf"))


def test_the_nearest_names_of_a_long_text_are_found_at_once() -> None:
    classes = [f"thing {number}" for number in range(240)]
    started = time.monotonic()
    for text in ("words " * 1600, "w" * 10_000):
        with pytest.raises(UsageError, match="names none"):
            find_class_in(text, classes)
    assert time.monotonic() - started < 2


def test_calibration_error_by_hand() -> None:
    # Two answers at confidence 0.8, one of them right; two at 0.6, both right: (2 * 0.3 + 2 * 0.4) / 4.
    confident = torch.tensor([[0.8, 0.2], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]]).log()
    assert calibration_error(confident, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.35)
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert calibration_error(sure, torch.tensor([0, 1])) == pytest.approx(0)
    assert calibration_error(sure, torch.tensor([1, 0])) == pytest.approx(1)


def test_a_fitted_temperature_makes_confidence_what_it_is_worth() -> None:
    rng = torch.Generator().manual_seed(2)
    honest = torch.randn(4000, 5, generator=rng)
    labels = torch.distributions.Categorical(logits=honest).sample()
    for factor in (0.5, 1.0, 3.0):
        assert fit_temperature(honest * factor, labels) == pytest.approx(factor, rel=0.1)
        calibrated = honest * factor / fit_temperature(honest * factor, labels)
        assert calibration_error(calibrated, labels) < 0.04
    assert calibration_error(honest * 3, labels) > 0.2


def test_temperatures_divide_the_logits_and_travel_with_the_weights(tmp_path: Path, tiny: Tiny) -> None:
    low, middle, high = (tiny().level(p) for p in (0.9, 0.5, 0.1))  # time falls as the picture comes about
    plain, tempered = classifier(), classifier(temperatures=((low.time, 2.0), (high.time, 4.0)))
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    between = 2.0 + 2.0 * (middle.time - low.time) / (high.time - low.time)
    for level, value in ((low, 2.0), (middle, between), (high, 4.0), (tiny().level(0.0), 4.0)):
        assert torch.allclose(tempered(latent, level) * value, plain(latent, level), atol=1e-5)
    tempered.save(tmp_path / "classifier.safetensors")
    again = LatentClassifier.load(tmp_path / "classifier.safetensors")
    assert again.config == tempered.config
    assert torch.equal(again(latent, middle), tempered(latent, middle))


@pytest.mark.parametrize("wrong", [((5.0, 1.0), (5.0, 2.0)), ((9.0, 1.0), (5.0, 1.0)), ((5.0, 0.0),)])
def test_temperatures_that_make_no_sense_are_refused(wrong: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(UsageError, match="temperature"):
        classifier(temperatures=wrong)


def test_accepted_marks_every_right_class() -> None:
    classifier = IconClassifier(SIDES, channels=SMALL)
    mask = classifier.accepted([["left"], ("right", "both")])
    assert mask.tolist() == [[True, False, False], [False, True, True]]
    with pytest.raises(UsageError, match="centre"):
        classifier.accepted([["centre", "left"]])
    with pytest.raises(UsageError, match="no class"):
        classifier.accepted([[]])


def test_the_default_picture_classifier_is_small() -> None:
    classifier = IconClassifier([str(k) for k in range(255)])
    assert 0.8e6 < sum(p.numel() for p in classifier.parameters()) < 1.3e6


def test_pictures_of_another_size_are_resized() -> None:
    classifier = IconClassifier(SIDES, size=16, channels=SMALL).eval()
    images = torch.rand(2, 3, 16, 16)
    larger = images.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert classifier(larger).shape == (2, 3)
    flat = torch.full((1, 3, 64, 40), 0.3)
    assert torch.allclose(classifier(flat), classifier(flat[..., :16, :16]), atol=1e-5)


def test_classes_must_differ() -> None:
    for classes in (["a", "a"], ["a"]):
        with pytest.raises(UsageError, match="classes"):
            IconClassifier(classes)


def test_a_saved_picture_classifier_gives_the_same_scores(tmp_path: Path) -> None:
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    classifier = IconClassifier(SIDES, size=16, channels=SMALL)
    classifier(images)  # gives BatchNorm statistics
    path = tmp_path / "new" / "icons.safetensors"
    save_classifier(classifier, path)
    loaded = load_classifier(path)
    assert (loaded.classes, loaded.size, loaded.channels) == (SIDES, 16, SMALL)
    assert classes_in(path) == SIDES
    assert not loaded.training
    assert torch.equal(loaded(images), classifier.eval()(images))
    assert [entry.name for entry in path.parent.iterdir()] == ["icons.safetensors"]


def test_save_says_where_it_could_not_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        save_classifier(IconClassifier(SIDES, channels=SMALL), tmp_path / "file" / "icons.safetensors")


@pytest.mark.parametrize("fault", ["missing", "truncated", "another format", "not finite", "other shapes"])
def test_picture_classifiers_that_are_something_else_are_refused(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "icons.safetensors"
    if fault != "missing":
        save_classifier(IconClassifier(SIDES, channels=SMALL), path)
        tensors = load_file(path)
        shape = '{"classes": ["a", "b"], "size": 16, "channels": [4, 8]}'
        if fault == "truncated":
            path.write_bytes(path.read_bytes()[:-10])
        elif fault == "another format":
            save_file(tensors, path, metadata={"format": "pt"})
        elif fault == "other shapes":
            save_file(tensors, path, metadata={"format": FORMAT, "classifier": shape})
        else:
            tensors["head.bias"][0] = math.inf
            shape = '{"classes": ["left", "right", "both"], "size": 16, "channels": [4, 8]}'
            save_file(tensors, path, metadata={"format": FORMAT, "classifier": shape})
    with pytest.raises(WeightsError, match="icons") as caught:
        load_classifier(path)
    assert caught.value.hint
    if fault in ("missing", "truncated", "another format"):  # the others are told by the weights, which are not read
        with pytest.raises(WeightsError, match="icons"):
            classes_in(path)
