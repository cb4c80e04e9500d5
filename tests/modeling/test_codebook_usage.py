import pytest
import torch

from modeling.layers.codebook_usage import CodebookUsage


def test_codebook_usage():
    usage = CodebookUsage(8)
    usage.add(torch.tensor([[0, 1], [2, 3]]))
    assert usage.usage() == 0.5
    assert usage.perplexity() == pytest.approx(4.0)
