"""Fast decoding on a CPU: a whole position compiled into one piece, or packed weights without a compiler.

Decoding a position is bound by reading weights and cache, and a call from Python takes as long as a small kernel.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modeling.interfaces import AutoregressiveGenerator
from modeling.layers.head_norms import HeadNorms
from modeling.layers.kv_cache import to_cache


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this PyTorch and this CPU can multiply by weights of `dtype` in oneDNN's blocked layout."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class PackedLinear(nn.Module):
    """A linear layer for inference with its weight in oneDNN's blocked layout.

    With few rows a product takes as long as reading the weight. `nn.Linear` rearranges the weight in every
    call; this layer does it once (docs/benchmarks.md: 1.2 to 3 times as fast).
    """

    def __init__(self, linear: nn.Linear, rows: int):
        """rows: the usual number of input rows; oneDNN chooses the layout for it. Other numbers work too."""
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def pack_linears(model: nn.Module, rows: int) -> None:
    """Replace every `nn.Linear` inside `model` that can be packed; the model is for inference only from then on."""
    for name, child in model.named_children():
        if isinstance(child, nn.Linear) and can_pack(child.weight.dtype):
            setattr(model, name, PackedLinear(child, rows))
        else:
            pack_linears(child, rows)


class _FunctionalLayer:
    """One layer of a cache that is only read; `attend` stores the new key and value in `k` and `v`.

    Compiled, its products and sums read the past once and in order. PyTorch's fused CPU kernel is made for
    many queries, and takes up to five times as long with one query (docs/benchmarks.md).
    """

    def __init__(self, past_k: Tensor, past_v: Tensor, value_weights: Tensor | None):
        self.past_k, self.past_v, self.value_weights = past_k, past_v, value_weights

    def attend(self, q: Tensor, k: Tensor, v: Tensor, norms: HeadNorms | None = None) -> Tensor:
        """q, k, v: (B, heads, 1, d); the past: (B, heads, n, d). Returns (B, heads, 1, d)."""
        if norms is not None:
            q, k = norms(q, k)
        self.k, self.v = k, v
        past_k, past_v = self.past_k.float(), self.past_v.float()
        q = q.float() * q.shape[-1] ** -0.5
        scores = torch.cat([(q * past_k).sum(-1), (q * k.float()).sum(-1)], dim=-1)
        weights = scores.softmax(-1)[..., None]
        past_weights = weights[:, :, :-1]
        if self.value_weights is not None:
            past_weights = past_weights * self.value_weights[:, None, :, None]
        return ((past_weights * past_v).sum(-2, keepdim=True) + weights[:, :, -1:] * v.float()).type_as(v)


class _FunctionalCache:
    """A cache of all layers for one position, without side effects."""

    def __init__(self, past_k: Tensor, past_v: Tensor, value_weights: Tensor | None, inputs: tuple[Tensor, ...]):
        """past_k, past_v: (layers, B, heads, n, d); value_weights: None or (B, n); inputs: see
        `KeyValueCache.position_inputs`."""
        self.length = past_k.shape[3]
        self.inputs = inputs
        self.layers = [_FunctionalLayer(k, v, value_weights) for k, v in zip(past_k, past_v, strict=True)]

    def positions(self, count: int) -> slice:
        return slice(self.length, self.length + count)

    def position_inputs(self) -> tuple[Tensor, ...]:
        return self.inputs

    def advance(self, positions: int) -> None:
        pass

    def added(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the new position, each (layers, B, heads, 1, d)."""
        return torch.stack([layer.k for layer in self.layers]), torch.stack([layer.v for layer in self.layers])


def compile_step(generator: AutoregressiveGenerator) -> Callable:
    """A function like the generator's forward, with a position of cached decoding compiled into one piece.

    The compiler takes the weights as constants and packs copies of them. In bfloat16 it also chooses among its own
    kernels for products with few rows, which read weights 1.3 times as fast as oneDNN's (docs/benchmarks.md).
    """

    def functional(
        codes: Tensor, class_ids: Tensor, past_k: Tensor, past_v: Tensor, value_weights: Tensor | None, *inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        cache = _FunctionalCache(past_k, past_v, value_weights, inputs)
        logits = generator(codes, class_ids, cache)
        return logits, *cache.added()

    half = next(generator.blocks.parameters()).dtype == torch.bfloat16
    # Not torch.compile's `options`: tracing already depends on freezing.
    options = torch._inductor.config.patch(freezing=True, max_autotune=half)
    compiled = options(torch.compile(functional))

    def forward(codes: Tensor, class_ids: Tensor, cache) -> Tensor:
        length, inputs = cache.length, cache.position_inputs()
        if length < 2 or inputs is None:  # dynamo specialises sizes 0 and 1
            return generator(codes, class_ids, cache)
        past = cache.keys[..., :length, :], cache.values[..., :length, :]
        for tensor in past:
            torch._dynamo.mark_dynamic(tensor, 3)
        weights = cache.value_weights
        if weights is not None:
            weights = weights[:, :length]
            torch._dynamo.mark_dynamic(weights, 1)
        logits, k, v = compiled(codes, class_ids, *past, weights, *inputs)
        cache.keys[..., length : length + 1, :] = to_cache(k, cache.keys.dtype)
        cache.values[..., length : length + 1, :] = to_cache(v, cache.values.dtype)
        cache.advance(1)
        return logits

    return forward
