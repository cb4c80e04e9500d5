"""The generator's arithmetic between its matrix products, as functions that can be compiled one by one.

Decoding one position at a time is bound by reading weights and cache. The matrix products read the
weights; each function here is one more pass over small tensors, and one kernel when compiled.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.layers.rope import rotate

NORM_EPS = 1e-5


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm over the last dimension, computed in float32; dtype of the weight."""
    return F.rms_norm(x.float(), weight.shape, weight.float(), NORM_EPS).type_as(weight)


def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """x + y, and its norm."""
    x = x + y
    return x, rms_norm(x, weight)


def split_heads(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised and rotated queries and keys, and values.

    qkv: (B, L, 3 * width); q_weight, k_weight: (head_width,); rope: (L, head_width / 2, 2).
    Returns three times (B, heads, L, head_width).
    """
    q, k, v = qkv.unflatten(-1, (3, -1, len(q_weight))).permute(2, 0, 3, 1, 4)
    q, k = (rotate(rms_norm(x, weight), rope).type_as(v) for x, weight in ((q, q_weight), (k, k_weight)))
    return q, k, v


def gate(a: Tensor, b: Tensor) -> Tensor:
    """SwiGLU's product."""
    return F.silu(a) * b


def attend(q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor) -> Tensor:
    """Attention of one query to the past and itself, in plain products and sums.

    q, k, v: (B, heads, 1, d); past_k, past_v: (B, heads, n, d). Returns (B, heads, 1, d).
    Compiled, it reads the past once and in order; PyTorch's fused CPU kernel is made for many
    queries and takes up to five times as long with one (docs/benchmarks.md).
    """
    q = q.float() * q.shape[-1] ** -0.5
    scores = torch.cat([(q * past_k.float()).sum(-1), (q * k.float()).sum(-1)], dim=-1)
    weights = scores.softmax(-1)[..., None]
    return ((weights[:, :, :-1] * past_v.float()).sum(-2, keepdim=True) + weights[:, :, -1:] * v.float()).type_as(v)


class Kernels(NamedTuple):
    rms_norm: Callable[[Tensor, Tensor], Tensor] = rms_norm
    add_rms_norm: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = add_rms_norm
    split_heads: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = split_heads
    gate: Callable[[Tensor, Tensor], Tensor] = gate


EAGER = Kernels()


@cache
def compiled() -> Kernels:
    """The functions compiled, at their first use."""
    return Kernels(*(torch.compile(f, dynamic=False) for f in EAGER))
