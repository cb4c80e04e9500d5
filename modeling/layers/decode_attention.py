"""Attention of the one query of a decoding step to the cached positions, where only the device knows the position.

A CUDA graph that is recorded once then serves every position.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.layers.attention import weighted_attention
from modeling.layers.head_norms import HeadNorms
from modeling.layers.kv_cache import Filled, KeyValueCache, LayerCache, store
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
    store(layer.keys, position, k)
    store(layer.values, position, v)
    keys, values = layer.keys.to(q.dtype), layer.values.to(q.dtype)
    places = torch.arange(keys.shape[2], device=q.device)
    exists = (places <= position)[None]
    if layer.value_weights is None:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=exists)
    factors = torch.where(places == position, 1.0, layer.value_weights)[:, None]
    return weighted_attention(q, keys, values, visible=exists, factors=factors)


def decode_attention(cache: KeyValueCache) -> DecodeAttention:
    """One fused kernel on GPUs where Triton can build it, else `plain_attention`, with a warning on a GPU."""
    width, device = cache.keys.shape[-1], cache.keys.device
    fits = width % 2 == 0 and width <= MAX_HEAD_WIDTH
    if device.type == "cuda" and fits and _kernel_works(device, cache.keys.dtype, cache.values.dtype):
        from modeling.layers.decode_kernel import fused_decode_attention

        return fused_decode_attention
    return plain_attention


@cache
def _kernel_works(device: torch.device, *dtypes: torch.dtype) -> bool:
    """Run the kernel once. Only that shows all that it needs: Triton, a C compiler, Python.h, a recent GPU.

    dtypes: of keys and values; few GPUs have float8.
    """
    try:
        from modeling.layers.decode_kernel import fused_decode_attention

        keys, values = (torch.zeros(1, 1, 2, 16, dtype=dtype, device=device) for dtype in dtypes)
        layer = LayerCache(keys, values, Filled())
        q, k, v = torch.zeros(3, 1, 1, 1, 16, device=device)
        with torch.cuda.device(device):  # Triton launches on the current one
            fused_decode_attention(q, k, v, None, layer, torch.ones(1, dtype=torch.int64, device=device))
    except Exception as error:  # of the import, of Triton, of the C compiler, of the driver
        warn(f"warning: the fused decoding kernel does not work here, codes are drawn slower ({first_line(error)})")
        return False
    return True
