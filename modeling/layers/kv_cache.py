"""Keys and values of all layers at the decoded positions."""

import torch
import torch.nn.functional as F
from torch import Tensor


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

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v of the next n positions, then attend from q to all positions up to its own.

        q, k, v: (B, heads, n, head_width), n = 1 unless the cache is empty. Returns the same shape.
        """
        start = self.filled.length
        end = start + q.shape[2]
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        keys, values, weights = self.keys[:, :, :end], self.values[:, :, :end], self.filled.value_weights
        if weights is not None and weights.ndim == 3:
            return weighted_attention(q, keys, values, weights)
        if weights is not None:  # one pass over the values; at factors of 1 the result is the same to the bit
            values = (values * weights[:, None, :end, None]).type_as(values)
        return F.scaled_dot_product_attention(q, keys, values, is_causal=q.shape[2] > 1)


def weighted_attention(q: Tensor, k: Tensor, v: Tensor, weights: Tensor) -> Tensor:
    """Causal attention with factors (B, L, L) of the weights after the softmax; q, k, v: (B, heads, L, head_width)."""
    mask = weights.new_full(weights.shape[1:], float("-inf")).triu(1)
    scores = q.float() @ k.float().mT * q.shape[3] ** -0.5 + mask
    return (scores.softmax(-1) * weights[:, None] @ v.float()).type_as(v)


class KeyValueCache:
    """Room for a fixed number of rows and positions, allocated once; `length` positions are filled."""

    def __init__(self, num_layers: int, rows: int, num_heads: int, length: int, head_width: int, **options):
        """options: dtype and device."""
        shape = (num_layers, rows, num_heads, length, head_width)
        self.keys = torch.empty(shape, **options)
        self.values = torch.empty(shape, **options)
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

    def position_inputs(self) -> tuple[Tensor, ...] | None:
        """What the next position needs beside keys and values: tensors (layers, ...) that do not depend on codes.

        None: the generator itself must run the next position, which makes them.
        """
        return ()

    def advance(self, positions: int) -> None:
        """Count positions that all layers have stored."""
        self.length += positions
