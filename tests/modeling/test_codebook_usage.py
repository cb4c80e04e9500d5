import pytest
import torch

from modeling.layers.codebook_usage import CodebookUsage, PositionUsage


def test_codebook_usage():
    usage = CodebookUsage(8)
    usage.add(torch.tensor([[0, 1], [2, 3]]))
    assert usage.usage() == 0.5
    assert usage.perplexity() == pytest.approx(4.0)


def test_usage_and_entropy_by_position():
    usage = PositionUsage(3, 8)
    usage.add(torch.tensor([[0, 1, 5], [2, 1, 5]]))
    usage.add(torch.tensor([[[4, 3, 5], [6, 3, 5]]]))  # any leading dimensions
    assert usage.usage().tolist() == [4 / 8, 2 / 8, 1 / 8]
    assert usage.entropy().tolist() == pytest.approx([2, 1, 0])
    assert usage.overall().counts.tolist() == [1, 2, 1, 2, 1, 4, 1, 0]
