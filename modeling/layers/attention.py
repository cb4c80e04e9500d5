"""Softmax attention of a whole sequence, by the fastest kernel for its device."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many positions materialised scores are faster in float32 training on a CPU (docs/benchmarks.md).
MAX_MATERIALISED_LENGTH = 128


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, dropout: float = 0.0) -> Tensor:
    """Softmax attention with scores scaled by head_width^-0.5.

    q, k, v: (B, heads, L, head_width). Returns the same shape and dtype. dropout: of the weights, in [0, 1).
    """
    trains_on_cpu = q.device.type == "cpu" and q.requires_grad
    if trains_on_cpu and (dropout or q.dtype == torch.bfloat16 or q.shape[2] <= MAX_MATERIALISED_LENGTH):
        return materialised_attention(q, k, v, causal=causal, dropout=dropout)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)


def materialised_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, dropout: float = 0.0) -> Tensor:
    """`attention` with the scores as a tensor, for training on CPUs.

    PyTorch's fused kernel for CPUs does not support dropout. Its backward pass is slow in bfloat16, and for
    short sequences: their scores fit into the processor's cache.
    In bfloat16 the scores are rounded; their softmax is computed in float32.
    """
    queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))
    scale = q.shape[3] ** -0.5
    mask = q.new_full((q.shape[2], k.shape[2]), float("-inf") if causal else 0.0).triu(1)
    scores = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=scale)
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights @ values).unflatten(0, q.shape[:2])
