"""Training processes that are killed or asked to stop, and are then resumed."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import toy
from tests.support.commands import train_ar, train_tokenizer
from tests.support.launch import kill, run, start, wait_until
from tests.support.resuming import RESUME, assert_equal_checkpoints
from training.checkpoint_files import checkpoint_step, list_checkpoints, load_training_state

pytestmark = pytest.mark.slow

TOTAL, HALF = 20, 10


def train(folder: Path, *overrides: str) -> list[object]:
    """A stage-1 training of 20 steps, the last 12 with the GAN."""
    config = toy.write_tokenizer_config(folder.parent / "config.yaml", 1, steps=(8, 12))
    options = ("experiment.eval_every=100", "dataset.params.num_workers_per_gpu=1")
    return train_tokenizer(config, folder.parent / "images", folder, *options, *overrides)


def train_generator(folder: Path, *overrides: str) -> list[object]:
    """20 steps with the moving average and dropout."""
    config = toy.write_ar_config(folder.parent / "ar.yaml", use_ema=True, max_train_steps=TOTAL)
    options = (RESUME, "dataset.params.num_workers_per_gpu=1")
    return train_ar(config, folder.parent / "cache", folder, *options, *overrides)


def wait_for_step(folder: Path, process: subprocess.Popen, step: int) -> None:
    """Until the checkpoint of `step` is there."""

    def is_there() -> bool:
        return any(checkpoint_step(p) >= step for p in list_checkpoints(folder))

    wait_until(is_there, process)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training") / "whole"
    toy.write_images(folder.parent / "images")
    run(*train(folder))
    return folder


@pytest.mark.parametrize("step", [4, HALF])  # before and within the GAN phase
def test_kill_9_and_resume_equal_one_run(uninterrupted, step):
    folder = uninterrupted.parent / f"killed_{step}"
    process = start(*train(folder, "experiment.save_every=2"))
    wait_for_step(folder, process, step)
    kill(process)
    at_kill = checkpoint_step(list_checkpoints(folder)[-1])
    assert step <= at_kill < TOTAL
    assert f"resumed from {list_checkpoints(folder)[-1]}" in run(*train(folder)).stdout
    assert_equal_checkpoints(list_checkpoints(folder)[-1], list_checkpoints(uninterrupted)[-1])


def test_ar_training_killed_and_resumed_equals_one_run(tmp_path):
    toy.write_token_cache(tmp_path / "cache")
    run(*train_generator(tmp_path / "whole"))
    process = start(*train_generator(tmp_path / "killed", "experiment.save_every=2"))
    wait_for_step(tmp_path / "killed", process, HALF)
    kill(process)
    assert HALF <= checkpoint_step(list_checkpoints(tmp_path / "killed")[-1]) < TOTAL
    assert "resumed from" in run(*train_generator(tmp_path / "killed")).stdout
    assert_equal_checkpoints(*(list_checkpoints(tmp_path / name)[-1] for name in ("killed", "whole")))
    for name in ("pytorch_model.bin", "model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(uninterrupted, number):
    folder = uninterrupted.parent / f"stopped_{number}"
    process = start(*train(folder, "experiment.save_every=3"))
    wait_for_step(folder, process, 3)
    os.killpg(process.pid, number)  # data workers get it too, as from a launcher or a terminal
    assert process.wait(60) == 128 + number
    assert checkpoint_step(list_checkpoints(folder)[-1]) < TOTAL
    run(*train(folder))
    assert_equal_checkpoints(list_checkpoints(folder)[-1], list_checkpoints(uninterrupted)[-1])


def test_two_processes_stop_together(uninterrupted):
    folder = uninterrupted.parent / "two"
    halves = ("training.per_gpu_batch_size=4", "experiment.save_every=2")
    process = start(*train(folder, *halves), processes=2)
    wait_for_step(folder, process, 4)
    os.kill(process.pid, signal.SIGTERM)  # torchrun passes it on to the ranks
    process.wait(90)
    newest = list_checkpoints(folder)[-1]
    assert checkpoint_step(newest) < TOTAL
    assert load_training_state(newest)["samples_seen"] == 8 * checkpoint_step(newest)
    run(*train(folder, *halves), processes=2)
    assert checkpoint_step(list_checkpoints(folder)[-1]) == TOTAL


def test_a_failing_run_ends_with_its_workers(uninterrupted):
    """Data workers ignore SIGTERM, so that the last step gets its data; they must not outlive the training."""
    broken = uninterrupted.parent / "images" / "train" / "class_0" / "zzz.png"
    broken.write_bytes(b"no image")
    folder = uninterrupted.parent / "failing"
    options = ("dataset.params.max_bad_fraction=0", "dataset.params.num_workers_per_gpu=2", "experiment.log_every=1")
    result = run(*train(folder, *options), check=False)
    broken.unlink()
    assert result.returncode == 2
    assert "zzz.png" in result.stderr.strip().splitlines()[-1]
