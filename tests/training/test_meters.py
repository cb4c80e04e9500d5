"""Means and rates between two log lines."""

import time

import pytest
import torch

from tests.support import toy
from tests.support.trainings import generator_trainer, tokenizer_trainer
from training.logging import read_log
from training.meters import StepStats
from training.peak_flops import data_sheet_peak


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
    assert 0 < row["mfu_of_measured_peak"] < 1
    assert 0 <= row["data_wait"] < 1
    achieved = row["images_per_second"] * trainer.flops_per_image
    assert row["mfu_of_measured_peak"] == pytest.approx(achieved / trainer.peak)
    assert "mfu_of_data_sheet" not in row


def test_peaks_of_data_sheets():
    half = torch.bfloat16
    assert data_sheet_peak("NVIDIA H100 80GB HBM3", half) == 989e12
    assert data_sheet_peak("NVIDIA H100 PCIe", half) == 756e12
    assert data_sheet_peak("NVIDIA A100-SXM4-80GB", half) == 312e12
    assert data_sheet_peak("NVIDIA H100 80GB HBM3", torch.float32) is None
    assert data_sheet_peak("NVIDIA L40", half) == 181e12
    assert data_sheet_peak("NVIDIA L4", half) == 121e12
    assert data_sheet_peak("NVIDIA RTX A4000", half) is None  # no A40
    assert data_sheet_peak("", half) is None
