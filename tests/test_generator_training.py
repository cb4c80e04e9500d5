"""AR training in this process, and what both trainings share."""

from pathlib import Path

import pytest
import torch

from dataset.code_batches import CodeBatch
from dataset.sampler import ShuffledBatches
from tests import toy
from tests.resuming import assert_equal_checkpoints, interrupted
from train_generator.trainer import GeneratorTrainer, parameter_groups
from utils.checkpoint import find_resume, list_checkpoints, load_checkpoint_weights, save_checkpoint
from utils.config import load_config
from utils.errors import UserError
from utils.schema import ARConfig
from utils.tracking import read_log
from utils.weights import read_state_dict


def generator_trainer(tmp_path: Path, name: str, *overrides: str) -> GeneratorTrainer:
    cache = tmp_path / "cache"
    if not cache.exists():
        toy.write_token_cache(cache)
    config = load_config(
        ARConfig,
        "",
        [
            f"config={toy.write_ar_config(tmp_path / 'ar.yaml', use_ema=True)}",
            f"dataset.params.pretokenization={cache}",
            f"dataset.params.pretokenization_val={cache}",
            f"experiment.output_dir={tmp_path / name}",
            "experiment.tokenizer_checkpoint=none",
            *overrides,
        ],
    )
    return GeneratorTrainer(config)


def test_generator_training_resumes_bit_for_bit(tmp_path):
    whole = generator_trainer(tmp_path, "whole")
    whole.run()
    parts = interrupted(lambda *a: generator_trainer(tmp_path, *a), 3)
    assert_equal_checkpoints(list_checkpoints(whole.output_dir)[-1], list_checkpoints(parts.output_dir)[-1])


def test_generator_learns_and_exports_its_average(tmp_path):
    trainer = generator_trainer(tmp_path, "run", "training.max_train_steps=40", "optimizer.params.learning_rate=1e-2")
    trainer.run()
    losses = [r["val_loss"] for r in read_log(trainer.output_dir) if "val_loss" in r]
    assert losses[-1] < losses[0]
    exported = read_state_dict(trainer.output_dir / "pytorch_model.bin")
    assert all(torch.equal(v, exported[k]) for k, v in trainer.ema.module.state_dict().items())
    assert (trainer.output_dir / "curves.png").is_file()


def test_accumulation_equals_the_large_batch(tmp_path):
    """Dropout off: the two differ in how random numbers fall otherwise."""
    off = [f"model.generator.{k}=0" for k in ("dropout", "attn_drop", "tok_dropout", "class_label_dropout")]
    results = []
    for batch, accumulation in ((8, 1), (2, 4)):
        trainer = generator_trainer(
            tmp_path,
            f"run{batch}",
            f"training.per_gpu_batch_size={batch}",
            f"training.gradient_accumulation_steps={accumulation}",
            *off,
        )
        trainer.run()
        results.append(trainer.generator.state_dict())
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key], atol=1e-5, rtol=1e-4)


def test_a_bad_gradient_is_skipped(tmp_path):
    trainer = generator_trainer(tmp_path, "run")
    batch = CodeBatch(torch.zeros(2, toy.NUM_CODES).long(), None, torch.tensor([0, 1]), torch.tensor([3, 5]), [])
    before = [p.clone() for p in trainer.generator.parameters()]
    hook = trainer.generator.norm.weight.register_hook(lambda grad: grad * float("nan"))
    trainer.step = 5
    for _ in range(3):
        trainer.train_step([batch])
    assert trainer.guard.skipped == 3
    assert all(torch.equal(p, q) for p, q in zip(trainer.generator.parameters(), before, strict=True))
    with pytest.raises(UserError, match=r"no finite loss and gradient.*its images were d/3.png, b/5.png"):
        for _ in range(20):
            trainer.train_step([batch])
    hook.remove()


def test_weight_decay_is_for_matrices_only():
    model = toy.generator()
    decayed, plain = parameter_groups(model, 0.03)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    assert decayed["weight_decay"] == 0.03 and plain["weight_decay"] == 0.0
    assert {"output.weight", "blocks.0.attn.qkv.weight", "blocks.1.mlp.w2.weight"} <= decayed_names
    assert not any("norm" in n or n.endswith("bias") or n.startswith("embeddings") for n in decayed_names)
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_a_cache_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="codebook size 32 there, 16 in the configuration"):
        generator_trainer(tmp_path, "run", "model.vq_model.codebook_size=16")
    with pytest.raises(UserError, match="classes 4 there, 3 in the configuration"):
        generator_trainer(tmp_path, "run", "model.generator.condition_num_classes=3")


def test_batches_are_a_function_of_the_step():
    def batches(batch_size=4, rank=0, world_size=1, seen=0, num_batches=6):
        sampler = ShuffledBatches(
            10, batch_size, seed=1, rank=rank, world_size=world_size, seen=seen, num_batches=num_batches
        )
        return [indices.tolist() for indices, _ in sampler]

    whole = batches()
    assert batches(seen=12, num_batches=3) == whole[3:]
    other = batches(3, seen=12, num_batches=4)  # resumed with another batch size
    assert [i for batch in other for i in batch] == [i for batch in whole[3:] for i in batch]
    halves = [batches(2, rank, 2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    seen = [i for batch in whole for i in batch]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert seen[:10] != seen[10:20]


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


def test_a_used_folder_is_not_trained_over(tmp_path):
    generator_trainer(tmp_path, "run").run()
    with pytest.raises(UserError, match=r"holds a checkpoint of a later step.*resume=auto"):
        generator_trainer(tmp_path, "run").run()


def test_yaml_no_means_no_mixed_precision(tmp_path):
    assert generator_trainer(tmp_path, "run", "training.mixed_precision=no").accelerator.mixed_precision == "no"
    with pytest.raises(UserError, match="needs a GPU"):
        generator_trainer(tmp_path, "run", "training.mixed_precision=fp16")
