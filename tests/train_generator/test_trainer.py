"""Generator training in this process."""

import numpy as np
import pytest
import torch

from dataset.class_names import class_names
from dataset.position_pictures import position_picture
from dataset.token_cache.reader import open_token_cache
from tests.support import toy
from tests.support.resuming import RESUME, assert_equal_checkpoints, interrupted
from tests.support.trainings import VALIDATE_OFTEN, generator_trainer
from train_generator.trainer import GeneratorTrainer, parameter_groups
from training.checkpoint_files import list_checkpoints
from training.logging import last_logged, read_log
from utils.errors import UserError
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
    losses = validation_losses(trainer)
    assert losses[-1] < losses[0]
    exported = read_state_dict(trainer.output_dir / "pytorch_model.bin")
    assert all(torch.equal(v, exported[k]) for k, v in trainer.ema.module.state_dict().items())
    assert (trainer.output_dir / "curves.png").is_file()


def test_an_unfinished_training_has_the_names_of_its_classes(tmp_path):
    trainer = generator_trainer(tmp_path, "run")
    trainer.export = lambda: None
    trainer.run()
    assert class_names(list_checkpoints(trainer.output_dir)[-1], toy.NUM_CLASSES) == ["a", "b", "c", "d"]


def validation_losses(trainer: GeneratorTrainer) -> list[float]:
    return [row["val_loss"] for row in read_log(trainer.output_dir) if "val_loss" in row]


def test_fine_tuning_on_other_classes(tmp_path):
    """From the weights of another training: better than from the beginning, and only at the first step."""
    rate = ("optimizer.params.learning_rate=1e-2", *toy.NO_DROPOUT, "model.generator.class_label_dropout=0.2")
    first = generator_trainer(tmp_path, "first", *rate, "training.max_train_steps=30", "training.use_ema=false")
    first.run()
    short = ("training.max_train_steps=10", "model.generator.condition_num_classes=6", *rate)
    scratch = generator_trainer(tmp_path, "scratch", *short)
    scratch.run()
    start = (f"experiment.init_from={first.output_dir}", "experiment.new_classes=true")
    tuned = generator_trainer(tmp_path, "tuned", *short, *start)
    assert all(torch.equal(v, tuned.ema.module.state_dict()[k]) for k, v in tuned.generator.state_dict().items())
    tuned.run()
    assert tuned.generator.num_classes == 6
    assert last_logged(tuned.output_dir, "loss") < last_logged(scratch.output_dir, "loss") - 0.1
    resumed = generator_trainer(tmp_path, "tuned", RESUME, *short, *start)
    assert torch.equal(resumed.generator.embeddings.weight, tuned.generator.embeddings.weight)


def test_new_classes_need_weights(tmp_path):
    with pytest.raises(UserError, match=r"experiment\.new_classes needs experiment\.init_from"):
        generator_trainer(tmp_path, "run", "experiment.new_classes=true")


def test_validation_draws_the_accuracy_of_each_position(tmp_path, monkeypatch):
    drawn = []

    def spy(panels, layout):
        drawn.extend(panels)
        return position_picture(panels, layout)

    monkeypatch.setattr("train_generator.validation.position_picture", spy)
    trainer = generator_trainer(tmp_path, "run", "optimizer.params.learning_rate=1e-2")
    trainer.run()
    cache = open_token_cache(tmp_path / "cache")
    codes = torch.from_numpy(np.stack([cache.codes(i, 0) for i in range(len(cache))]).astype(np.int64))
    with torch.no_grad():
        loss = trainer.ema.module.eval().loss(codes, torch.from_numpy(cache.labels).long())
    [panel] = drawn
    np.testing.assert_allclose(panel.values, 100 * loss.hits.mean(0).numpy())
    assert len(set(panel.values)) > 1
    assert last_logged(trainer.output_dir, "val_accuracy") == pytest.approx(panel.values.mean() / 100)
    assert (trainer.output_dir / "accuracy_by_position.png").is_file()


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
