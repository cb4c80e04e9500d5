"""The peaks that utilisation (MFU) is relative to: the fastest matrix product of this device, and its data sheet."""

import re
import time
from functools import cache

import torch

SIDES = {"cuda": 8192, "cpu": 2048}  # large enough for the peak, small enough for a fraction of a second
REPEATS = 3

# Dense bfloat16 operations per second, with float32 sums, in NVIDIA's data sheets, by words of the device's name. The
# first that fits counts.
DATA_SHEET = (
    ("B200", 2250e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("A40", 149.7e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
    ("RTX A6000", 154.8e12),
)


def data_sheet_peak(device_name: str, dtype: torch.dtype) -> float | None:
    """Operations per second in half precision as the data sheet says; None for other dtypes and devices."""
    if dtype not in (torch.bfloat16, torch.float16):
        return None
    return next((peak for name, peak in DATA_SHEET if re.search(rf"\b{name}\b", device_name)), None)


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
