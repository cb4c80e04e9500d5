"""The fast CPU path computes the same."""

import pytest
import torch

from modeling.build import cast_parameters
from sampling.autoregressive import AutoregressiveDecoder
from sampling.cpu import PackedLinear, can_pack
from sampling.settings import SamplingSettings
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


@pytest.mark.parametrize(
    ("compile", "dtype", "tolerance"),
    [
        (False, torch.float32, 1e-5),
        pytest.param(True, torch.bfloat16, 2e-2, marks=pytest.mark.slow),
    ],
)
def test_optimized_decoding_equals_plain_decoding(compile, dtype, tolerance):
    plain, fast = toy.generator(), toy.generator()
    for model in (plain, fast):
        cast_parameters(model.requires_grad_(False), dtype)
    forward = AutoregressiveDecoder.prepare(fast, SamplingSettings(0.0), 6, compile)
    class_ids, codes = torch.tensor([0, 1, 2, 3, 4, 4]), torch.randint(0, toy.CODEBOOK_SIZE, (6, toy.NUM_CODES))
    expected, found = cached_logits(plain, codes, class_ids), cached_logits(fast, codes, class_ids, forward)
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(one, two, atol=tolerance, rtol=10 * tolerance)
