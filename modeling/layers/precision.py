"""Where half precision ends."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """float32 for the half precisions of autocast; float64, in which tests compare exactly, stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def full_float32() -> Iterator[None]:
    """No TensorFloat-32 within, whatever is allowed around: differences of large numbers need all bits.

    For convolutions PyTorch allows it by default.
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
