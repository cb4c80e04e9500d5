"""The fastest matrix product of this device, which utilisation (MFU) is relative to."""

import time
from functools import cache

import torch

SIDES = {"cuda": 8192, "cpu": 2048}  # large enough for the peak, small enough for a fraction of a second
REPEATS = 3


@cache
@torch.no_grad()
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Best rate of a few square matrix products in operations per second; measured once per process."""
    side = SIDES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(REPEATS + 1):  # the first warms up
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def synchronize(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
