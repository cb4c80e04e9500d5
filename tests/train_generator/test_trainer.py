"""Generator training in this process."""

import pytest
import torch

from dataset.class_names import class_names
from tests.support import toy
from tests.support.resuming import RESUME, assert_equal_checkpoints, interrupted
from tests.support.trainings import VALIDATE_OFTEN, generator_trainer
from train_generator.trainer import GeneratorTrainer, parameter_groups
from training.checkpoint_files import list_checkpoints
from training.logging import read_log
from utils.weights import read_state_dict


def test_generator_training_resumes_bit_for_bit(tmp_path):
    def build(name: str, *overrides: str) -> GeneratorTrainer:
        return generator_trainer(tmp_path, name, VALIDATE_OFTEN, *overrides)

    whole = build("whole")
    whole.run()
    parts = interrupted(build, stop_at=3)
    assert_equal_checkpoints(list_checkpoints(whole.output_dir)[-1], list_checkpoints(parts.output_dir)[-1])


def test_generator_learns_and_exports_its_average(tmp_path):
    longer = ("training.max_train_steps=40", "experiment.eval_every=20", "optimizer.params.learning_rate=1e-2")
    trainer = generator_trainer(tmp_path, "run", *longer)
    trainer.run()
    losses = [r["val_loss"] for r in read_log(trainer.output_dir) if "val_loss" in r]
    assert losses[-1] < losses[0]
    exported = read_state_dict(trainer.output_dir / "pytorch_model.bin")
    assert all(torch.equal(v, exported[k]) for k, v in trainer.ema.module.state_dict().items())
    assert (trainer.output_dir / "curves.png").is_file()
    assert class_names(trainer.output_dir, toy.NUM_CLASSES) == ["a", "b", "c", "d"]


def test_accumulation_equals_the_large_batch(tmp_path):
    """Without dropout, as the two would draw different masks."""
    results = []
    for batch, accumulation in ((8, 1), (2, 4)):
        sizes = (f"training.per_gpu_batch_size={batch}", f"training.gradient_accumulation_steps={accumulation}")
        trainer = generator_trainer(tmp_path, f"run{batch}", *sizes, *toy.NO_DROPOUT)
        trainer.run()
        results.append(trainer.generator.state_dict())
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key], atol=1e-5, rtol=1e-4)


def test_weight_decay_is_for_matrices_only():
    model = toy.generator()
    decayed, plain = parameter_groups(model, 0.03)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    assert decayed["weight_decay"] == 0.03
    assert plain["weight_decay"] == 0.0
    assert {"output.weight", "blocks.0.attn.qkv.weight", "blocks.1.mlp.w2.weight"} <= decayed_names
    assert not any("norm" in n or n.endswith("bias") or n.startswith("embeddings") for n in decayed_names)
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


@pytest.mark.slow
def test_compiled_blocks_train_like_eager_ones(tmp_path):
    losses = []
    for flag in ("false", "true"):
        trainer = generator_trainer(tmp_path, f"run_{flag}", f"training.compile={flag}", *toy.NO_DROPOUT)
        loader = iter(trainer.batches())
        losses.append([float(trainer.train_step(next(loader))["loss"]) for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_changed_hyperparameters_are_those_of_the_configuration(tmp_path):
    generator_trainer(tmp_path, "run", "training.max_train_steps=4").run()
    changes = ("optimizer.params.weight_decay=0.5", "optimizer.params.beta2=0.5")
    resumed = generator_trainer(tmp_path, "run", RESUME, *changes)
    groups = resumed.optimizer.param_groups
    assert [g["weight_decay"] for g in groups] == [0.5, 0.0]
    assert {g["betas"] for g in groups} == {(0.9, 0.5)}
    state = next(iter(resumed.optimizer.state.values()))
    assert state["step"] == 4
    assert state["exp_avg_sq"].abs().sum() > 0
