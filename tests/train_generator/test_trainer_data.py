"""What a generator training reads: token caches, images, the previews' tokenizer."""

import json
from pathlib import Path

import pytest
import torch

from modeling.build import tokenizer_fingerprint
from tests.support import toy
from tests.support.commands import pretokenize, train_ar
from tests.support.launch import run
from tests.support.resuming import RESUME
from tests.support.trainings import generator_trainer
from training.logging import read_log
from utils import pretrained
from utils.errors import UserError
from utils.pretrained import TOKENIZER_FILE
from utils.weights import export_weights, exported_step, fingerprint, read_state_dict


def pretend_another_tokenizer(cache: Path, sha256: str = "other") -> None:
    """The cache's metadata names another tokenizer's hash from now on."""
    metadata = cache / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"tokenizer_sha256": "none"', f'"tokenizer_sha256": "{sha256}"'))


def test_another_tokenizers_cache_is_refused_and_another_size_reported(tmp_path, capfd):
    generator_trainer(tmp_path, "run", "training.max_train_steps=4").run()
    metadata = tmp_path / "cache" / "metadata.json"
    original = metadata.read_text()
    pretend_another_tokenizer(tmp_path / "cache")
    with pytest.raises(UserError, match=r"was trained on codes of another tokenizer.*SHA-256 none and other"):
        generator_trainer(tmp_path, "run", RESUME)
    metadata.write_text(original)
    generator_trainer(tmp_path, "run", RESUME, "experiment.max_train_examples=20")
    assert "24 training images before, 20 now" in capfd.readouterr().out


def test_classes_in_another_order_are_refused(tmp_path):
    """Numbers are compared as numbers, and not with names."""
    metadata = tmp_path / "cache" / "metadata.json"

    def resume_with(*classes: str) -> None:
        content = json.loads(metadata.read_text())
        metadata.write_text(json.dumps({**content, "classes": classes}))
        generator_trainer(tmp_path, "run", RESUME)

    generator_trainer(tmp_path, "unused")  # writes the cache
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "classes": ["0", "1", "10", "2"]}))
    generator_trainer(tmp_path, "run", "training.max_train_steps=4").run()
    resume_with("000", "001", "010", "002")
    resume_with("cat", "dog", "elk", "fox")
    with pytest.raises(UserError, match="class 2 is '2' in the training data, it was '10' before"):
        resume_with("0", "1", "2", "10")


def test_missing_parts_of_previews_fail_at_the_start(tmp_path):
    weights = tmp_path / "tokenizer.safetensors"
    weights.write_bytes(b"truncated")
    with pytest.raises(UserError, match=r"tokenizer.safetensors is damaged"):
        generator_trainer(tmp_path, "run", f"experiment.tokenizer_checkpoint={weights}")
    with pytest.raises(UserError, match="guidance_scale_pow is -1"):
        generator_trainer(tmp_path, "run", "model.generator.guidance_scale_pow=-1")


def test_a_failing_preview_costs_no_training(tmp_path, capfd, monkeypatch):
    weights = export_weights(tmp_path / "tokenizer", toy.tokenizer().state_dict())[1]
    trainer = generator_trainer(tmp_path, "run", f"experiment.tokenizer_checkpoint={weights}")

    def decode(codes: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.previews.tokenizer, "decode", decode)
    trainer.run()
    assert exported_step(trainer.output_dir) == 8
    assert "no preview at step 4 (CUDA out of memory)" in capfd.readouterr().err


def test_a_tokenizer_that_did_not_make_the_cache_is_warned_about(tmp_path, capfd):
    tokenizer, warning = toy.tokenizer(), "is not the tokenizer that made the token cache"
    weights = export_weights(tmp_path / "tokenizer", tokenizer.state_dict())[1]
    generator_trainer(tmp_path, "run", f"experiment.tokenizer_checkpoint={weights}")
    assert warning in capfd.readouterr().out
    pretend_another_tokenizer(tmp_path / "cache", tokenizer_fingerprint(tokenizer))
    generator_trainer(tmp_path, "run", f"experiment.tokenizer_checkpoint={weights}")
    assert warning not in capfd.readouterr().out


def test_a_tokenizer_on_the_hub_draws_previews_and_is_kept(tmp_path, monkeypatch):
    export_weights(tmp_path / "hub", toy.tokenizer().state_dict())
    monkeypatch.setattr(pretrained, "snapshot_download", lambda source, **options: tmp_path / "hub")
    trainer = generator_trainer(tmp_path, "run", "experiment.tokenizer_checkpoint=name/repository")
    assert trainer.previews.every > 0
    trainer.export()
    kept = read_state_dict(trainer.output_dir / TOKENIZER_FILE)
    assert fingerprint(kept) == fingerprint(toy.tokenizer().state_dict())


def test_a_cache_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="codebook size 32 there, 16 in the configuration"):
        generator_trainer(tmp_path, "run", "model.vq_model.codebook_size=16")
    with pytest.raises(UserError, match="classes 4 there, 3 in the configuration"):
        generator_trainer(tmp_path, "run", "model.generator.condition_num_classes=3")


@pytest.mark.slow
def test_images_without_a_cache_train_like_their_cache(tmp_path):
    """The same order, the same views: the losses are those of the cached codes."""
    images = toy.write_images(tmp_path / "images", noise=True)
    toy.write_tokenizer_config(tmp_path / "2.yaml", 2)
    weights = export_weights(tmp_path / "w", toy.tokenizer(init_std=1.0).state_dict())[1]
    run(*pretokenize(images, tmp_path / "2.yaml", weights, tmp_path / "cache", "--ten_crop"))

    def train(name: str, *data: str) -> list[dict]:
        common = (f"experiment.tokenizer_checkpoint={weights}", "experiment.log_every=1")
        trainer = generator_trainer(tmp_path, name, *common, *data)
        trainer.run()
        return read_log(trainer.output_dir)

    from_cache = train("codes", "dataset.params.pretokenization_val=null")
    from_images = train("images", "dataset.params.pretokenization=null", f"dataset.params.data_path={images}")
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (from_cache, from_images)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert any("val_loss" in row for row in from_images)  # on the images' split `val`
    with pytest.raises(UserError, match="set pretokenization to a token cache, or data_path"):
        generator_trainer(tmp_path, "none", "dataset.params.pretokenization=null")


def test_caches_of_different_tokenizers_are_refused(tmp_path):
    for name in ("cache", "val"):
        toy.write_token_cache(tmp_path / name)
    pretend_another_tokenizer(tmp_path / "val")
    with pytest.raises(UserError, match="made with different tokenizers"):
        generator_trainer(tmp_path, "run", f"dataset.params.pretokenization_val={tmp_path / 'val'}")


WITHOUT_PREFIX = ("model.vq_model.num_latent_tokens=4", "model.generator.image_seq_len=4")


def test_published_lines_are_a_cache(tmp_path):
    """Read by two workers; the generator learns which codes a class has."""
    path = toy.write_jsonl(tmp_path / "codes.jsonl", 48)
    data = (f"dataset.params.pretokenization={path}", f"dataset.params.pretokenization_val={path}")
    longer = ("training.max_train_steps=30", "optimizer.params.learning_rate=1e-2")
    workers = "dataset.params.num_workers_per_gpu=2"
    trainer = generator_trainer(tmp_path, "run", *data, *WITHOUT_PREFIX, *longer, workers)
    trainer.run()
    rows = read_log(trainer.output_dir)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] - 0.8
    assert any("val_loss" in row for row in rows)
    assert trainer.config.experiment.max_train_examples is None  # more lines than images must not be cut off


def test_published_lines_that_do_not_fit_are_refused(tmp_path):
    data = f"dataset.params.pretokenization={toy.write_jsonl(tmp_path / 'codes.jsonl')}"
    with pytest.raises(UserError, match=r"codes\.jsonl, line 1: 4 tokens, the tokenizer makes 7 codes"):
        generator_trainer(tmp_path, "run", data)
    with pytest.raises(UserError, match=r"codes\.jsonl, line \d+: token 31 is outside the codebook of 16"):
        generator_trainer(tmp_path, "run", data, *WITHOUT_PREFIX, "model.vq_model.codebook_size=16")
    with pytest.raises(UserError, match=r"codes\.jsonl, line 4: class_id 3 is out of range, the classes are 0 to 2"):
        generator_trainer(tmp_path, "run", data, *WITHOUT_PREFIX, "model.generator.condition_num_classes=3")


@pytest.mark.slow
def test_two_processes_train_on_published_lines(tmp_path):
    config = toy.write_ar_config(tmp_path / "ar.yaml", per_gpu_batch_size=4)
    path = toy.write_jsonl(tmp_path / "codes.jsonl", 48)
    result = run(*train_ar(config, path, tmp_path / "out", *WITHOUT_PREFIX), processes=2)
    assert exported_step(tmp_path / "out") == 8
    assert result.stderr.count("indexing codes.jsonl") == 1  # one process makes the index for both
    path.write_text(path.read_text() + "{}\n")
    result = run(*train_ar(config, path, tmp_path / "other", *WITHOUT_PREFIX), check=False)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == f"error: {path}, line 49: no key 'class_id'"
