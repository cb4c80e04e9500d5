"""Training RAR: orders are a function of seed and sample, whatever runs the training."""

from pathlib import Path

import pytest
import torch

from tests.support import toy
from tests.support.commands import train_ar
from tests.support.launch import run
from tests.support.resuming import assert_equal_checkpoints, interrupted
from tests.support.toy.rar import NO_DROPOUT_OVERRIDES, OVERRIDES
from tests.support.trainings import VALIDATE_OFTEN, generator_trainer
from train_generator.loss_noise import loss_noise
from train_generator.trainer import GeneratorTrainer
from training.checkpoint_files import list_checkpoints, load_checkpoint_weights
from training.logging import read_log
from utils.weights import export_weights


def trainer(folder: Path, name: str, *overrides: str) -> GeneratorTrainer:
    return generator_trainer(folder, name, *OVERRIDES, *overrides)


def test_training_resumes_bit_for_bit(tmp_path):
    """With dropout, and in the middle of the annealing."""

    def build(name: str, *overrides: str) -> GeneratorTrainer:
        return trainer(tmp_path, name, VALIDATE_OFTEN, *overrides)

    whole = build("whole")
    whole.run()
    parts = interrupted(build, stop_at=3)
    assert_equal_checkpoints(list_checkpoints(whole.output_dir)[-1], list_checkpoints(parts.output_dir)[-1])


def test_orders_belong_to_samples():
    """The micro-batch, the rank and the number of processes decide which rows of the noise a process draws."""
    together = loss_noise(42, torch.arange(6), 8)
    apart = torch.cat([loss_noise(42, torch.arange(6)[rank::2], 8) for rank in range(2)])
    assert torch.equal(apart, together[[0, 2, 4, 1, 3, 5]])
    assert not torch.equal(loss_noise(43, torch.arange(6), 8), together)


def test_the_share_of_random_orders_is_logged(tmp_path):
    run = trainer(tmp_path, "run", "experiment.log_every=1", "training.per_gpu_batch_size=24")
    run.run()
    shares = [row["random_orders"] for row in read_log(run.output_dir) if "random_orders" in row]
    assert len(shares) == 8
    assert shares[:3] == [1, 1, 1]  # annealed from step 2 to step 7
    assert 0 < shares[4] < 1
    assert shares[7] == 0


def test_it_learns_raster_order_from_random_orders(tmp_path):
    longer = ("training.max_train_steps=60", "experiment.eval_every=20", "optimizer.params.learning_rate=1e-2")
    random = ("model.generator.randomness_anneal_start=60", "model.generator.randomness_anneal_end=60")
    run = trainer(tmp_path, "run", *longer, *random, "training.ema_decay=0.9")
    run.run()
    losses = [row["val_loss"] for row in read_log(run.output_dir) if "val_loss" in row]
    assert losses[-1] < losses[0] - 0.3


def test_accumulation_equals_the_large_batch(tmp_path):
    """Without dropout, as the two would draw different masks."""
    results = []
    for batch, accumulation in ((8, 1), (2, 4)):
        sizes = (f"training.per_gpu_batch_size={batch}", f"training.gradient_accumulation_steps={accumulation}")
        run = trainer(tmp_path, f"run{batch}", *sizes, *NO_DROPOUT_OVERRIDES)
        run.run()
        results.append(run.generator.state_dict())
    for key, value in results[0].items():
        if not key.endswith("k_norm.bias"):  # Adam makes steps of the rounding error of its zero gradient
            torch.testing.assert_close(value, results[1][key], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_compiled_blocks_train_like_eager_ones(tmp_path):
    losses = []
    for flag in ("false", "true"):
        run = trainer(tmp_path, f"run_{flag}", f"training.compile={flag}", *NO_DROPOUT_OVERRIDES)
        batches = run.batches()
        losses.append([float(run.train_step(next(batches))["loss"]) for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_follow_one(tmp_path, sharded):
    """Without dropout, in float32: the same losses, orders and, up to rounding, weights. Sharded, with previews."""
    toy.write_token_cache(tmp_path / "cache", 60)
    tokenizer = export_weights(tmp_path / "tokenizer", toy.tokenizer().state_dict())[1]

    def train(name: str, processes: int, *overrides: str) -> list[dict]:
        config = toy.write_ar_config(tmp_path / "ar.yaml", per_gpu_batch_size=8 // processes, max_train_steps=8)
        options = ("experiment.log_every=1", "optimizer.params.learning_rate=1e-3", *OVERRIDES, *NO_DROPOUT_OVERRIDES)
        command = train_ar(config, tmp_path / "cache", tmp_path / name, *options, *overrides)
        run(*command, processes=processes)
        return [row for row in read_log(tmp_path / name) if "loss" in row]

    fsdp = ("training.fsdp=true", f"experiment.tokenizer_checkpoint={tokenizer}") if sharded else ()
    one, two = train("one", 1), train("two", 2, *fsdp)
    assert [r["random_orders"] for r in two] == [r["random_orders"] for r in one]
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-4)
    a, b = (load_checkpoint_weights(list_checkpoints(tmp_path / name)[-1], "model") for name in ("one", "two"))
    for key, value in a.items():
        if not key.endswith("k_norm.bias"):
            torch.testing.assert_close(b[key], value, atol=2e-4, rtol=1e-2)
    assert len(list((tmp_path / "two" / "previews").glob("*.png"))) == (2 if sharded else 0)
