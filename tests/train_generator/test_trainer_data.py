"""What a generator training reads: token caches, images, the previews' tokenizer."""

from pathlib import Path

import pytest
import torch

from tests.support import toy
from tests.support.launch import run
from tests.support.trainings import generator_trainer
from train_generator.trainer import GeneratorTrainer
from training.logging import read_log
from utils.errors import UserError
from utils.weights import export_weights, exported_step

RESUME = "experiment.resume=auto"


def build(tmp_path: Path, *overrides: str) -> GeneratorTrainer:
    """8 steps of AR training with a moving average, in tmp_path/run."""
    return generator_trainer(tmp_path, "run", "experiment.eval_every=100", *overrides)


def test_another_tokenizers_cache_is_refused_and_another_size_told(tmp_path, capfd):
    build(tmp_path, "training.max_train_steps=4").run()
    metadata = tmp_path / "cache" / "metadata.json"
    original = metadata.read_text()
    metadata.write_text(original.replace('"tokenizer_sha256": "none"', '"tokenizer_sha256": "other"'))
    with pytest.raises(UserError, match=r"codes so far were of another tokenizer.*SHA-256 none and other"):
        build(tmp_path, RESUME)
    metadata.write_text(original)
    build(tmp_path, RESUME, "experiment.max_train_examples=20")
    assert "24 training images before, 20 now" in capfd.readouterr().out


def test_what_previews_need_is_asked_for_at_the_start(tmp_path):
    weights = tmp_path / "tokenizer.safetensors"
    weights.write_bytes(b"truncated")
    with pytest.raises(UserError, match=r"tokenizer.safetensors is damaged"):
        build(tmp_path, f"experiment.tokenizer_checkpoint={weights}")
    with pytest.raises(UserError, match="guidance_scale_pow is -1"):
        build(tmp_path, "model.generator.guidance_scale_pow=-1")


def test_a_failing_preview_costs_no_training(tmp_path, capfd, monkeypatch):
    weights = export_weights(tmp_path / "tokenizer", toy.tokenizer().state_dict())[1]
    trainer = build(tmp_path, f"experiment.tokenizer_checkpoint={weights}")

    def decode(codes: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.tokenizer, "decode", decode)
    trainer.run()
    assert exported_step(trainer.output_dir) == 8
    assert "no preview at step 4 (CUDA out of memory)" in capfd.readouterr().err


def test_a_cache_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="codebook size 32 there, 16 in the configuration"):
        generator_trainer(tmp_path, "run", "model.vq_model.codebook_size=16")
    with pytest.raises(UserError, match="classes 4 there, 3 in the configuration"):
        generator_trainer(tmp_path, "run", "model.generator.condition_num_classes=3")


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
