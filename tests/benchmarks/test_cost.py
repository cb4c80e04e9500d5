"""The arithmetic of the cost table, and the batches of its rows."""

import pytest

from benchmarks.cost import Cost, divisors, generators, tokenizers
from tests.support.paths import ROOT
from utils.errors import UserError


def test_hours_are_operations_over_the_rate():
    cost = Cost(steps=1, operations=3.6e21, weights=1, memory=(0, 1))
    assert cost.gpu_hours(peak=1e15, utilization=0.5) == 2000


def test_the_micro_batch_is_the_largest_divisor_that_fits():
    cost = Cost(steps=1, operations=1, weights=1, memory=(10, 2.5))
    assert cost.largest_micro_batch(384, 10 + 2.5 * 100) == 96
    assert cost.largest_micro_batch(384, 10 + 2.5 * 384) == 384
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    with pytest.raises(UserError, match="one image needs"):
        cost.largest_micro_batch(384, 12)


def test_rows_have_the_published_batches(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert {training.batch for training in generators()} == {2048}
    assert {training.batch for training in tokenizers()} == {384}
