"""The key/value cache."""

import gc
import weakref

import torch

from modeling.layers.kv_cache import KeyValueCache, store


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


def test_keys_and_values_in_8_bits():
    """Relative error at most 1/16 from a 64th on; large numbers become the largest and not NaN."""
    k, v = 3 * torch.randn(2, 2, 4, 1, 8, generator=torch.Generator().manual_seed(0))
    k[0, 0, 0, 0], v[0, 0, 0, 0] = 1000.0, -1000.0
    cache = KeyValueCache(1, 2, 4, 6, 8, "fp8")
    cache.layers[0].attend(k, k, v)
    for kept, given in ((cache.keys[0, :, :, :1].float(), k), (cache.values[0, :, :, :1].float(), v)):
        torch.testing.assert_close(kept, given.clamp(-448, 448), rtol=1 / 16, atol=2**-10)
        assert kept.abs().max() == 448


def test_a_position_that_the_device_knows():
    for dtype in (torch.float32, torch.float8_e4m3fn):
        cached = torch.zeros(2, 4, 6, 8, dtype=dtype)
        store(cached, torch.tensor([3]), torch.full((2, 4, 1, 8), 1.5))
        assert cached.float().sum() == 1.5 * 2 * 4 * 8
        assert (cached[:, :, 3].float() == 1.5).all()
