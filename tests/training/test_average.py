"""The moving average of the weights against numbers of the published code (tests/parity/README.md)."""

import json

import pytest
import torch
from torch import nn

from tests.support.parity import PARITY
from training.average import AverageSettings, decay_of_update, make_average

WARMUP = AverageSettings(use_ema=True, ema_warmup=True)


def published(name: str):
    return json.loads((PARITY / "schedules_1d.json").read_text())[name]


def test_the_decay_rises_in_the_warm_up():
    for number, decay in published("ema_decay_of_update").items():
        assert decay_of_update(int(number), WARMUP) == pytest.approx(decay, rel=1e-12)
    assert decay_of_update(1, AverageSettings(use_ema=True, ema_decay=0.9)) == 0.9


@torch.no_grad()
def test_the_average_is_the_published_one():
    model = nn.Linear(1, 1, bias=False)
    model.weight.fill_(1)
    average = make_average(model, WARMUP)
    for number, expected in enumerate(published("ema_of_1_then_2_to_7"), 1):
        model.weight.fill_(number + 1)
        average.update(model, number)
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)


def test_there_is_none_unless_asked():
    assert make_average(nn.Linear(1, 1), AverageSettings()) is None
