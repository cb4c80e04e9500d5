"""Keys and values of all layers at the decoded positions."""

import torch
from torch import Tensor

from modeling.layers.attention import fused_attention


class Filled:
    """How many positions a cache holds. Its layers share this and not the cache, which would be a reference cycle:
    the memory would then be freed only by a garbage collection."""

    def __init__(self):
        self.length = 0


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
        keys, values = self.keys[:, :, :end], self.values[:, :, :end]
        return fused_attention(q, keys, values, causal=q.shape[2] > 1, growing=True)


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

    def position_inputs(self) -> tuple[Tensor, ...] | None:
        """What the next position needs beside keys and values: tensors (layers, ...) that do not depend on codes.

        None: the generator itself must run the next position, which makes them.
        """
        return ()

    def advance(self, positions: int) -> None:
        """Count positions that all layers have stored."""
        self.length += positions
