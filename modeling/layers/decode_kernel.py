"""One kernel for what is between the products qkv and proj of one layer while one position is decoded.

It normalises and rotates query and key, appends key and value to the cache, and attends. The position is read from
device memory, so one CUDA graph serves all positions, and only the positions that exist are read.
Imports Triton, so only `modeling.layers.decode_attention` imports it, and only where Triton is installed.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from modeling.layers.head_norms import HeadNorms
from modeling.layers.kv_cache import LayerCache

BLOCK = 64  # cached positions that are read at a time
NUM_WARPS = 2  # of the combinations tried, 64 and 2 need no memory for registers on any GPU


@triton.jit
def _scaled(x, at, mean, inverse, weight, bias, present):
    x = (x - mean) * inverse * tl.load(weight + at, mask=present, other=0.0).to(tl.float32)
    if bias is not None:
        x += tl.load(bias + at, mask=present, other=0.0).to(tl.float32)
    return x


@triton.jit
def _finished(x, weight, bias, rope, eps, channels, present, D: tl.constexpr):
    """One head of a query or key as float32, normalised and rotated, rounded where the plain arithmetic rounds."""
    own = tl.load(x + channels, mask=present, other=0.0).to(tl.float32)
    if weight is None:
        return own
    mean = 0.0
    if bias is not None:  # a layer norm; without bias it is a root-mean-square norm
        mean = tl.sum(own) / D
    deviation = tl.where(present, own - mean, 0.0)
    inverse = tl.rsqrt(tl.sum(deviation * deviation) / D + eps)
    result = _scaled(own, channels, mean, inverse, weight, bias, present).to(x.dtype.element_ty).to(tl.float32)
    if rope is not None:
        # Pairs are adjacent channels: the number of a channel's partner differs in the last bit.
        partner = tl.load(x + (channels ^ 1), mask=present, other=0.0).to(tl.float32)
        partner = _scaled(partner, channels ^ 1, mean, inverse, weight, bias, present)
        partner = partner.to(x.dtype.element_ty).to(tl.float32)
        factor = tl.load(rope + channels, mask=present, other=0.0)
        partners_factor = tl.load(rope + D + channels, mask=present, other=0.0)
        result = result * factor + partner * partners_factor
        result = result.to(x.dtype.element_ty).to(tl.float32)
    return result


@triton.jit
def decode_kernel(
    q, k, v, q_weight, q_bias, k_weight, k_bias, rope, keys, values, value_weights, out, position,
    q_row, k_row, v_row, length, scale, eps, H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One program for one head of one row. WIDTH: D rounded up to a power of two. What is None is not done."""
    row, head = tl.program_id(0), tl.program_id(1)
    last = tl.load(position)  # positions 0 .. last - 1 are in the cache
    channels = tl.arange(0, WIDTH)
    present = channels < D

    query = _finished(q + row * q_row + head * D, q_weight, q_bias, rope, eps, channels, present, D)
    key = _finished(k + row * k_row + head * D, k_weight, k_bias, rope, eps, channels, present, D)
    key = key.to(keys.dtype.element_ty)
    value = tl.load(v + row * v_row + head * D + channels, mask=present, other=0.0).to(values.dtype.element_ty)
    cached = (row * H + head).to(tl.int64) * length * D
    tl.store(keys + cached + last * D + channels, key, mask=present)
    tl.store(values + cached + last * D + channels, value, mask=present)

    # The softmax over all positions in one pass (arXiv:1805.02867), beginning with the own position.
    query *= scale
    top = tl.sum(query * key.to(tl.float32))
    total = 1.0
    attended = value.to(tl.float32)
    for start in range(0, last, BLOCK):
        places = start + tl.arange(0, BLOCK)
        exists = places < last
        at = cached + places[:, None] * D + channels[None]
        here = exists[:, None] & present[None]
        block = tl.load(keys + at, mask=here, other=0.0).to(tl.float32)
        scores = tl.where(exists, tl.sum(block * query[None], axis=1), float("-inf"))
        new_top = tl.maximum(top, tl.max(scores))
        weights, correction = tl.exp(scores - new_top), tl.exp(top - new_top)
        total = total * correction + tl.sum(weights)
        if value_weights is not None:
            weights *= tl.load(value_weights + row * length + places, mask=exists, other=0.0)
        block = tl.load(values + at, mask=here, other=0.0).to(tl.float32)
        attended = attended * correction + tl.sum(weights[:, None] * block, axis=0)
        top = new_top
    tl.store(out + (row * H + head) * D + channels, (attended / total).to(out.dtype.element_ty), mask=present)


def kernel_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    norms: HeadNorms | None,
    layer: LayerCache,
    position: Tensor,
    out: Tensor,
) -> dict[str, Any]:
    """What `decode_kernel` is called with, by name; arguments as for `fused_decode_attention`."""
    _, heads, length, width = layer.keys.shape
    has_bias = norms is not None and norms.q_norm.bias is not None
    return {
        "q": q,
        "k": k,
        "v": v,
        "q_weight": norms and norms.q_norm.weight,
        "q_bias": norms.q_norm.bias if has_bias else None,
        "k_weight": norms and norms.k_norm.weight,
        "k_bias": norms.k_norm.bias if has_bias else None,
        "rope": norms and norms.rope,
        "keys": layer.keys,
        "values": layer.values,
        "value_weights": layer.value_weights,
        "out": out,
        "position": position,
        "q_row": q.stride(0),
        "k_row": k.stride(0),
        "v_row": v.stride(0),
        "length": length,
        "scale": width**-0.5,
        "eps": norms.q_norm.eps if norms else 0.0,
        "H": heads,
        "D": width,
        "WIDTH": triton.next_power_of_2(width),
        "BLOCK": BLOCK,
    }


def fused_decode_attention(
    q: Tensor, k: Tensor, v: Tensor, norms: HeadNorms | None, layer: LayerCache, position: Tensor
) -> Tensor:
    """The same as `modeling.layers.decode_attention.plain_attention`, in one kernel.

    Each head of q, k and v is contiguous, and the next head follows it, as in views of the product qkv.
    """
    rows, heads, _, width = q.shape
    out = q.new_empty(rows, 1, heads, width)
    arguments = kernel_arguments(q, k, v, norms, layer, position, out)
    decode_kernel[(rows, heads)](**arguments, num_warps=NUM_WARPS)
    return out.transpose(1, 2)
