"""Phases of a tokenizer training."""

import json

import pytest

from tests.support.parity import PARITY
from tests.support.paths import ROOT
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.phases import Phase, PhaseSchedule
from utils.config import load_config
from utils.errors import UserError


def published_schedules() -> dict[str, dict[str, float]]:
    return json.loads((PARITY / "schedules_1d.json").read_text())


def test_phases_follow_each_other_and_warm_up_once():
    phases = [
        Phase("a", 10, 1e-3, None, "constant"),
        Phase("b", 20, 1e-3, 1e-4, "linear"),
        Phase("c", 5, 1e-4, 1e-5, "cosine"),
    ]
    schedule = PhaseSchedule(phases, warmup_steps=4)
    assert schedule.total_steps == 35
    assert [schedule.at(s)[0].name for s in (0, 9, 10, 29, 30, 34)] == list("aabbcc")
    assert [schedule.learning_rate(s) for s in range(5)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    assert schedule.learning_rate(20) == pytest.approx(5.5e-4)
    rates = [schedule.learning_rate(s) for s in range(10, 35)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("stage", [1, 2])
def test_titoks_learning_rates_are_the_published_ones(stage):
    config = load_config(TokenizerConfig, "", [f"config={ROOT}/configs/training/TiTok/stage{stage}/titok_b64.yaml"])
    rates = config.lr_scheduler.params
    schedule = PhaseSchedule(config.phases, rates.warmup_steps, rates)
    for step, rate in published_schedules()[f"lr_titok_stage{stage}"].items():
        assert schedule.learning_rate(int(step)) == pytest.approx(rate, rel=1e-9)


def test_the_discriminators_schedule_ends_with_the_stage():
    """The published code's does so on one process only."""
    config = load_config(TokenizerConfig, "", [f"config={ROOT}/configs/training/TiTok/stage2/titok_b64.yaml"])
    rates = config.lr_scheduler.params
    schedule = PhaseSchedule(config.phases, rates.warmup_steps, rates)
    for updates, rate in published_schedules()["lr_discriminator_updates_1_process"].items():
        assert schedule.discriminator_rate(20_000 + int(updates), 1e-4) == pytest.approx(rate, rel=1e-9)
    assert schedule.discriminator_rate(500_000, 1e-4) == pytest.approx(1e-5)
    assert PhaseSchedule([Phase("a", 10, 1e-3)], 0).discriminator_rate(7, 3e-4) == 3e-4


def test_bad_phases_are_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="no phases"):
        PhaseSchedule([], 0)
    with pytest.raises(UserError, match="phase 'a' has no learning_rate"):
        PhaseSchedule([Phase("a", 1)], 0)
    for phase, message in (
        ("{name: a, steps: 1, learning_rate: 1, shape: cosin}", "phases.0.shape is 'cosin'; did you mean 'cosine'"),
        ("{name: a, steps: 0, learning_rate: 1}", "phases.0.steps is 0; it must be at least 1"),
    ):
        arguments = ["config=configs/fashion_mnist/tokenizer_stage1.yaml", f"phases=[{phase}]"]
        with pytest.raises(UserError, match=message):
            load_config(TokenizerConfig, "", arguments)
