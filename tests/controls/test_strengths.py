import numpy as np
import pytest
import torch

from sketchguide.controls.strengths import Proportional, Score, Within
from sketchguide.errors import UsageError
from sketchguide.levels import Level
from sketchguide.solvers import Carried

NOW, CARRIED = Level(600, 0.6, 0.8, 0.4), Carried(0.8, 0.6)


def pair(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    gradient, move = torch.randn(2, count, 4, 5, 7, generator=torch.Generator().manual_seed(3))
    return gradient, move


def test_proportional_is_the_papers_rule() -> None:
    gradient, move = pair()
    found = Proportional(1.6)(gradient, move, NOW, CARRIED)
    for row in range(2):
        expected = -1.6 * move[row].norm() / gradient[row].norm() * gradient[row]
        assert torch.allclose(found[row], expected, atol=1e-6)


def test_defect_strength_computed_over_the_whole_batch() -> None:
    """Ports take one norm over the batch, or over the batch doubled by classifier-free guidance."""
    gradient, move = pair()
    gradient = gradient * torch.tensor([1.0, 1000.0])[:, None, None, None]
    both = Proportional(1.6)(gradient, move, NOW, CARRIED)
    for row in (0, 1):
        assert torch.equal(both[row], Proportional(1.6)(gradient[row : row + 1], move[row : row + 1], NOW, CARRIED)[0])


def test_an_even_pull_goes_as_far_and_shares_the_way_out() -> None:
    gradient, move = pair()
    gradient = gradient * torch.logspace(-2, 1, 7)
    gradient[:, :, 0] = 0
    way = (1.6 * move.flatten(1).norm(dim=1)).tolist()
    for even in (0.0, 0.6, 1.0):
        found = Proportional(1.6, even)(gradient, move, NOW, CARRIED)
        assert found.flatten(1).norm(dim=1).tolist() == pytest.approx(way, rel=1e-5)
        assert not found[:, :, 0].any()
        pushed, pixels = found[:, :, 1:].norm(dim=1), gradient[:, :, 1:].norm(dim=1)
        assert torch.allclose(found[:, :, 1:] / pushed[:, None], -gradient[:, :, 1:] / pixels[:, None], atol=1e-5)
        share = pushed / pixels ** (1 - even)
        assert torch.allclose(share, share[:, :1, :1].expand_as(share), rtol=1e-4)
    with pytest.raises(UsageError, match=r"even is 1\.1; it must lie in 0\.\.1"):
        Proportional(1.6, 1.1)


def test_a_strength_for_each_image() -> None:
    gradient, move = pair()
    found = Proportional((0.5, 2.0))(gradient, move, NOW, CARRIED)
    whole = Proportional(1.0)(gradient, move, NOW, CARRIED)
    assert torch.allclose(found, whole * torch.tensor([0.5, 2.0])[:, None, None, None])
    with pytest.raises(UsageError, match="3 strengths for 2 pictures"):
        Proportional((1.0, 1.0, 1.0))(gradient, move, NOW, CARRIED)


@pytest.mark.parametrize("even", [0.0, 1.0], ids=["uneven", "even"])
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-25, 1e20, 1e30])
def test_however_small_or_large_a_gradient_is_the_pull_is_as_long(scale: float, even: float) -> None:
    gradient, move = pair()
    scales = torch.tensor([1.0, scale])[:, None, None, None]
    found = Proportional(1.6, even)(gradient * scales, move, NOW, CARRIED)
    assert torch.equal(found[:1], Proportional(1.6, even)(gradient[:1], move[:1], NOW, CARRIED))
    way = (1.6 * move.flatten(1).norm(dim=1)).tolist()
    assert found.flatten(1).norm(dim=1).tolist() == pytest.approx(way, rel=1e-5)


def test_without_a_gradient_nothing_is_pulled() -> None:
    gradient, move = pair()
    for even in (0.0, 1.0):
        assert torch.equal(Proportional(1.6, even)(0 * gradient, move, NOW, CARRIED), 0 * move)


def test_a_usual_gradient_is_divided_by_its_length_alone() -> None:
    """Pictures are made again bit for bit."""
    gradient, move = pair()
    for scale in (1e-9, 1e-3, 1.0, 1e5):
        usual = gradient * scale
        direction = usual / usual.flatten(1).norm(dim=1)[:, None, None, None]
        pulled = -move.flatten(1).norm(dim=1)[:, None, None, None] * direction
        assert torch.equal(Proportional(1.0)(usual, move, NOW, CARRIED), pulled)


def test_a_number_of_numpy_is_a_number() -> None:
    gradient, move = pair()
    one = Proportional(np.float32(1.5))
    assert torch.equal(one(gradient, move, NOW, CARRIED), Proportional(1.5)(gradient, move, NOW, CARRIED))
    assert one
    assert not Proportional(np.float32(0))


def test_masks_are_one_or_one_for_each_picture() -> None:
    gradient, move = pair()
    with pytest.raises(UsageError, match="3 masks for 2 pictures"):
        Within(Proportional(1.5), torch.ones(3, 1, *gradient.shape[2:]))(gradient, move, NOW, CARRIED)


def test_what_lies_outside_a_mask_neither_moves_nor_counts() -> None:
    gradient, move = pair()
    mask = torch.zeros(1, 1, *gradient.shape[2:])
    mask[..., 1:3, 2:6] = 1
    found = Within(Proportional(1.5), mask)(gradient, move, NOW, CARRIED)
    way = (1.5 * (move * mask).flatten(1).norm(dim=1)).tolist()
    assert found.flatten(1).norm(dim=1).tolist() == pytest.approx(way, rel=1e-5)
    assert not (found * (1 - mask)).any()


def test_where_hardly_any_signal_is_the_score_does_not_pull() -> None:
    """As the schedulers of sigmas write zero terminal SNR: alpha is 2^-12, not 0."""
    gradient, move = pair()
    dark = Level(999.0, 2.0**-12, 1.0, 0.0)
    assert not Score(3.0)(gradient, move, dark, CARRIED).any()


def test_a_strength_of_zero_is_false() -> None:
    assert not Proportional(0.0)
    assert not Proportional((0.0, 0.0))
    assert not Score(0.0)
    assert Proportional((0.0, 0.1))
    assert Score(-1.0)


@pytest.mark.parametrize("beta", [-0.1, float("nan"), float("inf"), (1.0, -1.0)], ids=str)
def test_impossible_strengths_are_refused(beta: float) -> None:
    with pytest.raises(UsageError) as caught:
        Proportional(beta)
    assert caught.value.field == "strength"


@pytest.mark.parametrize("scale", [float("nan"), float("inf")], ids=str)
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(UsageError) as caught:
        Score(scale)
    assert caught.value.field == "strength"


@pytest.mark.parametrize("now", [NOW, Level(300, 0.7, 0.3, 0.7)], ids=["variance-preserving", "flow"])
def test_score_is_the_shift_of_the_score(now: Level) -> None:
    """eps + scale * sigma * g, put through DDIM (Dhariwal & Nichol 2021, algorithm 2)."""
    gradient, move = pair()
    shift = 3.0 * now.sigma * gradient
    expected = 0.8 * (-now.sigma * shift / now.alpha) + 0.6 * shift
    assert torch.allclose(Score(3.0)(gradient, move, now, CARRIED), expected, atol=1e-6)


def test_score_at_a_level_without_signal_is_finite() -> None:
    """A zero-terminal-SNR schedule starts at alpha 0, where the shift of the clean image has no limit."""
    gradient, move = pair()
    found = Score(3.0)(gradient, move, Level(999, 0.0, 1.0, 0.0), CARRIED)
    assert found.isfinite().all()
