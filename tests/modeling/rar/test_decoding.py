"""Decoding with RAR computes what its full forward pass computes."""

import pytest
import torch

from modeling.build import cast_parameters
from modeling.rar import cache as rar_cache
from sampling.autoregressive import AutoregressiveDecoder
from sampling.noise import image_noise
from sampling.settings import SamplingSettings
from tests.support import toy
from tests.support.decoding import cached_logits, draw_codes
from tests.support.toy.rar import random_codes, rar_generator

T = toy.NUM_CODES


@torch.no_grad()
@pytest.mark.parametrize("run_bytes", [1, 3 * 6 * 2 * 32 * 4 * 3, 2**30])
def test_cached_decoding_equals_the_full_forward(monkeypatch, run_bytes):
    """Whether modulations are computed for every position, for a few at once, or for all of them."""
    monkeypatch.setattr(rar_cache, "MODULATION_BYTES", run_bytes)
    model, codes, classes = rar_generator(), random_codes(3), torch.tensor([0, 3, toy.NUM_CLASSES])
    full = model(codes[:, :-1], classes)
    for t, logits in enumerate(cached_logits(model, codes, classes)):
        torch.testing.assert_close(logits, full[:, t], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_is_filled_in_one_pass_or_code_by_code(monkeypatch):
    for run_bytes in (1, 2**30):
        monkeypatch.setattr(rar_cache, "MODULATION_BYTES", run_bytes)
        model, codes, classes = rar_generator(), random_codes(2), torch.tensor([0, 1])
        one_by_one = list(cached_logits(model, codes, classes))
        cache = model.new_cache(classes)
        together = model(codes[:, :3], classes, cache)
        torch.testing.assert_close(together, torch.stack(one_by_one[:4], dim=1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(codes[:, 3:4], classes, cache)[:, 0], one_by_one[4], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_modulations_are_computed_once_a_run(monkeypatch):
    """All positions fit into the room: each block's adaptive layer runs at the first position only."""
    model, codes, classes = rar_generator(), random_codes(2), torch.tensor([0, 1])
    calls = []
    for block in model.blocks:
        block.adaLN_modulation.register_forward_hook(lambda _m, _x, y: calls.append(y.shape[1]))
    list(cached_logits(model, codes, classes))
    assert calls == [T + 2] * len(model.blocks)
    calls.clear()
    position_bytes = 2 * 2 * 6 * 32 * 4  # layers, rows, parts, width, bytes a number
    monkeypatch.setattr(rar_cache, "MODULATION_BYTES", 5 * position_bytes)
    assert model.new_cache(classes).modulations.nbytes == 5 * position_bytes
    list(cached_logits(model, codes, classes))
    assert calls == [5, 5, 4, 4]  # nine positions in two runs


@torch.no_grad()
def test_a_cache_used_again_takes_over_other_classes():
    """As with recorded graphs: the same buffers, filled with other class ids."""
    model, codes, classes = rar_generator(), random_codes(2), torch.tensor([0, 1])
    cache = model.new_cache(classes)
    for other in (torch.tensor([0, 1]), torch.tensor([3, 2])):
        classes.copy_(other)
        cache.length = 0
        found = [model(codes[:, max(t - 1, 0) : t], classes, cache)[:, -1] for t in range(T)]
        torch.testing.assert_close(torch.stack(found, 1), model(codes[:, :-1], other), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("run_bytes", "compile"), [(2**30, False), (9000, False), pytest.param(9000, True, marks=pytest.mark.slow)]
)
def test_the_fast_cpu_path_computes_the_same(monkeypatch, run_bytes, compile):
    monkeypatch.setattr(rar_cache, "MODULATION_BYTES", run_bytes)
    plain, fast = rar_generator(), rar_generator()
    forward = AutoregressiveDecoder.prepare(fast.requires_grad_(False), SamplingSettings(0.0), 3, compile)
    codes, classes = random_codes(3), torch.tensor([0, 3, toy.NUM_CLASSES])
    expected, found = cached_logits(plain, codes, classes), cached_logits(fast, codes, classes, forward)
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_bf16_changes_the_distributions_little():
    exact, rounded = rar_generator(), rar_generator()
    cast_parameters(rounded, torch.bfloat16)
    assert rounded.lm_head.weight.dtype == rounded.adaln_before_head.adaLN_modulation[1].weight.dtype == torch.float32
    assert {p.dtype for p in rounded.blocks.parameters()} == {torch.bfloat16}
    codes, classes = random_codes(3), torch.tensor([0, 3, toy.NUM_CLASSES])
    for one, two in zip(*(cached_logits(m, codes, classes) for m in (exact, rounded)), strict=True):
        assert (one.softmax(-1) - two.softmax(-1)).abs().max() < 0.05
    assert rounded.new_cache(classes).modulations.dtype == torch.bfloat16


@pytest.mark.parametrize("scale", [0.0, 4.0])
def test_samples_do_not_depend_on_the_batch(scale):
    model, ids = rar_generator(), range(10)
    classes, noise = torch.tensor([i % toy.NUM_CLASSES for i in ids]), image_noise(3, ids, T)
    together = draw_codes(model, classes, noise, SamplingSettings(scale))
    parts = [draw_codes(model, classes[i : i + 3], noise[i : i + 3], SamplingSettings(scale)) for i in (0, 3, 6, 9)]
    assert torch.equal(together, torch.cat(parts))
