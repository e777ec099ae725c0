import pytest
import torch

from sketchguide.defaults import SEED
from sketchguide.errors import UsageError
from sketchguide.seeds import another, generators, noise, noise_like, random_seed, seeded


def test_a_seed_is_the_same_noise_in_any_batch() -> None:
    alone = noise(generators([7]), (4, 8, 8))
    among = noise(generators([3, 7, 9]), (4, 8, 8))
    assert alone.shape == (1, 4, 8, 8)
    assert torch.equal(among[1:2], alone)
    assert not torch.equal(among[0], among[1])


def test_one_generator_goes_on_where_it_stopped() -> None:
    each = generators([7])
    assert not torch.equal(noise(each, (4,)), noise(each, (4,)))


def test_the_seeds_of_further_tries_are_those_that_recipes_were_made_with() -> None:
    assert [another(7, number) for number in (1, 2, 5)] == [7, 976413892, 1956722279]
    with pytest.raises(UsageError, match="seed is -1"):
        another(-1, 2)


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    noise(generators([1, 2]), (4, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_a_seed_touch_no_generator_of_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("a GPU's generator was set")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    state = torch.get_rng_state()
    with seeded(7):
        first = torch.nn.Linear(3, 4).weight
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(7):
        assert torch.equal(torch.nn.Linear(3, 4).weight, first)
    with seeded(8):
        assert not torch.equal(torch.nn.Linear(3, 4).weight, first)


def test_noise_takes_the_shape_and_type_of_the_latent() -> None:
    latent = torch.zeros(2, 1000, dtype=torch.bfloat16)
    drawn = noise_like(latent, generators([7, 8]))
    assert drawn.dtype == torch.bfloat16
    assert torch.equal(drawn, noise(generators([7, 8]), (1000,)).to(torch.bfloat16))
    assert float(drawn.float().std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_generator_for_each_row_is_asked_for(count: int) -> None:
    with pytest.raises(UsageError, match=f"{count} generators for 2 pictures") as caught:
        noise_like(torch.zeros(2, 4, 8, 8), generators(range(count)))
    assert caught.value.field == "generators"


@pytest.mark.parametrize("seed", [-1, SEED.high + 1, 10**30])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(UsageError, match=str(seed)) as caught:
        generators([1, seed])
    assert caught.value.field == "seed"


def test_the_ends_of_the_range_are_seeds() -> None:
    assert len(generators([0, SEED.high])) == 2


def test_random_seeds_differ_and_fit() -> None:
    drawn = {random_seed() for _ in range(20)}
    assert len(drawn) > 15
    assert all(0 <= seed < 10**9 for seed in drawn)
