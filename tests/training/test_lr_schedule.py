"""The generator's learning rate."""

import json

import pytest

from tests.support.parity import PARITY
from training.lr_schedule import warmup_cosine


def test_generator_schedule_matches_the_published_one():
    expected = json.loads((PARITY / "lr_schedule.json").read_text())["lr_schedule_alitok_b"]
    for step, rate in expected.items():
        ours = warmup_cosine(int(step), base=4e-4, end=1e-5, warmup_steps=62_500, total_steps=500_000)
        assert ours == pytest.approx(rate, rel=1e-12)
