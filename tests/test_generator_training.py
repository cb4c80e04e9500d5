"""AR training in this process, and what both trainings share."""

from pathlib import Path

import pytest
import torch

from dataset.code_dataset import CodeBatch
from tests.conftest import ROOT
from tests.support import toy
from tests.support.launch import run
from tests.support.resuming import assert_equal_checkpoints, interrupted
from train_generator.trainer import GeneratorTrainer, parameter_groups
from training.checkpoint import find_resume, list_checkpoints, load_checkpoint_weights, save_checkpoint
from training.logging import last_logged, read_log
from utils.config import load_config
from utils.errors import UserError
from utils.schema import ARConfig
from utils.weights import export_weights, read_state_dict


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


def test_a_run_killed_before_its_last_validation_makes_up_for_it(tmp_path):
    first = generator_trainer(tmp_path, "run")
    first.run()
    log, weights = first.output_dir / "metrics.jsonl", first.output_dir / "model.safetensors"
    expected = last_logged(first.output_dir, "val_loss")
    log.write_text("".join(line for line in log.read_text().splitlines(True) if "val_loss" not in line))
    weights.unlink()
    with pytest.raises(UserError, match="holds no val_loss"):
        last_logged(first.output_dir, "val_loss")
    generator_trainer(tmp_path, "run", "experiment.resume=auto").run()
    assert last_logged(first.output_dir, "val_loss") == pytest.approx(expected, rel=1e-6) and weights.is_file()


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
    batch = CodeBatch(
        torch.zeros(2, toy.NUM_CODES).long(), None, torch.tensor([0, 1]), torch.tensor([3, 5]), torch.arange(2), []
    )
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


def test_two_processes_follow_one(tmp_path):
    """Without dropout, in float32: the same losses over 20 steps, the same learning rates."""
    toy.write_token_cache(tmp_path / "cache", 60)
    off = [f"model.generator.{k}=0" for k in ("dropout", "attn_drop", "tok_dropout", "class_label_dropout")]

    def train(name: str, processes: int) -> list[dict]:
        config = toy.write_ar_config(tmp_path / "ar.yaml", per_gpu_batch_size=8 // processes, max_train_steps=20)
        run(
            *("train_ar.py", f"config={config}", f"dataset.params.pretokenization={tmp_path / 'cache'}"),
            *(f"experiment.output_dir={tmp_path / name}", "experiment.tokenizer_checkpoint=none", *off),
            *("experiment.log_every=1", "experiment.log_grad_norm_every=1", "optimizer.params.learning_rate=1e-3"),
            processes=processes,
        )
        return [r for r in read_log(tmp_path / name) if "loss" in r]

    one, two = train("one", 1), train("two", 2)
    assert [r["lr"] for r in one] == [r["lr"] for r in two] and [r["epoch"] for r in one] == [r["epoch"] for r in two]
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-4)
    assert [r["grad_norm"] for r in two] == pytest.approx([r["grad_norm"] for r in one], rel=1e-3)
    assert one[-1]["loss"] < one[0]["loss"]


def test_ranks_that_disagree_are_told_at_start(tmp_path):
    """One rank reads another configuration: an error at once, not a wait for the other."""
    toy.write_token_cache(tmp_path / "cache")
    for rank, batch in enumerate((4, 5)):
        toy.write_ar_config(tmp_path / f"rank{rank}.yaml", per_gpu_batch_size=batch)
    script = tmp_path / "differing.py"
    script.write_text(
        "import os, runpy, sys\n"
        f"sys.argv[0:2] = ['train_ar.py', 'config={tmp_path}/rank' + os.environ['RANK'] + '.yaml']\n"
        f"sys.path.insert(0, '{ROOT}')\n"
        f"runpy.run_path('{ROOT}/train_ar.py', run_name='__main__')\n"
    )
    result = run(
        *(script, "config=replaced", f"dataset.params.pretokenization={tmp_path / 'cache'}"),
        *(f"experiment.output_dir={tmp_path / 'out'}", "experiment.tokenizer_checkpoint=none"),
        processes=2,
        check=False,
    )
    assert result.returncode != 0
    assert result.stderr.count("the ranks do not agree on training.per_gpu_batch_size. All machines need") == 2
    assert result.stderr.count("(training.per_gpu_batch_size: 4 on rank 0, 5 on rank 1)") == 2


def test_images_without_a_cache_train_like_their_cache(tmp_path):
    """The same order, the same views: the losses are those of the cached codes."""
    images = toy.write_images(tmp_path / "images", noise=True)
    toy.write_tokenizer_config(tmp_path / "2.yaml", 2)
    weights = export_weights(tmp_path / "w", toy.tokenizer(init_std=1.0).state_dict())[1]
    run(
        *("pretokenization.py", "--img_size", toy.IMAGE_SIZE, "--ten_crop", "--num_workers", 0),
        *("--data_path", images, "--tokenizer_config", tmp_path / "2.yaml"),
        *("--tokenizer_checkpoint", weights, "--cached_path", tmp_path / "cache"),
    )
    losses = []
    for data in (
        [f"dataset.params.pretokenization={tmp_path / 'cache'}", "dataset.params.pretokenization_val=null"],
        ["dataset.params.pretokenization=null", f"dataset.params.data_path={images}"],
    ):
        common = [f"experiment.tokenizer_checkpoint={weights}", "experiment.log_every=1", *data]
        trainer = generator_trainer(tmp_path, f"run{len(losses)}", *common)
        trainer.run()
        rows = read_log(trainer.output_dir)
        losses.append([r["loss"] for r in rows if "loss" in r])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert any("val_loss" in r for r in rows)  # of the split `val` of the images
    with pytest.raises(UserError, match="set pretokenization to a token cache, or data_path"):
        generator_trainer(tmp_path, "none", "dataset.params.pretokenization=null")


def test_caches_of_different_tokenizers_are_refused(tmp_path):
    for name in ("cache", "val"):
        toy.write_token_cache(tmp_path / name)
    path = tmp_path / "val" / "metadata.json"
    path.write_text(path.read_text().replace('"tokenizer_sha256": "none"', '"tokenizer_sha256": "other"'))
    with pytest.raises(UserError, match="made with different tokenizers"):
        generator_trainer(tmp_path, "run", f"dataset.params.pretokenization_val={tmp_path / 'val'}")


def test_compiled_blocks_train_like_eager_ones(tmp_path):
    off = [f"model.generator.{k}=0" for k in ("dropout", "attn_drop", "tok_dropout", "class_label_dropout")]
    losses = []
    for flag in ("false", "true"):
        trainer = generator_trainer(tmp_path, f"run_{flag}", f"training.compile={flag}", *off)
        loader = iter(trainer.loader())
        losses.append([float(trainer.train_step([trainer.to_device(next(loader))])["loss"]) for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_logged_rates(tmp_path):
    trainer = generator_trainer(tmp_path, "run")
    trainer.run()
    rows = [r for r in read_log(trainer.output_dir) if "loss" in r]
    assert [r["epoch"] for r in rows] == [8 * r["step"] / len(trainer.dataset) for r in rows]  # as of then, no means
    row = rows[0]
    assert row["tokens_per_second"] == pytest.approx(toy.NUM_CODES * row["images_per_second"])
    assert 0 < row["mfu"] < 1 and 0 <= row["data_wait"] < 1
    assert row["mfu"] == pytest.approx(row["images_per_second"] * trainer.flops_per_image / trainer.peak)
