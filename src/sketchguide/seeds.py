"""One random generator per image: seed 7 is the same picture alone, in a batch, and on any device."""

from __future__ import annotations

import secrets
from collections.abc import Generator as Yields
from collections.abc import Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from sketchguide.defaults import SEED
from sketchguide.errors import UsageError


def generators(seeds: Sequence[int]) -> list[Generator]:
    """One generator per seed (0..2**32 - 1). They live on the CPU, so that every device draws the same noise."""
    for seed in seeds:
        if not SEED.low <= seed <= SEED.high:
            raise UsageError(f"seed is {seed}; it must lie in {SEED.low}..{SEED.high}.", field="seed")
    return [Generator().manual_seed(seed) for seed in seeds]


@contextmanager
def seeded(seed: int) -> Yields[None]:
    """Weights drawn within are those of `seed`; torch's own generators, on every device, stay where they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would set those of GPUs too
        yield


def random_seed() -> int:
    """A seed drawn from the system, small enough to be typed again."""
    return secrets.randbelow(10**9)


def another(seed: int, number: int) -> int:
    """The seed of try `number`, from 1: of the first `seed` itself, of later ones drawn from its generator."""
    if number == 1:
        return seed
    (each,) = generators([seed])
    return int(torch.randint(SEED.high + 1, (number - 1,), generator=each, dtype=torch.int64)[-1])


def noise(each: Sequence[Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal (len(each), *shape), row i drawn from generator i; float32 on the CPU."""
    return torch.stack([torch.randn(*shape, generator=one, device="cpu", dtype=torch.float32) for one in each])


def check_each(each: Sequence[Generator], count: int) -> None:
    """Raise UsageError unless there is one generator for each of `count` pictures."""
    if len(each) != count:
        raise UsageError(
            f"{len(each)} generators for {count} pictures: noise is drawn from one for each.", field="generators"
        )


def noise_like(latent: Tensor, each: Sequence[Generator]) -> Tensor:
    """`noise` of the shape, device and dtype of `latent` (B, …); errors as of `check_each`."""
    check_each(each, len(latent))
    return noise(each, latent.shape[1:]).to(latent)
