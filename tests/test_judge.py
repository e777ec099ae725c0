"""The script in benchmarks/ that trains the judge and the recogniser."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from sketchguide.classifiers import IconClassifier, load_classifier
from sketchguide.errors import TrainingError
from sketchguide.evaluation.metrics import accuracy
from sketchguide.generation import generate
from sketchguide.images import to_tensor
from support import load_script

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("left", "right", "both")
SMALL = (4, 8)


@pytest.fixture(scope="module")
def judge() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes" / "icons"))
        yield load_script(ROOT / "benchmarks" / "classifier.py", patch)


def batches(*, size: int = 16, count: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures whose left half, right half or both are bright."""
    rng = Generator().manual_seed(0)
    while True:
        labels = torch.randint(3, (count,), generator=rng)
        images = torch.randn(count, 3, size, size, generator=rng) * 0.2 - 0.5
        images[labels != 1, :, :, : size // 2] += 1
        images[labels != 0, :, :, size // 2 :] += 1
        yield images.clamp(-1, 1), labels


def test_the_judge_of_the_tables_knows_what_the_model_draws() -> None:
    file = ROOT / "benchmarks" / "judge" / "icons-64.safetensors"
    if not file.is_file():
        pytest.skip("the judge is not part of this distribution")
    judge = load_classifier(file)
    codes = {"a red apple": "1f34e", "a mushroom": "1f344", "a banana": "1f34c"}
    assert len(judge.classes) == 255
    for prompt, code in codes.items():
        (picture,) = generate(prompt, seed=1, steps=15)
        with torch.no_grad():
            logits = judge(to_tensor([picture.image]))
        assert judge.classes[int(logits.argmax())] == code, prompt


@pytest.mark.parametrize("bf16", [False, True])
def test_learns_and_may_be_stopped_at_any_step(judge: ModuleType, bf16: bool) -> None:
    training = judge.train_classifier(
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


def test_training_repeats_and_leaves_the_global_generator_alone(judge: ModuleType) -> None:
    state = torch.random.get_rng_state()
    first, second = (
        list(itertools.islice(judge.train_classifier(batches(), classes=CLASSES, size=16, channels=SMALL, seed=3), 3))
        for _ in range(2)
    )
    assert [s.loss for s in first] == [s.loss for s in second]
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_average_lags_behind_the_network_but_starts_equal(
    judge: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[IconClassifier] = []

    class Watched(IconClassifier):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            networks.append(self)

    def weights(classifier: IconClassifier) -> Tensor:
        return torch.cat([value.detach().flatten() for value in classifier.parameters()])

    monkeypatch.setattr(judge, "IconClassifier", Watched)
    training = judge.train_classifier(batches(), classes=CLASSES, size=16, channels=SMALL)
    average = next(training).classifier
    (network,) = networks
    first = weights(average).clone()
    assert torch.equal(first, weights(network))
    for _ in range(5):
        next(training)
    way, lag = weights(network) - first, weights(network) - weights(average)
    assert 0.2 * way.norm() < lag.norm() < 0.8 * way.norm()


def test_a_loss_that_is_not_finite_stops_training(judge: ModuleType) -> None:
    broken = [(torch.full((4, 3, 16, 16), math.nan), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(TrainingError, match="step 1"):
        next(judge.train_classifier(broken, classes=CLASSES, size=16, channels=SMALL))


def test_soften_changes_each_picture_a_little_and_repeats(judge: ModuleType) -> None:
    images = next(batches(size=32, count=8))[0]
    softened = judge.soften(images, Generator().manual_seed(0))
    assert softened.shape == images.shape
    assert softened.abs().max() <= 1
    change = (softened - images).abs().mean(dim=(1, 2, 3))
    assert change.min() > 0.005
    assert change.max() < 0.4
    assert change.unique().numel() == 8
    assert torch.equal(softened, judge.soften(images, Generator().manual_seed(0)))
