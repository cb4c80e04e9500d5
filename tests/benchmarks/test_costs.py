"""docs/costs.md holds what `benchmarks.costs` computes."""

import pytest

from benchmarks.costs import GENERATORS, PEAK, TOKENIZERS, UTILISATION, generator_cost, tokenizer_cost
from tests.support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "costs.md").read_text()
RATE = PEAK * 1e12 * UTILISATION


def test_every_training_has_a_row():
    for name, _, _ in (*GENERATORS, *TOKENIZERS):
        assert DOCUMENT.count(f"| {name} |") == 1


def test_generators(monkeypatch):
    """AliTok-B's operations are six for each of 177M weights, at each of 274 positions, in each image."""
    monkeypatch.chdir(ROOT)
    base = generator_cost(*GENERATORS[0])
    assert base.row(RATE) in DOCUMENT
    assert base.flops == pytest.approx(6 * 177e6 * 274 * 2048 * 500_000, rel=0.05)
    assert generator_cost(*GENERATORS[-1]).row(RATE) in DOCUMENT


@pytest.mark.slow
def test_a_tokenizer(monkeypatch):
    """Only the decoder trains in stage 2."""
    monkeypatch.chdir(ROOT)
    stage2 = tokenizer_cost(*TOKENIZERS[1])
    assert stage2.row(RATE) in DOCUMENT
    assert stage2.parameters < 310e6
