"""Checkpoints are whole or not there."""

import random
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.support.launch import ENVIRONMENT, command_line
from tests.support.paths import ROOT
from tests.support.trainings import generator_trainer
from train_generator.trainer import GeneratorTrainer
from training.checkpoint import (
    checkpoint_step,
    find_resume,
    list_checkpoints,
    load_checkpoint_weights,
    load_training_state,
    save_checkpoint,
)
from utils.errors import UserError


def test_half_written_checkpoints_are_passed_over(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"model": {"w": torch.tensor([float(step)])}}, {}, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    (tmp_path / "checkpoints" / "step_00000004.part").mkdir()
    (tmp_path / "checkpoints" / "step_00000005").mkdir()
    newest = find_resume("auto", tmp_path)
    assert newest.name == "step_00000003"
    assert load_checkpoint_weights(newest, "model")["w"] == 3
    assert find_resume(False, tmp_path) is None
    with pytest.raises(UserError, match="no checkpoint folder"):
        find_resume(str(tmp_path / "nowhere"), tmp_path)


SAVER = """
import sys, torch
from training.checkpoint import save_checkpoint
step = int(sys.argv[2])
while True:
    step += 1
    weights = {name: {"w": torch.full((200_000,), float(step))} for name in ("model", "ema")}
    save_checkpoint(sys.argv[1], step, weights, {"numbers": torch.full((1000,), step)}, keep=1)
"""


def test_a_kill_at_any_instant_leaves_a_whole_checkpoint(tmp_path):
    """The process does nothing but save, so that the kills fall into every part of it."""
    moments, newest = random.Random(0), 0
    for _ in range(6):
        process = subprocess.Popen([*command_line("-c", SAVER), str(tmp_path), str(newest)], cwd=ROOT, env=ENVIRONMENT)
        while not any(checkpoint_step(p) > newest for p in list_checkpoints(tmp_path)):
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.wait()
        folder = list_checkpoints(tmp_path)[-1]
        newest = checkpoint_step(folder)
        for name in ("model", "ema"):
            assert (load_checkpoint_weights(folder, name)["w"] == newest).all()
        assert (load_training_state(folder)["numbers"] == newest).all()


RESUME = "experiment.resume=auto"


def build(tmp_path: Path, *overrides: str) -> GeneratorTrainer:
    """8 steps of AR training with a moving average, in tmp_path/run."""
    return generator_trainer(tmp_path, "run", "experiment.eval_every=100", *overrides)


def test_a_save_due_at_a_bad_step_comes_with_the_next_good_one(tmp_path):
    trainer = build(tmp_path, "experiment.milestone_every=4", "experiment.keep_checkpoints=1")
    trainer.generator.norm.weight.register_hook(lambda grad: grad * float("nan") if trainer.step == 3 else grad)
    trainer.run()
    assert trainer.guard.skipped == 1
    assert [checkpoint_step(p) for p in list_checkpoints(trainer.output_dir)] == [5, 8]
    longer = ("training.max_train_steps=12", "experiment.keep_checkpoints=1")  # milestones stay without the key, too
    build(tmp_path, RESUME, *longer).run()
    assert [checkpoint_step(p) for p in list_checkpoints(trainer.output_dir)] == [5, 8, 12]
