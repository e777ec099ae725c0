"""Would one attention map for source, negative and conditional pass be faster? Where q and k are borrowed whole, it is
the same for all three.

    python benchmarks/attention.py

Per self-attention layer of Stable Diffusion 1.x at 512 pixels that borrows q and k: three fused attentions, as now,
against one explicit map and three products with the values, and against one fused attention whose values stand side by
side (which needs the three passes in one batch).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, softmax

from sketchguide.machine import hardware

HEADS = 8
LAYERS = {(256, 160): 2, (1024, 80): 3, (4096, 40): 3}  # (tokens, channels per head): how many of them


def fused(q: Tensor, k: Tensor, values: list[Tensor]) -> list[Tensor]:
    return [scaled_dot_product_attention(q, k, v) for v in values]


def explicit(q: Tensor, k: Tensor, values: list[Tensor]) -> list[Tensor]:
    attention = softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
    return [attention @ v for v in values]


def side_by_side(q: Tensor, k: Tensor, values: list[Tensor]) -> list[Tensor]:
    return list(scaled_dot_product_attention(q, k, torch.cat(values, dim=-1)).chunk(len(values), dim=-1))


def seconds(run: Callable[[], object], rounds: int) -> float:
    """The fastest of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    dtype = torch.float32 if args.device == "cpu" else torch.float16
    ways = (fused, explicit, side_by_side)
    print(hardware(torch.device(args.device).type))
    print("| tokens | layers | three fused | one map | values side by side | map |\n|---|---|---|---|---|---|")
    total = [0.0] * len(ways)
    for (tokens, channels), layers in LAYERS.items():
        q, k, *values = torch.randn(5, 1, HEADS, tokens, channels, device=args.device, dtype=dtype)
        results = [way(q, k, values) for way in ways]
        assert all(torch.allclose(a, b, atol=1e-2) for r in results[1:] for a, b in zip(results[0], r, strict=True))
        took = [layers * seconds(partial(way, q, k, values), args.rounds) for way in ways]
        total = [sum(pair) for pair in zip(total, took, strict=True)]
        size = HEADS * tokens**2 * q.element_size() / 2**20
        print(f"| {tokens} | {layers} | " + " | ".join(f"{1000 * t:.2f} ms" for t in took) + f" | {size:.0f} MiB |")
    print("| all | | " + " | ".join(f"{1000 * t:.2f} ms" for t in total) + " | |")


if __name__ == "__main__":
    main()
