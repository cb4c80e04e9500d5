"""Attention of the one query of a decoding step to the cached positions, where only the device knows the position.

A CUDA graph that is recorded once then serves every position.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.layers.head_norms import HeadNorms
from modeling.layers.kv_cache import KeyValueCache, LayerCache
from utils.errors import first_line, warn

# (q, k, v, norms, layer, position) -> attended; see `plain_attention`.
DecodeAttention = Callable[[Tensor, Tensor, Tensor, HeadNorms | None, LayerCache, Tensor], Tensor]

MAX_HEAD_WIDTH = 256  # a wider head would not fit into the kernel's registers


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, norms: HeadNorms | None, layer: LayerCache, position: Tensor
) -> Tensor:
    """Finish q and k, store k and v at the position, then attend from q to all positions up to it.

    q, k, v: (B, heads, 1, head_width); position: (1,) int64. Returns the same shape as q. Every position of the
    cache is read, because the number of those that exist is not known where the work is planned.
    """
    if norms is not None:
        q, k = norms(q, k)
    layer.keys.index_copy_(2, position, k.to(layer.keys.dtype))
    layer.values.index_copy_(2, position, v.to(layer.values.dtype))
    keys, values = layer.keys.to(q.dtype), layer.values.to(q.dtype)
    places = torch.arange(keys.shape[2], device=q.device)
    exists = (places <= position)[None]
    if layer.value_weights is None:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=exists)
    scores = (q.float() @ keys.float().mT * q.shape[-1] ** -0.5).masked_fill(~exists, -torch.inf)
    factors = torch.where(places == position, 1.0, layer.value_weights)
    return (scores.softmax(-1) * factors[:, None, None] @ values.float()).type_as(q)


def decode_attention(device: torch.device, head_width: int) -> DecodeAttention:
    """One fused kernel on GPUs where Triton can build it, else `plain_attention`, with a warning on a GPU."""
    if device.type == "cuda" and head_width % 2 == 0 and head_width <= MAX_HEAD_WIDTH and _kernel_works(device):
        from modeling.layers.decode_kernel import fused_attention

        return fused_attention
    return plain_attention


@cache
def _kernel_works(device: torch.device) -> bool:
    """Run the kernel once. Only that shows all that it needs: Triton, a C compiler, Python.h, a recent GPU."""
    try:
        from modeling.layers.decode_kernel import fused_attention

        layer = KeyValueCache(1, 1, 1, 2, 16, device=device).layers[0]
        q, k, v = torch.zeros(3, 1, 1, 1, 16, device=device)
        with torch.cuda.device(device):  # Triton launches on the current one
            fused_attention(q, k, v, None, layer, torch.ones(1, dtype=torch.int64, device=device))
    except Exception as error:  # of the import, of Triton, of the C compiler, of the driver
        warn(f"warning: the fused decoding kernel does not work here, codes are drawn slower ({first_line(error)})")
        return False
    return True
