import pytest
import torch

from evaluation.code_influence import code_influence
from modeling.interfaces import CodeLayout
from tests.support import toy


def test_code_influence_knows_the_decoders_direction():
    """In a causal decoder no code changes earlier patches; in a bidirectional one many do."""
    codes = torch.randint(0, toy.CODEBOOK_SIZE, (4, toy.NUM_CODES), generator=torch.Generator().manual_seed(0))
    causal, bidirectional = (code_influence(toy.tokenizer(stage, init_std=0.3), codes) for stage in (1, 2))
    for shares in (causal, bidirectional):
        assert sum(shares.values()) == pytest.approx(1)
    assert causal["earlier"] == 0
    assert causal["own"] > 0.05
    assert causal["later"] > 0.05
    assert min(bidirectional.values()) > 0.05


class PatchTokenizer:
    """Another family: 1 prefix code that nothing shows, then a code per pixel of a 3 x 3 image."""

    layout = CodeLayout(20, 10, 1, (3, 3))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes[:, 1:].view(-1, 1, 3, 3).expand(-1, 3, -1, -1).float()


def test_any_tokenizer_with_a_grid_will_do():
    codes = torch.arange(20).view(2, 10)
    assert code_influence(PatchTokenizer(), codes) == {"own": 1, "earlier": 0, "later": 0}


def test_codes_that_change_nothing_have_no_influence():
    assert code_influence(PatchTokenizer(), torch.ones(2, 10)) == {"own": 0, "earlier": 0, "later": 0}
