"""One decoding step that finds its position in device memory, so that it can be recorded once for all positions."""

import torch
from torch import Tensor

from modeling.layers.decode_attention import DecodeAttention
from modeling.layers.head_norms import HeadNorms
from modeling.layers.kv_cache import KeyValueCache, LayerCache


class _Layer:
    """One layer of a `DevicePositionCache`."""

    def __init__(self, layer: LayerCache, position: Tensor, attention: DecodeAttention):
        self.layer = layer
        self.position = position
        self.attention = attention

    def attend(self, q: Tensor, k: Tensor, v: Tensor, norms: HeadNorms | None = None) -> Tensor:
        """As `LayerCache.attend`, with n = 1."""
        return self.attention(q, k, v, norms, self.layer, self.position)


class DevicePositionCache:
    """A filled cache as the generator's forward sees it for the next position, which a tensor says."""

    def __init__(self, cache: KeyValueCache, attention: DecodeAttention):
        self.cache = cache
        self.position = torch.zeros(1, dtype=torch.int64, device=cache.keys.device)
        self.layers = [_Layer(layer, self.position, attention) for layer in cache.layers]
        self._inputs: tuple[Tensor, ...] | None = None

    def start(self) -> None:
        """Continue after the positions that the cache holds now."""
        self.position.fill_(self.cache.length)

    def take_inputs(self) -> None:
        """Copy what the next position needs to the place where the recorded step reads it."""
        inputs = self.cache.position_inputs()
        if self._inputs is None:
            self._inputs = tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs)
        for kept, new in zip(self._inputs, inputs, strict=True):
            kept.copy_(new)

    @property
    def length(self) -> int:
        return self.cache.length

    def positions(self, count: int) -> Tensor:
        """count: 1."""
        return self.position

    def position_inputs(self) -> tuple[Tensor, ...]:
        return self._inputs

    def advance(self, positions: int) -> None:
        """Nothing: forward may still read the position. `move` comes after it."""

    def move(self) -> None:
        """To the next position."""
        self.position += 1
