import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision import models
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from sketchguide.classifiers import IconClassifier, save_classifier
from sketchguide.errors import ModelNotFoundError, UsageError, WeightsError
from sketchguide.perception import Features, identity_loss, load_features, perceptual_loss


def pictures(count: int = 2, side: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "classifier.safetensors"
    torch.manual_seed(0)
    save_classifier(IconClassifier(("a", "b"), size=32, channels=(8, 16, 16)), path)
    return path


def test_an_own_classifier_has_its_stages_and_passes_the_gradient(own: Path) -> None:
    features = load_features(str(own))
    images = pictures().requires_grad_()
    found = features(images)
    assert [tuple(stage.shape) for stage in found] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 16, 4, 4)]
    (gradient,) = torch.autograd.grad(found[-1].sum(), images)
    assert float(gradient.norm()) > 0
    assert not features.network.training


@pytest.mark.parametrize("size", [128, 256])
def test_a_classifier_of_any_size_keeps_its_stages(size: int, tmp_path: Path) -> None:
    save_classifier(IconClassifier(("a", "b"), size=size, channels=(8, 16, 16)), tmp_path / "classifier.safetensors")
    found = load_features(str(tmp_path / "classifier.safetensors"))(pictures(1))
    assert [tuple(stage.shape[1:]) for stage in found] == [
        (c, size // s, size // s) for c, s in ((8, 2), (16, 4), (16, 8))
    ]


def test_losses_are_zero_for_the_same_picture_and_rise_with_the_difference(own: Path) -> None:
    features, images = load_features(str(own)), pictures()
    near, far = images + 0.05 * pictures(2).flip(0), -images
    for loss in (perceptual_loss, identity_loss):
        same, little, much = (loss(features(other), features(images)) for other in (images, near, far))
        assert same.tolist() == pytest.approx([0, 0], abs=1e-6)
        assert little.shape == (2,)
        assert bool((much > little).all())
        assert bool((little > 0).all())


def colours(*of: tuple[float, float, float]) -> list[torch.Tensor]:
    """Two stages of pictures of one colour each."""
    found = torch.tensor(of)[..., None, None]
    return [found.expand(-1, -1, 16, 16), found.expand(-1, -1, 4, 4)]


def test_perceptual_loss_of_known_colours() -> None:
    red, green, pink, black = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, 0.0)
    distance = perceptual_loss(colours(red, red, red, red), colours(red, green, pink, (-0.5, 0.0, 0.0)))
    assert distance.tolist() == pytest.approx([0, 1, 1 - 0.6, 2])
    assert perceptual_loss(colours(black), colours(black)).item() == 0
    assert perceptual_loss(colours(black), colours(red)).item() == 0.5


def test_perceptual_loss_is_the_mean_of_one_minus_cosine() -> None:
    a, b = ([images, F.avg_pool2d(images, 4)] for images in (pictures(), pictures().flip(0)))
    cosines = [1 - F.cosine_similarity(x, y) for x, y in zip(a, b, strict=True)]
    expected = torch.stack([c.mean(dim=(1, 2)) for c in cosines]).mean(dim=0)
    assert expected.min() > 0.1
    assert torch.allclose(perceptual_loss(a, b), expected, atol=1e-6)
    assert torch.allclose(perceptual_loss(b, a), expected, atol=1e-6)


def test_torchvision_with_weights_from_a_file(tmp_path: Path) -> None:
    network = models.squeezenet1_1()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    features = load_features(f"torchvision:squeezenet1_1={tmp_path / 'weights.safetensors'}")
    assert [path.split(".")[0] for path in features.taps] == ["features"] * len(features.taps)
    assert len(features(pictures(1))) == len(features.taps) >= 3
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="does not hold the weights of torchvision:squeezenet1_1"):
        load_features(f"torchvision:squeezenet1_1={tmp_path / 'other.safetensors'}")


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", ("relu", "layer1", "layer2", "layer3", "layer4")),
        ("vgg11", ("features.4", "features.9", "features.14", "features.19", "features")),
        ("mobilenet_v3_small", ("features.0", "features.1", "features.3", "features.8", "features")),
    ],
)
def test_stages_are_what_blocks_end_with(name: str, stages: tuple[str, ...]) -> None:
    """Not what is inside the next one, and of a module that is called twice not what it was at first."""
    features = Features(models.get_model(name, weights=None))
    assert features.taps == stages
    assert [2 ** (i + 1) for i in range(5)] == [64 // stage.shape[2] for stage in features(torch.rand(1, 3, 64, 64))]


def test_a_vision_transformer_gives_its_blocks() -> None:
    network = models.VisionTransformer(
        image_size=224, patch_size=32, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=3
    )
    features = Features(network, side=224)
    found = features(pictures(1))
    assert len(found) == 4
    assert all(stage.shape == (1, 16, 50, 1) for stage in found)


def test_networks_are_shown_pictures_of_the_size_they_were_trained_on() -> None:
    """A transformer that takes one size alone, and a network that refuses small pictures."""
    vit = models.VisionTransformer(
        image_size=96, patch_size=32, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=3
    )
    assert [stage.shape for stage in Features(vit, side=96)(pictures(1))] == [(1, 16, 10, 1)] * 4
    strict = nn.Sequential(nn.Conv2d(3, 4, 31, stride=2), nn.Conv2d(4, 4, 31, stride=2), nn.Conv2d(4, 4, 3, stride=2))
    assert len(Features(strict, side=224)(pictures(1))) >= 2
    with pytest.raises(UsageError, match="takes no pictures of 32 pixels"):
        Features(strict, side=32)

    class Silent(nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    with pytest.raises(UsageError, match="takes no pictures of 224 pixels: AssertionError"):
        Features(Silent())


def test_the_network_sees_colours_by_their_mean_and_deviation() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1))
    features = Features(network, mean=(0.1, 0.2, 0.3), deviation=(0.4, 0.5, 0.8))
    seen: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    features(torch.tensor([-1.0, 0.0, 1.0])[:, None, None].expand(1, 3, 64, 64))
    (shown,) = seen
    assert shown.shape == (1, 3, 64, 64)
    assert shown[0, :, 0, 0].tolist() == pytest.approx([(0 - 0.1) / 0.4, (0.5 - 0.2) / 0.5, (1 - 0.3) / 0.8])


def test_a_transformers_network_is_taken_from_its_folder_with_its_own_size_and_colours(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=96, patch_size=32
    )
    ViTModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    features = load_features(f"transformers:{tmp_path}")
    assert features.side == 96
    assert features.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert features.deviation.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert [stage.shape for stage in features(pictures(1))] == [(1, 16, 10, 1)] * 4


def test_what_is_not_there_is_named(tmp_path: Path, own: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no network 'resnet0'"):
        load_features("torchvision:resnet0")
    with pytest.raises(ModelNotFoundError) as caught:
        load_features("torchvision:resnet0", field="drawing_features")
    assert caught.value.field == "drawing_features"
    with pytest.raises(ModelNotFoundError, match="No classifier at"):
        load_features(str(tmp_path / "none.safetensors"))
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no picture classifier"):
        load_features(str(tmp_path / "other.safetensors"))
    assert isinstance(load_features(str(own)).network, nn.Module)


@pytest.mark.parametrize("name", ["hf-hub:somebody/network", "local-dir:/somewhere", "hf_hub:a/b"])
def test_networks_of_anybody_are_not_loaded_by_timm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their weights may be pickles, and a picture's recipe may name them."""
    timm = SimpleNamespace(create_model=lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setitem(sys.modules, "timm", timm)
    with pytest.raises(ModelNotFoundError, match="only names of timm's own list are taken"):
        load_features(f"timm:{name}")
