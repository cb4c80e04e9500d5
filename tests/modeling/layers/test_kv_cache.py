"""The key/value cache."""

import gc
import weakref

import torch

from modeling.layers.kv_cache import KeyValueCache


def test_attention_over_a_cache_is_attention_over_the_whole():
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 5, 8, generator=generator)  # (B, heads, n, head_width)
    cache = KeyValueCache(1, 2, 4, 6, 8)
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    first = cache.layers[0].attend(q[:, :, :3], k[:, :, :3], v[:, :, :3])
    cache.advance(3)
    torch.testing.assert_close(first, whole[:, :, :3])
    for place in (3, 4):
        one = slice(place, place + 1)
        torch.testing.assert_close(cache.layers[0].attend(q[:, :, one], k[:, :, one], v[:, :, one]), whole[:, :, one])
        cache.advance(1)
    assert cache.length == 5


def test_its_memory_is_freed_with_the_last_reference():
    """A batch's cache is gigabytes: it must not wait for the garbage collector."""
    gc.disable()
    try:
        cache = KeyValueCache(2, 1, 1, 4, 8)
        keys = weakref.ref(cache.keys)
        del cache
        assert keys() is None
    finally:
        gc.enable()
