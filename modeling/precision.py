"""Where half precision ends."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """float32 for the half precisions of autocast; float64, in which tests compare exactly, stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
