from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from sketchguide.errors import WeightsError
from sketchguide.evaluation.detectors import Tin2, load_detector
from sketchguide.evaluation.metrics import edge_f1
from sketchguide.extractors import EXTRACTORS

WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "weights"


def random_weights() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {key: torch.randn(value.shape, generator=rng) * 0.05 for key, value in Tin2().state_dict().items()}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tin2.safetensors"
    save_file(random_weights(), path)
    return path


def picture(side: int) -> Tensor:
    """A blue square on yellow paper with a pale disk inside, (1, 3, side, side)."""
    y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
    square = ((x - 0.5).abs() < 0.3) & ((y - 0.5).abs() < 0.3)
    inner = torch.hypot(x - 0.5, y - 0.5) < 0.15
    colours = torch.tensor([[0.97, 0.88, 0.3], [0.2, 0.42, 0.85], [0.9, 0.95, 0.9]])
    return (colours[square.long() + inner.long()].permute(2, 0, 1) * 2 - 1)[None]


def test_number_of_parameters_is_that_of_the_weight_file() -> None:
    assert sum(p.numel() for p in Tin2().parameters()) == 244_229


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 33), (129, 131), (16, 40)])
def test_any_size_gives_a_map_of_that_size(weights: Path, height: int, width: int) -> None:
    detector = load_detector(weights)
    assert detector.name == "tin2"
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    edges = detector(images)
    assert edges.shape == (2, 1, height, width)
    assert ((edges >= 0) & (edges <= 1)).all()
    assert not edges.requires_grad
    assert torch.allclose(detector(images[1:]), edges[1:], atol=1e-5)


def test_the_network_sees_blue_green_and_red(weights: Path) -> None:
    """In this order, and in 0..255: so it was trained."""
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


def test_tensors_of_another_shape(tmp_path: Path) -> None:
    tensors = random_weights()
    tensors["score_final.weight"] = torch.zeros(1, 3, 1, 1)
    save_file(tensors, tmp_path / "wide.safetensors")
    with pytest.raises(WeightsError, match="not those of TIN2"):
        load_detector(tmp_path / "wide.safetensors")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    tensors = random_weights()
    tensors["score_final.bias"][0] = float("nan")
    save_file(tensors, tmp_path / "tin2.safetensors")
    with pytest.raises(WeightsError, match="finite"):
        load_detector(tmp_path / "tin2.safetensors")


@pytest.mark.shared
def test_true_weights_find_the_outlines() -> None:
    if not WEIGHTS.is_dir():
        pytest.skip(f"no weights at {WEIGHTS}")
    detector = load_detector(WEIGHTS / "tin2.safetensors")
    images = F.avg_pool2d(picture(256), 4)
    score = edge_f1(detector(images), EXTRACTORS["edges"](images), tolerance=2)
    assert score.f1.item() > 0.9
