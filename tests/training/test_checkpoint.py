"""Checkpoints are whole or not there."""

import random
import time
from functools import partial

import pytest
import torch

from tests.support.launch import kill, start, wait_until
from tests.support.resuming import RESUME
from tests.support.trainings import generator_trainer
from training.checkpoint import (
    checkpoint_step,
    find_resume,
    list_checkpoints,
    load_checkpoint_weights,
    load_training_state,
    save_checkpoint,
)
from utils.errors import UserError


def test_half_written_checkpoints_are_skipped(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"model": {"w": torch.tensor([float(step)])}}, {}, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    (tmp_path / "checkpoints" / "step_00000004.part").mkdir()
    (tmp_path / "checkpoints" / "step_00000005").mkdir()
    newest = find_resume("auto", tmp_path)
    assert newest.name == "step_00000003"
    assert load_checkpoint_weights(newest, "model")["w"] == 3
    assert find_resume("false", tmp_path) is None
    with pytest.raises(UserError, match="not a checkpoint folder"):
        find_resume(str(tmp_path / "nowhere"), tmp_path)


SAVER = """
import sys, torch
from training.checkpoint_files import save_checkpoint
step = int(sys.argv[2])
while True:
    step += 1
    weights = {name: {"w": torch.full((200_000,), float(step))} for name in ("model", "ema")}
    state = {"numbers": torch.full((1000,), step), "samples_seen": 0, "skipped_steps": 0, "undecodable": []}
    save_checkpoint(sys.argv[1], step, weights, state, keep=1)
"""


@pytest.mark.slow
def test_a_kill_at_any_instant_leaves_a_whole_checkpoint(tmp_path):
    """The process only saves, so that kills hit every part of saving."""
    moments, newest = random.Random(0), 0

    def newer_than(step: int) -> bool:
        return any(checkpoint_step(p) > step for p in list_checkpoints(tmp_path))

    for _ in range(6):
        process = start("-c", SAVER, tmp_path, newest)
        wait_until(partial(newer_than, newest), process)
        time.sleep(moments.uniform(0, 0.05))
        kill(process)
        folder = list_checkpoints(tmp_path)[-1]
        newest = checkpoint_step(folder)
        for name in ("model", "ema"):
            assert (load_checkpoint_weights(folder, name)["w"] == newest).all()
        assert (load_training_state(folder)["numbers"] == newest).all()


def test_a_save_due_at_a_bad_step_comes_with_the_next_good_one(tmp_path):
    trainer = generator_trainer(tmp_path, "run", "experiment.milestone_every=4", "experiment.keep_checkpoints=1")

    def spoil_one_step(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan") if trainer.state.step == 3 else gradient

    trainer.generator.norm.weight.register_hook(spoil_one_step)
    trainer.run()
    assert trainer.state.skipped_steps == 1
    assert [checkpoint_step(p) for p in list_checkpoints(trainer.output_dir)] == [5, 8]
    longer = (
        "training.max_train_steps=12",
        "experiment.keep_checkpoints=1",
    )
    generator_trainer(tmp_path, "run", RESUME, *longer).run()
    assert [checkpoint_step(p) for p in list_checkpoints(trainer.output_dir)] == [
        5,
        8,
        12,
    ]  # milestones stay
