"""Training the masked generators: masks are a function of seed and sample, whatever runs the training."""

from pathlib import Path

import pytest

from tests.support import toy
from tests.support.commands import train_ar
from tests.support.launch import run
from tests.support.resuming import assert_equal_checkpoints, interrupted
from tests.support.toy.maskgit import OVERRIDES
from tests.support.trainings import generator_trainer
from train_generator.trainer import GeneratorTrainer
from training.checkpoint_files import list_checkpoints, load_checkpoint_weights
from training.logging import read_log

NO_DROPOUT = ("model.generator.dropout=0", "model.generator.attn_drop=0")


def trainer(folder: Path, name: str, *overrides: str) -> GeneratorTrainer:
    return generator_trainer(folder, name, *OVERRIDES, *overrides)


def test_training_resumes_bit_for_bit(tmp_path):
    """With dropout."""

    def build(name: str, *overrides: str) -> GeneratorTrainer:
        return trainer(tmp_path, name, *overrides)

    whole = build("whole")
    whole.run()
    parts = interrupted(build, stop_at=3)
    assert_equal_checkpoints(list_checkpoints(whole.output_dir)[-1], list_checkpoints(parts.output_dir)[-1])


def test_it_learns(tmp_path):
    """Validation masks the same codes every time."""
    longer = ("training.max_train_steps=60", "experiment.eval_every=20", "optimizer.params.learning_rate=1e-2")
    run = trainer(tmp_path, "run", *longer, "model.generator.model_type=UViT", "training.ema_decay=0.9")
    run.run()
    rows = read_log(run.output_dir)
    losses = [row["val_loss"] for row in rows if "val_loss" in row]
    assert losses[-1] < losses[0] - 0.3
    shares = [row["masked_share"] for row in rows if "masked_share" in row]
    assert 0.3 < sum(shares) / len(shares) < 0.9
    again = [run.validate(_Silent())["val_loss"] for _ in range(2)]
    assert again[0] == again[1]


class _Silent:
    def log(self, *_):
        pass

    def image(self, *_):
        pass


@pytest.mark.slow
def test_two_sharded_processes_follow_one(tmp_path):
    """Without dropout: the same masks, losses and, up to rounding, weights."""
    toy.write_token_cache(tmp_path / "cache", 60)

    def train(name: str, processes: int, *overrides: str) -> list[dict]:
        config = toy.write_ar_config(tmp_path / "ar.yaml", per_gpu_batch_size=8 // processes, max_train_steps=8)
        options = ("experiment.log_every=1", "optimizer.params.learning_rate=1e-3", *OVERRIDES, *NO_DROPOUT)
        options += ("model.generator.loss_weight_unmasked_token=1",)  # then all micro-batches weigh the same
        command = train_ar(config, tmp_path / "cache", tmp_path / name, *options, *overrides)
        run(*command, processes=processes)
        return [row for row in read_log(tmp_path / name) if "loss" in row]

    one, two = train("one", 1), train("two", 2, "training.fsdp=true")
    assert [r["masked_share"] for r in two] == pytest.approx([r["masked_share"] for r in one])
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-4)
    folders = (list_checkpoints(tmp_path / name)[-1] for name in ("one", "two"))
    a, b = (load_checkpoint_weights(folder, "model") for folder in folders)
    for key, value in a.items():
        if not key.endswith("key.bias"):  # Adam makes steps of the rounding error of its zero gradient
            assert (b[key] - value).abs().max() < 2e-4, key
