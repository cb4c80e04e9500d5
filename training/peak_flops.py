"""How fast this device multiplies matrices at best, which is what utilisation is measured against."""

import time
from functools import cache

import torch

SIDES = {"cuda": 8192, "cpu": 2048}  # large enough for the peak, small enough for a fraction of a second
REPEATS = 3


@cache
@torch.no_grad()
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """The best of some square matrix products, in floating-point operations per second; measured once a process."""
    side = SIDES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(REPEATS + 1):  # the first one warms up
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def synchronize(device: torch.device) -> None:
    """Wait for what the device has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
