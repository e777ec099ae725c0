from pathlib import Path

import pytest
import torch

from sketchguide.errors import UsageError, WeightsError
from sketchguide.sketchers import STYLES, Sketcher, SketcherConfig
from sketchguide.weights import write_network


def sketcher(seed: int = 0) -> Sketcher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Sketcher(SketcherConfig(width=8, blocks=1)).eval()


def pictures(height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_it_draws_at_any_size_in_every_style_and_passes_the_gradient() -> None:
    images = pictures(33, 50).requires_grad_()
    drawn = sketcher()(images)
    assert drawn.shape == (2, 1, 33, 50)
    assert 0 <= float(drawn.detach().min()) <= float(drawn.detach().max()) <= 1
    (gradient,) = torch.autograd.grad(drawn.sum(), images)
    assert float(gradient.abs().amin(dim=(1, 2, 3)).min()) > 0
    assert float(gradient.norm()) > 0
    each = [sketcher()(pictures(), style) for style in STYLES]
    assert all(not torch.allclose(each[0], other, atol=1e-4) for other in each[1:])
    numbered = sketcher()(pictures(), torch.tensor([0, 1]))
    assert torch.allclose(numbered[1], each[1][1], atol=1e-5)


def test_styles_draw_differently() -> None:
    step = torch.full((1, 3, 64, 64), 0.9)
    step[..., 16:48, 16:48] = -0.5
    step[..., 28:36, 28:36] = -0.38  # a faint inner square, which only `detail` draws
    ink = {name: float(extract(step).sum()) for name, extract in STYLES.items()}
    assert ink["detail"] > 1.2 * ink["edges"]
    assert ink["bold"] > 1.5 * ink["edges"]
    assert ink["outline"] > 0


def test_a_saved_one_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    sketcher(3).save(path)
    again = Sketcher.load(path)
    assert again.config == sketcher().config
    assert torch.equal(again(pictures()), sketcher(3)(pictures()))
    assert not any(p.requires_grad for p in again.parameters())


def test_a_default_one_is_below_5_mb(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    Sketcher(SketcherConfig()).save(path)
    assert path.stat().st_size < 5e6


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no style 'oil'"):
        sketcher()(pictures(), "oil")
    with pytest.raises(UsageError):
        SketcherConfig(width=9)
    path = tmp_path / "other.safetensors"
    write_network(sketcher(), path, kind="photo-to-sketch", config={"styles": ["edges"], "width": 8, "blocks": 2})
    with pytest.raises(WeightsError, match="does not hold a sketchguide photo-to-sketch"):
        Sketcher.load(path)
