"""Materialised scores against PyTorch's attention kernel, forward and backward, in one run.

python -m benchmarks.attention
python -m benchmarks.attention --batch_size 4 --heads 16 --head_width 48 --lengths 73,273 --dropout 0.1
"""

import argparse
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.machine import announce, timed
from modeling.layers.attention import materialised_attention

WARMUP = 3


def measure(args: argparse.Namespace, length: int, dtype: torch.dtype, device: torch.device) -> None:
    rows, heads, width = args.batch_size, args.heads, args.head_width
    qkv = torch.randn(rows, length, 3, heads, width, device=device, dtype=dtype, requires_grad=True)
    gradient = torch.randn(rows, heads, length, width, device=device, dtype=dtype)
    causal, dropout = not args.bidirectional, args.dropout
    ways = {
        "materialised": partial(materialised_attention, causal=causal, dropout=dropout),
        "PyTorch": partial(F.scaled_dot_product_attention, is_causal=causal, dropout_p=dropout),
    }

    def step(name: str) -> None:
        torch.autograd.grad(ways[name](*qkv.permute(2, 0, 3, 1, 4)), qkv, gradient)

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(WARMUP + args.rounds):  # alternate: the machine's speed changes with time
        for name in ways:
            seconds[name].append(timed(partial(step, name), device)[0])
    materialised, pytorch = (np.array(seconds[name][WARMUP:]) for name in ways)
    print(
        f"{length:5d} positions, {dtype}: materialised {np.median(materialised) * 1e3:.2f} ms, PyTorch"
        f" {np.median(pytorch) * 1e3:.2f} ms, ratio {np.median(pytorch / materialised):.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head_width", type=int, default=32)
    parser.add_argument("--lengths", type=lambda s: [int(x) for x in s.split(",")], default=[73, 128, 192, 273])
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--bidirectional", action="store_true", help="default: causal")
    parser.add_argument("--rounds", type=int, default=20, help="the median is printed")
    args = parser.parse_args()
    device = announce(args)
    for dtype in (torch.float32, torch.bfloat16):
        for length in args.lengths:
            measure(args, length, dtype, device)


if __name__ == "__main__":
    main()
