"""Keys and values of all layers at the decoded positions."""

import torch
from torch import Tensor

from modeling.layers.attention import fused_attention, weighted_attention
from modeling.layers.head_norms import HeadNorms

# Without a scale: keys are normalised and values about as large, and a scale changed nothing (docs/benchmarks.md).
FLOAT8 = torch.float8_e4m3fn
# Precision of a cache -> dtypes of keys and values; None is the dtype of the weights.
DTYPES = {None: (None, None), "fp8_values": (None, FLOAT8), "fp8": (FLOAT8, FLOAT8)}
LARGEST_FLOAT8 = torch.finfo(FLOAT8).max


def to_cache(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round a key or value to the cache's dtype; beyond the range of 8 bits to the largest number, not to NaN."""
    return (x.clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8) if dtype == FLOAT8 else x).to(dtype)


def store(cached: Tensor, position: Tensor, x: Tensor) -> None:
    """Write x (B, heads, 1, width) to a position, which the device knows, of cached (B, heads, positions, width)."""
    x = to_cache(x, cached.dtype)
    if cached.dtype == FLOAT8:  # which PyTorch cannot index
        cached, x = cached.view(torch.uint8), x.view(torch.uint8)
    cached.index_copy_(2, position, x)


class Filled:
    """How many positions a cache holds, and their weights. Its layers share this and not the cache, which would be a
    reference cycle: the memory would then be freed only by a garbage collection."""

    def __init__(self):
        self.length = 0
        self.value_weights: Tensor | None = None


class LayerCache:
    """One layer's part of a `KeyValueCache`."""

    def __init__(self, keys: Tensor, values: Tensor, filled: Filled):
        self.keys = keys
        self.values = values
        self.filled = filled

    @property
    def value_weights(self) -> Tensor | None:
        return self.filled.value_weights

    def attend(self, q: Tensor, k: Tensor, v: Tensor, norms: HeadNorms | None = None) -> Tensor:
        """Store k and v of the next n positions, then attend from q to all positions up to its own.

        q, k, v: (B, heads, n, head_width), n = 1 unless the cache is empty. norms: what is still to be done to q and
        k. Returns the same shape.
        """
        if norms is not None:
            q, k = norms(q, k)
        start = self.filled.length
        end = start + q.shape[2]
        self.keys[:, :, start:end] = to_cache(k, self.keys.dtype)
        self.values[:, :, start:end] = to_cache(v, self.values.dtype)
        keys, values = (t[:, :, :end].to(q.dtype) for t in (self.keys, self.values))
        weights = self.value_weights
        if weights is not None and weights.ndim == 3:
            visible = torch.ones(weights.shape[1:], dtype=torch.bool, device=weights.device).tril()
            return weighted_attention(q, keys, values, visible=visible, factors=weights)
        if weights is not None:  # one pass over the values; at factors of 1 the result is the same to the bit
            values = (values * weights[:, None, :end, None]).type_as(values)
        return fused_attention(q, keys, values, causal=q.shape[2] > 1, growing=True)


class KeyValueCache:
    """Room for a fixed number of rows and positions, allocated once; `length` positions are filled."""

    def __init__(
        self,
        num_layers: int,
        rows: int,
        num_heads: int,
        length: int,
        head_width: int,
        precision: str | None = None,
        **options,
    ):
        """precision: a key of `DTYPES`; options: dtype and device."""
        shape = (num_layers, rows, num_heads, length, head_width)
        # Zeros, because attention with a mask multiplies what is not written yet by 0.
        self.keys, self.values = (
            torch.zeros(shape, **options | ({} if dtype is None else {"dtype": dtype})) for dtype in DTYPES[precision]
        )
        self._filled = Filled()
        self.layers = [LayerCache(k, v, self._filled) for k, v in zip(self.keys, self.values, strict=True)]

    @property
    def length(self) -> int:
        return self._filled.length

    @length.setter
    def length(self, positions: int) -> None:
        self._filled.length = positions

    @property
    def value_weights(self) -> Tensor | None:
        """None, or (rows, positions) float32: factors of the attention weights after the softmax; the own
        position's factor is 1. While an empty cache is filled in one pass, (rows, queries, positions)."""
        return self._filled.value_weights

    @value_weights.setter
    def value_weights(self, weights: Tensor | None) -> None:
        self._filled.value_weights = weights

    def positions(self, count: int) -> slice | Tensor:
        """Index of the next `count` positions in a table of positions; a tensor if only the device knows them."""
        return slice(self.length, self.length + count)

    def position_inputs(self) -> tuple[Tensor, ...] | None:
        """What the next position needs beside keys and values: tensors (layers, ...) that do not depend on codes.

        None: the generator itself must run the next position, which makes them.
        """
        return ()

    def advance(self, positions: int) -> None:
        """Count positions that all layers have stored."""
        self.length += positions
