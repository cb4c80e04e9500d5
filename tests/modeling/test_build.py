"""Building and casting models; sizes that do not fit are refused."""

import pytest
import torch

from modeling.alitok.settings import AliTokConfig
from modeling.build import build_tokenizer, cast_parameters
from tests.support import toy
from tests.support.decoding import cached_logits
from utils.errors import UserError


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"num_latent_tokens is 271.*273.*272.*256"):
        build_tokenizer(AliTokConfig(num_latent_tokens=271))
    with pytest.raises(UserError, match="multiple of patch_size"):
        build_tokenizer(AliTokConfig(image_size=250))


def test_bf16_weights_and_cache():
    exact, rounded = toy.generator(), toy.generator()
    cast_parameters(rounded, torch.bfloat16)
    classes = torch.arange(4)
    assert rounded.new_cache(classes).keys.dtype == torch.bfloat16
    assert rounded.rope.dtype == torch.float32
    codes = torch.zeros(4, 1, dtype=torch.int64)
    logits = [next(cached_logits(model, codes, classes)) for model in (exact, rounded)]
    torch.testing.assert_close(*logits, atol=0.05, rtol=0.05)
