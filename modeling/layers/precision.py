"""Casting helpers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

PRECISIONS = ("fp32", "bf16")


def default_precision(device: torch.device | str) -> str:
    """bf16 on a GPU, fp32 on a CPU."""
    return "bf16" if torch.device(device).type == "cuda" else "fp32"


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """Autocast to bfloat16 for "bf16"; a context that does nothing for "fp32". Raises ValueError for other words."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is '{precision}'; choose {' or '.join(PRECISIONS)}")
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def at_least_float32(x: Tensor) -> Tensor:
    """Cast half precision to float32. float64 stays, because tests compare in it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def full_float32() -> Iterator[None]:
    """Disable TF32 inside this block: differences of large numbers need all bits.

    PyTorch allows TF32 in convolutions by default.
    """
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, allowed, strict=True):
            backend.allow_tf32 = value
