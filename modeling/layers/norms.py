"""Norms that are computed in float32 whatever their weights' precision, and a gated MLP."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers.precision import at_least_float32

NORM_EPS = 1e-5
HIDDEN_MULTIPLE = 256  # SwiGLU's hidden width is a multiple of this


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm over the last dimension, computed in float32, in the weight's dtype."""
    return F.rms_norm(x.float(), weight.shape, weight.float(), NORM_EPS).type_as(weight)


class RMSNorm(nn.Module):
    bias = None
    eps = NORM_EPS

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


class LayerNorm(nn.LayerNorm):
    """Layer norm with weight and bias, computed and returned in float32 for inputs and weights of half precision."""

    def __init__(self, width: int, eps: float):
        super().__init__(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        x, weight, bias = (at_least_float32(t) for t in (x, self.weight, self.bias))
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), with a hidden width of 8/3 `width` rounded up to a multiple of 256."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        hidden = -(-int(8 * width / 3) // HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))
