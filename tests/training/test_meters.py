"""Means and rates between two log lines."""

import time

import pytest

from tests.support import toy
from tests.support.trainings import generator_trainer, tokenizer_trainer
from training.logging import read_log
from training.meters import StepStats


def test_pauses_do_not_count_in_rates(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    meters = StepStats()
    meters.add(100)
    start = time.perf_counter()
    with meters.pause():
        time.sleep(0.5)
    elapsed = time.perf_counter() - start
    assert meters.pop(trainer.accelerator)["images_per_second"] > 2 * 100 / elapsed


def test_skipped_steps_do_not_spoil_the_means(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    meters = StepStats()
    for value in (1.0, float("nan"), 3.0):
        meters.add(8, 0.0, loss=value, grad_norm=float("inf"))
    means = meters.pop(trainer.accelerator)
    assert means["loss"] == 2.0
    assert "grad_norm" not in means
    assert means["images_per_second"] > 0


def test_logged_rates(tmp_path):
    trainer = generator_trainer(tmp_path, "run")
    trainer.run()
    rows = [r for r in read_log(trainer.output_dir) if "loss" in r]
    assert [r["epoch"] for r in rows] == [8 * r["step"] / len(trainer.data.training) for r in rows]  # no means
    row = rows[0]
    assert row["tokens_per_second"] == pytest.approx(toy.NUM_CODES * row["images_per_second"])
    assert 0 < row["mfu"] < 1
    assert 0 <= row["data_wait"] < 1
    assert row["mfu"] == pytest.approx(row["images_per_second"] * trainer.flops_per_image / trainer.peak)
