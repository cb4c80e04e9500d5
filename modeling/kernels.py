"""The generator's arithmetic between its matrix products, as functions that can be compiled one by one.

Decoding one position at a time is bound by reading weights and cache. The matrix products read the
weights; each function here is one more pass over small tensors, and one kernel when compiled. Their
shapes stay the same from position to position, but for the length in `attend`.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.rope import rotate

NORM_EPS = 1e-5


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm over the last dimension, computed in float32; dtype of x."""
    return F.rms_norm(x.float(), weight.shape, weight.float(), NORM_EPS).type_as(x)


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
    return rotate(rms_norm(q, q_weight), rope).type_as(v), rotate(rms_norm(k, k_weight), rope).type_as(v), v


def gate(a: Tensor, b: Tensor) -> Tensor:
    """SwiGLU's product."""
    return F.silu(a) * b


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one query to all keys. q: (B, heads, 1, d), k and v: (B, heads, n, d) -> like q."""
    return F.scaled_dot_product_attention(q, k, v)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same in plain products and sums: compiled, it reads k and v once, in order.

    PyTorch's fused CPU kernel is made for many queries; with one it takes three times as long.
    """
    weights = ((q.float() * k.float()).sum(-1) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights[..., None] * v.float()).sum(-2, keepdim=True).type_as(v)


class Kernels(NamedTuple):
    rms_norm: Callable[[Tensor, Tensor], Tensor] = rms_norm
    add_rms_norm: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = add_rms_norm
    split_heads: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = split_heads
    gate: Callable[[Tensor, Tensor], Tensor] = gate
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] = attend


EAGER = Kernels()


@cache
def compiled(device_type: str) -> Kernels:
    """The functions compiled for "cpu" or "cuda", at their first use."""
    by_products = torch.compile(attend_by_products, dynamic=True)
    static = (torch.compile(f, dynamic=False) for f in EAGER[:-1])
    return Kernels(*static, attend=by_products if device_type == "cpu" else attend)
