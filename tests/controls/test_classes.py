from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sketchguide.backbones.base import Condition
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.classifiers import LatentClassifier
from sketchguide.controls.base import Guide, trained_on
from sketchguide.controls.classes import ClassGuide
from sketchguide.controls.edges import LatentGuide
from sketchguide.controls.strengths import Score
from sketchguide.errors import UsageError
from sketchguide.levels import Level, Prediction
from sketchguide.predictors import LatentPredictor
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from support import Tiny

NETWORK = "small"
GRID = (16, 16)


def start() -> Tensor:
    return noise(generators([3, 4]), (4, *GRID))


def walk(backbone: UNetBackbone, *guides: Guide, scale: float = 1.0) -> Tensor:
    told, negative = backbone.describe(["a cat", "two dogs"]), backbone.describe(["", ""])
    levels = backbone.levels(4)
    return list(sample(backbone, told, start(), levels, negative=negative, scale=scale, guides=guides))[-1].latent


@pytest.mark.parametrize("scale", [1.0, 5.0], ids=["plain", "with-cfg"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_it_is_the_shift_of_epsilon(tiny: Tiny, classifier: LatentClassifier, kind: str, scale: float) -> None:
    """Law 9, with the classifier itself: eps - s sqrt(1 - a_t) grad log p(y | x_t), an image's own class each."""
    backbone = tiny(prediction_type=kind)
    ours = walk(backbone, ClassGuide(classifier, [2, 0], strength=Score(40.0)), scale=scale)

    condition, negative = backbone.describe(["a cat", "two dogs"]), backbone.describe(["", ""])
    latent = start()
    for now, to in pairwise(backbone.levels(4)):
        with torch.no_grad():
            output = backbone.run(latent, torch.tensor([now.time]), condition)
            plain = backbone.run(latent, torch.tensor([now.time]), negative)
        output = plain + scale * (output - plain)
        epsilon = output if kind == "epsilon" else now.sigma * latent + now.alpha * output
        seen = latent.clone().requires_grad_()
        likelihood = F.log_softmax(classifier(seen, now), dim=1)[[0, 1], [2, 0]].sum()
        (gradient,) = torch.autograd.grad(likelihood, seen)
        epsilon = epsilon - 40.0 * (1 - now.alpha**2) ** 0.5 * gradient
        latent = to.alpha * (latent - now.sigma * epsilon) / now.alpha + to.sigma * epsilon
    assert float((ours - latent).norm() / latent.norm()) < 1e-4
    assert float((ours - walk(backbone, scale=scale)).norm() / latent.norm()) > 1e-3


def test_it_raises_the_likelihood_and_adds_to_a_drawings_pull(
    tiny: Tiny, classifier: LatentClassifier, predictor: LatentPredictor
) -> None:
    backbone, last = tiny(), tiny().levels(4)[-2]
    drawn = LatentGuide(predictor, torch.zeros(1, 4, *GRID), window=(0.0, 0.8))
    pulled = ClassGuide(classifier, [1], strength=Score(100.0))

    def likely(latent: Tensor) -> Tensor:
        return F.log_softmax(classifier(latent, last), dim=1)[:, 1]

    assert bool((likely(walk(backbone, pulled)) > likely(walk(backbone))).all())
    together = walk(backbone, drawn, pulled)
    assert torch.allclose(together, walk(backbone, pulled, drawn), atol=1e-4)
    assert not torch.allclose(together, walk(backbone, drawn), atol=1e-3)


def test_alone_it_spares_the_networks_graph(
    tiny: Tiny, classifier: LatentClassifier, predictor: LatentPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, predict = tiny(), UNetBackbone.predict
    graphs: list[bool] = []

    def watched(self: UNetBackbone, latent: Tensor, level: Level, condition: Condition) -> Prediction:
        prediction = predict(self, latent, level, condition)
        graphs.append(prediction.clean.requires_grad)
        return prediction

    monkeypatch.setattr(UNetBackbone, "predict", watched)
    pulled = ClassGuide(classifier, [1])
    drawn = LatentGuide(predictor, torch.zeros(1, 4, *GRID), window=(0.0, 0.4))
    walk(backbone, pulled)
    walk(backbone, pulled, drawn)
    assert graphs == [False] * 4 + [True] * 2 + [False] * 2


@pytest.mark.parametrize("training", [False, True], ids=["new", "in-training"])
def test_defect_batchnorm_in_train_mode_at_inference(tiny: Tiny, classifier: LatentClassifier, training: bool) -> None:
    one = LatentClassifier(classifier.config)
    if training:
        one.train()
    before = {name: value.clone() for name, value in one.named_buffers()}
    guide = ClassGuide(one, [1], strength=Score(40.0))

    def last(seeds: list[int]) -> Tensor:
        told, begin = tiny().describe(["a cat"] * len(seeds)), noise(generators(seeds), (4, *GRID))
        *_, moment = sample(tiny(), told, begin, tiny().levels(2), guides=[guide])
        return moment.latent

    assert torch.allclose(last([1, 2])[:1], last([1]), rtol=1e-3, atol=1e-3)  # neighbours in the batch do not matter
    assert all(torch.equal(value, before[name]) for name, value in one.named_buffers())


def test_it_says_which_noise_its_classifier_was_trained_on(classifier: LatentClassifier) -> None:
    narrower = LatentClassifier(replace(classifier.config, window=(0.2, 0.75)))
    assert trained_on(ClassGuide(narrower, [1], window=(0.3, 0.5))) == (0.2, 0.75)


def test_wrong_settings_are_refused(tiny: Tiny, classifier: LatentClassifier) -> None:
    for targets in ([], [3], [-1]):
        with pytest.raises(UsageError, match="class numbers are 0 to 2"):
            ClassGuide(classifier, targets)
    for every in (0, 1.5, float("nan")):
        with pytest.raises(UsageError, match=f"every is {every}"):
            ClassGuide(classifier, [0], every=every)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="3 classes for 2 pictures"):
        walk(tiny(), ClassGuide(classifier, [0, 1, 2]))
