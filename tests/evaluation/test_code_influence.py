"""Which patches one code changes."""

import pytest
import torch

from evaluation.code_influence import code_reach
from tests.support import toy


def test_code_reach_knows_the_decoders_direction():
    """In a causal decoder no code changes earlier patches; in a bidirectional one many do."""
    codes = torch.randint(0, toy.CODEBOOK_SIZE, (4, toy.NUM_CODES), generator=torch.Generator().manual_seed(0))
    causal, bidirectional = (code_reach(toy.tokenizer(stage, init_std=0.3), codes) for stage in (1, 2))
    for shares in (causal, bidirectional):
        assert sum(shares.values()) == pytest.approx(1)
    assert causal["earlier"] == 0
    assert min(causal["own"], causal["later"]) > 0.05
    assert min(bidirectional.values()) > 0.05
