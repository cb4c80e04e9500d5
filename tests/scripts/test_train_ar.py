"""train_ar.py: two processes train like one."""

import pytest

from tests.support import toy
from tests.support.commands import train_ar
from tests.support.launch import run
from training.logging import read_log


@pytest.mark.slow
def test_two_processes_follow_one(tmp_path):
    """Without dropout, in float32: the same losses over 20 steps, the same learning rates."""
    toy.write_token_cache(tmp_path / "cache", 60)

    def train(name: str, processes: int) -> list[dict]:
        config = toy.write_ar_config(tmp_path / "ar.yaml", per_gpu_batch_size=8 // processes, max_train_steps=20)
        options = ("experiment.log_every=1", "experiment.log_grad_norm_every=1", "optimizer.params.learning_rate=1e-3")
        command = train_ar(config, tmp_path / "cache", tmp_path / name, *toy.NO_DROPOUT, *options)
        run(*command, processes=processes)
        return [r for r in read_log(tmp_path / name) if "loss" in r]

    one, two = train("one", 1), train("two", 2)
    assert [r["lr"] for r in one] == [r["lr"] for r in two]
    assert [r["epoch"] for r in one] == [r["epoch"] for r in two]
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-4)
    assert [r["grad_norm"] for r in two] == pytest.approx([r["grad_norm"] for r in one], rel=1e-3)
    assert one[-1]["loss"] < one[0]["loss"]
