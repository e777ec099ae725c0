"""What many tests share: small random models, a predictor that fits them, and the data folder beside the clone."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from drawings import EXAMPLES
from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.classifiers import ClassifierConfig, LatentClassifier
from sketchguide.methods import Batch
from sketchguide.predictors import LatentPredictor, PredictorConfig, choose_taps
from sketchguide.request import Request
from sketchguide.sketch import Sketch
from support import MakePredictor, Tiny, a_map, draw_boxes, small_stable_diffusion

# The processes of one test run share the cores; each with a thread per core would be slower than one process.
torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


def backbones_of(base: StableDiffusionPipeline) -> Tiny:
    """`make(prediction_type="v_prediction", …)`: a backbone of `base` whose scheduler has these settings.

    All of them share one set of random weights: a test that changes the network makes its own pipeline.
    """
    made: dict[tuple[Any, ...], UNetBackbone] = {}

    def make(**scheduler: Any) -> UNetBackbone:
        key = tuple(sorted(scheduler.items()))
        if key not in made:
            changed = DDIMScheduler.from_config(base.scheduler.config, **scheduler)
            changed.register_to_config(**scheduler)  # also what only other schedulers know
            pipeline = StableDiffusionPipeline(
                **(base.components | {"scheduler": changed}), requires_safety_checker=False
            )
            pipeline.set_progress_bar_config(disable=True)
            made[key] = UNetBackbone(pipeline, name="tiny")
        return made[key]

    return make


def predictors_of(backbone: UNetBackbone) -> MakePredictor:
    """`make(seed=1, …)`: an untrained predictor for `backbone`, in eval mode; the rest goes into its config."""
    taps = choose_taps(backbone.taps)

    def make(seed: int = 1, **config: Any) -> LatentPredictor:
        settings: dict[str, Any] = {
            "taps": tuple(tap.path for tap in taps),
            "channels": tuple(tap.channels for tap in taps),
            "latent_channels": 4,
            "family": "unet",
            "backbone": "tiny",
            "widths": (16, 8),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            predictor = LatentPredictor(PredictorConfig(**(settings | config)))
            for module in predictor.modules():  # statistics that differ from those of a new layer, as after training
                if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
                    module.running_mean.normal_(0.0, 0.1)
                    assert module.running_var is not None
                    module.running_var.uniform_(0.5, 1.5)
        return predictor.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def whole() -> Tiny:
    return backbones_of(tiny_stable_diffusion())


@pytest.fixture(scope="session")
def small() -> Tiny:
    return backbones_of(small_stable_diffusion())


@pytest.fixture(scope="module")
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """`whole`, or `small` in a file that says `NETWORK = "small"`: the blocks of the network are no matter to it."""
    return request.getfixturevalue(getattr(request.module, "NETWORK", "whole"))


@pytest.fixture(scope="module")
def make_predictor(tiny: Tiny) -> MakePredictor:
    return predictors_of(tiny())


@pytest.fixture(scope="module")
def predictor(make_predictor: MakePredictor) -> LatentPredictor:
    return make_predictor()


@pytest.fixture(scope="session")
def classifier() -> LatentClassifier:
    """An untrained one for `tiny`, of the classes a, b and c."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        config = ClassifierConfig(
            classes=("a", "b", "c"), latent_channels=4, stride=2, family="unet", backbone="tiny", widths=(16, 16)
        )
        return LatentClassifier(config).requires_grad_(False)


@pytest.fixture
def batch(tiny: Tiny) -> Batch:
    """Two small pictures to make, of a cat and of a dog, each along a line of its own."""
    backbone, size = tiny(), (32, 32)
    maps = [a_map(size, at=at) for at in (0.2, 0.7)]
    request = Request.checked(prompt="", seed=0, steps=4, scale=3, size=size)
    return Batch(backbone, request, ["a cat", "a dog"], maps, [5, 6])


@pytest.fixture(scope="session")
def cat() -> Sketch:
    return Sketch.open(EXAMPLES / "cat.svg")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data folder beside the clone; see the `shared` marker."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"there is no data folder {folder}")
    return folder


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six captioned pictures to train on."""
    folder = tmp_path_factory.mktemp("boxes")
    draw_boxes(folder, count=6)
    return folder
