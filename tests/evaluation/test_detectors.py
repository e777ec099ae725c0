from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from sketchguide.errors import WeightsError
from sketchguide.evaluation.detectors import NETWORKS, load_detector, smish
from sketchguide.evaluation.metrics import edge_f1
from sketchguide.extractors import EXTRACTORS

WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "weights"
PARAMETERS = {"tin2": 244_229, "teed": 58_910}


def random_weights(name: str, *, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {key: value.shape for key, value in NETWORKS[name]().state_dict().items()}
    return {key: torch.randn(shape, generator=rng) * 0.05 for key, shape in shapes.items()}


@pytest.fixture(params=sorted(NETWORKS))
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.safetensors"
    save_file(random_weights(request.param), path)
    return path


def picture(side: int) -> Tensor:
    """A blue square on yellow paper with a pale disk inside, (1, 3, side, side)."""
    y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
    square = ((x - 0.5).abs() < 0.3) & ((y - 0.5).abs() < 0.3)
    inner = torch.hypot(x - 0.5, y - 0.5) < 0.15
    colours = torch.tensor([[0.97, 0.88, 0.3], [0.2, 0.42, 0.85], [0.9, 0.95, 0.9]])
    return (colours[square.long() + inner.long()].permute(2, 0, 1) * 2 - 1)[None]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_number_of_parameters_is_that_of_the_weight_files(name: str) -> None:
    assert sum(p.numel() for p in NETWORKS[name]().parameters()) == PARAMETERS[name]


def test_smish_at_known_points() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    expected = x * torch.tanh(torch.log(1 + torch.sigmoid(x)))
    assert torch.allclose(smish(x), expected)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 33), (129, 131), (16, 40)])
def test_any_size_gives_a_map_of_that_size(weights: Path, height: int, width: int) -> None:
    detector = load_detector(weights)
    assert detector.name == weights.stem
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    edges = detector(images)
    assert edges.shape == (2, 1, height, width)
    assert ((edges >= 0) & (edges <= 1)).all()
    assert not edges.requires_grad
    assert torch.allclose(detector(images[1:]), edges[1:], atol=1e-5)


def test_the_networks_see_blue_green_and_red(weights: Path) -> None:
    """In this order, and in 0..255: so they were trained."""
    detector = load_detector(weights)
    seen: list[Tensor] = []
    detector.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    red, green, blue = 1.0, 0.0, -1.0
    detector(torch.tensor([red, green, blue])[None, :, None, None].expand(1, 3, 64, 64))
    (pixels,) = seen
    assert torch.allclose(pixels.mean(dim=(0, 2, 3)), torch.tensor([0.0, 127.5, 255.0]), atol=0.01)


def test_flat_pictures_have_no_edge_at_the_border(weights: Path) -> None:
    edges = load_detector(weights)(torch.full((1, 3, 128, 128), 0.5))
    middle = edges[0, 0, 40:-40, 40:-40].mean()
    assert torch.allclose(edges[0, 0, 0], middle.expand(128), atol=0.02)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere") as caught:
        load_detector(tmp_path / "nowhere.safetensors")
    assert caught.value.hint


def test_truncated_file(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="no readable safetensors"):
        load_detector(weights)


def test_another_network(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"conv1\.weight"):
        load_detector(path)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    tensors = random_weights("teed")
    tensors["side_1.conv.bias"][0] = float("nan")
    save_file(tensors, tmp_path / "teed.safetensors")
    with pytest.raises(WeightsError, match="finite"):
        load_detector(tmp_path / "teed.safetensors")


@pytest.mark.shared
@pytest.mark.parametrize(("name", "least"), [("tin2", 0.9), ("teed", 0.8)])
def test_true_weights_find_the_outlines(name: str, least: float) -> None:
    if not WEIGHTS.is_dir():
        pytest.skip(f"no weights at {WEIGHTS}")
    detector = load_detector(WEIGHTS / f"{name}.safetensors")
    images = F.avg_pool2d(picture(256), 4)
    score = edge_f1(detector(images), EXTRACTORS["edges"](images), tolerance=2)
    assert score.f1.item() > least
