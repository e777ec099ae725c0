from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms
from torchvision.models.squeezenet import squeezenet1_0, squeezenet1_1

from sketchguide.errors import UsageError, WeightsError
from sketchguide.evaluation.features import SqueezeNet, load_squeezenet
from sketchguide.perception import Features


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(squeezenet1_0().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def network(weights: Path) -> SqueezeNet:
    return load_squeezenet(weights)


def pictures(count: int, height: int = 20, width: int = 20, *, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_stages_and_places_have_the_stated_shapes_and_ranges(network: SqueezeNet) -> None:
    stages = network.stages(pictures(2))
    assert [tuple(s.shape) for s in stages] == [
        (2, 96, 109, 109),
        (2, 256, 54, 54),
        (2, 512, 27, 27),
        (2, 512, 13, 13),
    ]
    assert all((s >= 0).all() and not s.requires_grad for s in stages)
    places = network.places(pictures(2))
    assert places.shape == (2, 729, 512)
    assert torch.allclose(places[:, 27], stages[2][:, :, 1, 0])
    embedding = network.embedding(pictures(2))
    assert torch.allclose(embedding.square().sum(dim=1), torch.full((2,), 512.0))
    assert torch.allclose(F.normalize(embedding), F.normalize(stages[3].mean(dim=(2, 3))))
    look = network.look(pictures(2))
    assert all(torch.equal(one, other) for one, other in zip(look.stages, stages, strict=True))
    assert torch.equal(look.places, places)
    assert torch.equal(look.embedding, embedding)


def test_embedding_equals_torchvision_preprocessing_and_network(weights: Path) -> None:
    small = pictures(1, 24, 16)
    resized = F.interpolate((small + 1) / 2, size=(336, 224), mode="bilinear")
    standard = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(resized)
    network = load_squeezenet(weights)
    expected = network.features.network.features(standard).mean(dim=(2, 3))
    assert torch.allclose(network.embedding(small), expected / expected.norm() * 512**0.5, rtol=1e-3, atol=1e-3)
    assert expected.std() > 0.1 * expected.mean()


def test_each_picture_has_its_own_features_in_any_batch(weights: Path) -> None:
    network = SqueezeNet(Features(load_squeezenet(weights).features.network, side=48))
    batch = pictures(35, seed=1)
    embedding = network.embedding(batch)
    assert embedding.shape == (35, 512)
    assert torch.allclose(network.embedding(batch[34:]), embedding[34:], atol=1e-5)


def test_bad_pictures(network: SqueezeNet) -> None:
    for call in (network.embedding, network.places, network.stages):
        with pytest.raises(UsageError, match="Images of shape"):
            call(torch.zeros(2, 1, 32, 32))


def test_missing_truncated_and_wrong_files(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere") as caught:
        load_squeezenet(tmp_path / "nowhere.safetensors")
    assert caught.value.hint
    assert caught.value.field == "features"
    (tmp_path / "short.safetensors").write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="no readable safetensors"):
        load_squeezenet(tmp_path / "short.safetensors")
    save_file(squeezenet1_1().state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"not hold the weights of torchvision:squeezenet1_0"):
        load_squeezenet(tmp_path / "other.safetensors")


@pytest.mark.shared
def test_true_weights_tell_a_disk_from_stripes(shared: Path) -> None:
    path = shared / "weights" / "squeezenet1_0_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"there are no weights {path}")
    network = load_squeezenet(path)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 64)] * 2, indexing="ij")
    disks = [(torch.hypot(x - a, y) < 0.6).float() for a in (0.0, 0.15)]
    stripes = ((x * 20).sin() > 0).float()
    images = torch.stack([*disks, stripes])[:, None].expand(-1, 3, -1, -1) * 1.6 - 0.8
    near = F.cosine_similarity(*network.embedding(images[:2]), dim=0)
    far = F.cosine_similarity(*network.embedding(images[1:]), dim=0)
    assert near > 0.95
    assert far < near - 0.1
