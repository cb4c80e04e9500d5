"""Trainings that go on with something changed, meet another one, or lose a part on the way."""

import threading
from pathlib import Path

import pytest
import torch

from tests.support import toy
from tests.support.launch import held, run, small_files
from tests.test_generator_training import generator_trainer
from train_generator.trainer import GeneratorTrainer
from training import loop as training_loop
from training.checkpoint import checkpoint_step, list_checkpoints, load_checkpoint_weights
from utils.errors import UserError
from utils.folder_lock import exclusive_lock
from utils.weights import export_weights, exported_step, read_state_dict

RESUME = "experiment.resume=auto"


def build(tmp_path: Path, *overrides: str) -> GeneratorTrainer:
    """8 steps of AR training with a moving average, in tmp_path/run."""
    return generator_trainer(tmp_path, "run", "experiment.eval_every=100", *overrides)


def test_two_trainings_in_one_folder_are_refused(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(training_loop, "LOCK_PATIENCE", 1)
    with held(tmp_path / "run"), pytest.raises(UserError, match="another run is at work in"):
        build(tmp_path)
    assert "waiting up to 1 s for it" in capfd.readouterr().out
    trainer = build(tmp_path)
    waiting = "from pathlib import Path; from utils.folder_lock import exclusive_lock\n"
    waiting += "with exclusive_lock(Path({!r})): pass"
    for expected in (1, 0):  # held from the start, no more after the end
        code = waiting.format(str(trainer.output_dir))
        assert run("-c", code, check=False).returncode == expected
        if expected:
            trainer.run()


def test_a_lock_that_is_given_up_meanwhile_is_taken(tmp_path):
    with held(tmp_path) as process:
        threading.Timer(1, process.kill).start()
        with exclusive_lock(tmp_path, timeout=30):
            assert process.wait() != 0


def test_an_extended_training_replaces_what_the_shorter_one_left(tmp_path, capfd, monkeypatch):
    """Also where it was killed after its last checkpoint, before it could."""
    build(tmp_path, "training.max_train_steps=4").run()
    longer = build(tmp_path, RESUME)

    def killed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(longer, "export", killed)
    with pytest.raises(KeyboardInterrupt):
        longer.run()
    assert exported_step(longer.output_dir) == 4
    build(tmp_path, RESUME).run()
    assert exported_step(longer.output_dir) == 8 and "trained already" not in capfd.readouterr().out
    exported = read_state_dict(longer.output_dir / "model.safetensors")
    average = load_checkpoint_weights(list_checkpoints(longer.output_dir)[-1], "ema")
    assert all(torch.equal(v, exported[k]) for k, v in average.items())
    build(tmp_path, RESUME, "training.max_train_steps=4").run()
    assert "trained already (8 steps)" in capfd.readouterr().out


def test_changed_hyperparameters_are_those_of_the_configuration(tmp_path):
    build(tmp_path, "training.max_train_steps=4").run()
    changes = ("optimizer.params.weight_decay=0.5", "optimizer.params.beta2=0.5")
    resumed = build(tmp_path, RESUME, *changes)
    groups = resumed.optimizer.param_groups
    assert [g["weight_decay"] for g in groups] == [0.5, 0.0] and {g["betas"] for g in groups} == {(0.9, 0.5)}
    state = next(iter(resumed.optimizer.state.values()))
    assert state["step"] == 4 and state["exp_avg_sq"].abs().sum() > 0


def test_a_save_due_at_a_bad_step_comes_with_the_next_good_one(tmp_path):
    trainer = build(tmp_path, "experiment.milestone_every=4", "experiment.keep_checkpoints=1")
    trainer.generator.norm.weight.register_hook(lambda grad: grad * float("nan") if trainer.step == 3 else grad)
    trainer.run()
    assert trainer.guard.skipped == 1
    assert [checkpoint_step(p) for p in list_checkpoints(trainer.output_dir)] == [5, 8]
    longer = ("training.max_train_steps=12", "experiment.keep_checkpoints=1")  # milestones stay without the key, too
    build(tmp_path, RESUME, *longer).run()
    assert [checkpoint_step(p) for p in list_checkpoints(trainer.output_dir)] == [5, 8, 12]


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


def test_a_full_disk_at_the_end_is_told(tmp_path, monkeypatch):
    trainer = build(tmp_path)

    def export_without_space() -> None:
        with small_files(10_000):
            GeneratorTrainer.export(trainer)

    monkeypatch.setattr(trainer, "export", export_without_space)
    with pytest.raises(UserError, match=r"weights could not be written.*the checkpoint is there: free space"):
        trainer.run()
    assert not list(trainer.output_dir.glob("*.part"))
    build(tmp_path, RESUME).run()
    assert exported_step(trainer.output_dir) == 8
