import pytest
import torch
from torch import Tensor

from sketchguide.backbones.unet import UNetBackbone
from sketchguide.classifiers import IconClassifier
from sketchguide.controls.base import Guide
from sketchguide.controls.likeness import SketchGuide
from sketchguide.controls.strengths import Proportional
from sketchguide.errors import UsageError
from sketchguide.images import from_ink
from sketchguide.perception import Features, identity_loss, perceptual_loss
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from sketchguide.sketchers import Sketcher, SketcherConfig
from support import small_stable_diffusion

SIDE = 32


@pytest.fixture(scope="module")
def backbone() -> UNetBackbone:
    pipeline = small_stable_diffusion()
    pipeline.vae.register_to_config(scaling_factor=10.0)
    return UNetBackbone(pipeline, name="tiny")


@pytest.fixture(scope="module")
def sketcher() -> Sketcher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Sketcher(SketcherConfig(width=8, blocks=1)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def features() -> Features:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Features(IconClassifier(("a", "b"), size=SIDE, channels=(8, 16)))


def ink(count: int = 1, side: int = SIDE) -> Tensor:
    drawn = torch.zeros(count, 1, side, side)
    drawn[:, :, 5:27, 8] = 1
    return drawn


def walk(backbone: UNetBackbone, *guides: Guide) -> Tensor:
    told = backbone.describe(["a cat", "a dog"])
    latent = noise(generators([3, 4]), (4, 16, 16))
    return backbone.decode(list(sample(backbone, told, latent, backbone.levels(5), guides=guides))[-1].latent).detach()


def test_the_drawing_of_the_picture_comes_nearer(
    backbone: UNetBackbone, sketcher: Sketcher, features: Features
) -> None:
    guide = SketchGuide(backbone.decode, sketcher, features, ink(), window=(0.0, 1.0), strength=Proportional(1.0))

    def distance(pictures: Tensor) -> Tensor:
        return perceptual_loss(features(from_ink(sketcher(pictures))), features(from_ink(ink(2))))

    assert bool((distance(walk(backbone, guide)) < distance(walk(backbone))).all())


def test_a_reference_adds_the_identity_loss(backbone: UNetBackbone, sketcher: Sketcher, features: Features) -> None:
    reference = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    plain = SketchGuide(backbone.decode, sketcher, features, ink())
    both = SketchGuide(backbone.decode, sketcher, features, ink(), reference=reference, pictures=features)
    only = SketchGuide(backbone.decode, sketcher, features, ink(), reference=reference, pictures=features, identity=1.0)
    results = [walk(backbone, guide) for guide in (plain, both, only)]
    assert not torch.allclose(results[0], results[1], atol=1e-4)
    assert not torch.allclose(results[1], results[2], atol=1e-4)


def test_the_thing_in_the_picture_comes_nearer_to_the_reference(
    backbone: UNetBackbone, sketcher: Sketcher, features: Features
) -> None:
    reference = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    guide = SketchGuide(
        backbone.decode, sketcher, features, ink(), reference=reference, pictures=features, identity=1.0,
        window=(0.0, 1.0), strength=Proportional(1.0),
    )  # fmt: skip

    def distance(pictures: Tensor) -> Tensor:
        return identity_loss(features(pictures), features(reference.expand(2, -1, -1, -1)))

    assert bool((distance(walk(backbone, guide)) < distance(walk(backbone))).all())


def test_what_cannot_be_used_is_refused(backbone: UNetBackbone, sketcher: Sketcher, features: Features) -> None:
    with pytest.raises(UsageError, match="identity is 2"):
        SketchGuide(backbone.decode, sketcher, features, ink(), identity=2)
    with pytest.raises(UsageError, match=r"every is 1\.5; it must be a whole number"):
        SketchGuide(backbone.decode, sketcher, features, ink(), every=1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="reference needs a network"):
        SketchGuide(backbone.decode, sketcher, features, ink(), pictures=features)
    with pytest.raises(UsageError, match="no style 'oil'"):
        SketchGuide(backbone.decode, sketcher, features, ink(), style="oil")
    with pytest.raises(UsageError, match="3 drawings for 2 pictures"):
        walk(backbone, SketchGuide(backbone.decode, sketcher, features, ink(3)))
    three = torch.zeros(3, 3, SIDE, SIDE)
    with pytest.raises(UsageError, match="3 references for 2 pictures"):
        walk(backbone, SketchGuide(backbone.decode, sketcher, features, ink(), reference=three, pictures=features))
    with pytest.raises(UsageError, match="The drawing is 64x64, the picture 32x32"):
        walk(backbone, SketchGuide(backbone.decode, sketcher, features, ink(1, 64)))
