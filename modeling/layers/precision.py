"""Casting helpers: autocast, float32 islands."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

PRECISIONS = ("fp32", "bf16")  # of inference


def default_precision(device: torch.device | str) -> str:
    return "bf16" if torch.device(device).type == "cuda" else "fp32"


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """Context in which `precision` is used where PyTorch considers it safe. Raises ValueError."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is '{precision}'; choose {' or '.join(PRECISIONS)}")
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def at_least_float32(x: Tensor) -> Tensor:
    """float32 for the half precisions of autocast; float64, in which tests compare exactly, stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def full_float32() -> Iterator[None]:
    """Disable TensorFloat-32 inside this block: differences of large numbers need all bits.

    PyTorch allows it for convolutions by default.
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
