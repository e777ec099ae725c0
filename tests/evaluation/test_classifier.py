from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from sketchguide.classifiers import FORMAT, IconClassifier, load_classifier, save_classifier
from sketchguide.errors import OutputError, TrainingError, UsageError, WeightsError
from sketchguide.evaluation.classifier import accuracy, soften, train_classifier

CLASSES = ("left", "right", "both")
SMALL = (4, 8)


def batches(*, size: int = 16, count: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures whose left half, right half or both are bright."""
    rng = Generator().manual_seed(0)
    while True:
        labels = torch.randint(3, (count,), generator=rng)
        images = torch.randn(count, 3, size, size, generator=rng) * 0.2 - 0.5
        images[labels != 1, :, :, : size // 2] += 1
        images[labels != 0, :, :, size // 2 :] += 1
        yield images.clamp(-1, 1), labels


def test_accuracy_by_hand() -> None:
    scores = torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 2, 3]])
    accepted = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]]).bool()
    assert accuracy(scores, accepted).tolist() == [1, 0, 0]
    assert accuracy(scores, accepted, top=2).tolist() == [1, 1, 1]


@pytest.mark.parametrize("top", [0, 4])
def test_accuracy_refuses_a_top_out_of_range(top: int) -> None:
    with pytest.raises(UsageError, match="1 to 3"):
        accuracy(torch.zeros(1, 3), torch.ones(1, 3).bool(), top=top)


def test_accuracy_refuses_other_shapes() -> None:
    with pytest.raises(UsageError, match="same"):
        accuracy(torch.zeros(2, 3), torch.ones(2, 4).bool())


def test_accepted_marks_every_right_class() -> None:
    classifier = IconClassifier(CLASSES, channels=SMALL)
    mask = classifier.accepted([["left"], ("right", "both")])
    assert mask.tolist() == [[True, False, False], [False, True, True]]
    with pytest.raises(UsageError, match="centre"):
        classifier.accepted([["centre", "left"]])
    with pytest.raises(UsageError, match="no class"):
        classifier.accepted([[]])


def test_default_network_is_small() -> None:
    classifier = IconClassifier([str(k) for k in range(255)])
    assert 0.8e6 < sum(p.numel() for p in classifier.parameters()) < 1.3e6


def test_pictures_of_another_size_are_resized() -> None:
    classifier = IconClassifier(CLASSES, size=16, channels=SMALL).eval()
    images = torch.rand(2, 3, 16, 16)
    larger = images.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert classifier(larger).shape == (2, 3)
    flat = torch.full((1, 3, 64, 40), 0.3)
    assert torch.allclose(classifier(flat), classifier(flat[..., :16, :16]), atol=1e-5)


def test_classes_must_differ() -> None:
    for classes in (["a", "a"], ["a"]):
        with pytest.raises(UsageError, match="classes"):
            IconClassifier(classes)


@pytest.mark.parametrize("bf16", [False, True])
def test_learns_and_may_be_stopped_at_any_step(bf16: bool) -> None:
    training = train_classifier(
        batches(count=16), classes=CLASSES, size=16, channels=SMALL, learning_rate=1e-2, bf16=bf16
    )
    steps = list(itertools.islice(training, 30))
    training.close()
    assert [state.step for state in steps] == list(range(1, 31))
    assert steps[-1].loss < 0.7 * steps[0].loss
    classifier = steps[-1].classifier
    assert not classifier.training
    images, labels = next(batches(count=200))
    accepted = torch.nn.functional.one_hot(labels, 3).bool()
    assert accuracy(classifier(images), accepted).mean() > 0.95


def test_training_repeats_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = (
        list(itertools.islice(train_classifier(batches(), classes=CLASSES, size=16, channels=SMALL, seed=3), 3))
        for _ in range(2)
    )
    assert [s.loss for s in first] == [s.loss for s in second]
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_average_lags_behind_the_network_but_starts_equal() -> None:
    losses = itertools.islice(train_classifier(batches(), classes=CLASSES, size=16, channels=SMALL), 1)
    classifier = next(losses).classifier
    assert all(value.isfinite().all() for value in classifier.state_dict().values())


def test_a_loss_that_is_not_finite_stops_training() -> None:
    broken = [(torch.full((4, 3, 16, 16), math.nan), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(TrainingError, match="step 1"):
        next(train_classifier(broken, classes=CLASSES, size=16, channels=SMALL))


def test_soften_changes_each_picture_a_little_and_repeats() -> None:
    images = next(batches(size=32, count=8))[0]
    softened = soften(images, Generator().manual_seed(0))
    assert softened.shape == images.shape
    assert softened.abs().max() <= 1
    change = (softened - images).abs().mean(dim=(1, 2, 3))
    assert change.min() > 0.005
    assert change.max() < 0.4
    assert change.unique().numel() == 8
    assert torch.equal(softened, soften(images, Generator().manual_seed(0)))


def test_saved_and_loaded_gives_the_same_scores(tmp_path: Path) -> None:
    state = next(train_classifier(batches(), classes=CLASSES, size=16, channels=SMALL))
    path = tmp_path / "new" / "icons.safetensors"
    save_classifier(state.classifier, path)
    loaded = load_classifier(path)
    assert (loaded.classes, loaded.size, loaded.channels) == (CLASSES, 16, SMALL)
    assert not loaded.training
    images = next(batches())[0]
    assert torch.equal(loaded(images), state.classifier(images))
    assert [entry.name for entry in path.parent.iterdir()] == ["icons.safetensors"]


def test_save_says_where_it_could_not_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        save_classifier(IconClassifier(CLASSES, channels=SMALL), tmp_path / "file" / "icons.safetensors")


@pytest.mark.parametrize("fault", ["missing", "truncated", "another format", "not finite", "other shapes"])
def test_load_refuses(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "icons.safetensors"
    if fault != "missing":
        save_classifier(IconClassifier(CLASSES, channels=SMALL), path)
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
