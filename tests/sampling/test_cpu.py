"""The fast CPU path computes the same."""

import pytest
import torch

from sampling.cpu import PackedLinear, can_pack, compile_step, pack_linears
from tests.support import toy
from tests.support.decoding import cached_logits


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_packed_linear_is_linear(dtype, tolerance):
    if not can_pack(dtype):
        pytest.skip(f"no oneDNN for {dtype} here")
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 80).to(dtype)
    for rows in (1, 5, 16):
        x = torch.randn(rows, 1, 48, dtype=dtype)
        torch.testing.assert_close(PackedLinear(linear, 5)(x), linear(x), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_optimized_decoding_equals_plain_decoding(compile):
    plain, fast = toy.generator(), toy.generator()
    pack_linears(fast.requires_grad_(False), 6)
    forward = compile_step(fast) if compile else fast
    class_ids, codes = torch.tensor([0, 1, 2, 3, 4, 4]), torch.randint(0, toy.CODEBOOK_SIZE, (6, toy.NUM_CODES))
    expected, found = cached_logits(plain, codes, class_ids), cached_logits(fast, codes, class_ids, forward)
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
