"""The training loop: start, resume, save, export."""

from pathlib import Path

import pytest
import torch

from tests.support import toy
from tests.support.launch import held, run, small_files
from tests.support.trainings import generator_trainer, tokenizer_trainer
from train_generator.trainer import GeneratorTrainer
from training import loop as training_loop
from training.checkpoint import list_checkpoints, load_checkpoint_weights
from training.logging import last_logged
from utils.errors import UserError
from utils.weights import exported_step, read_state_dict

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


def test_a_used_folder_is_not_trained_over(tmp_path):
    generator_trainer(tmp_path, "run").run()
    with pytest.raises(UserError, match=r"holds a checkpoint of a later step.*resume=auto"):
        generator_trainer(tmp_path, "run").run()


@pytest.fixture
def images(tmp_path) -> Path:
    return toy.write_images(tmp_path / "images")


def test_a_full_disk_costs_no_training(tmp_path, images, capfd):
    """Files may grow to 100 kB, less than a checkpoint: a warning meanwhile, an error at the end."""
    trainer = tokenizer_trainer(tmp_path, "run", 1, "experiment.save_every=2")
    saved, step = trainer.save, trainer.step

    def save_without_space(milestone: bool) -> None:
        with small_files(100_000):
            saved(milestone)

    trainer.save = save_without_space
    with pytest.raises(UserError, match=r"checkpoint of step 10 could not be written.*there is none yet"):
        trainer.run()
    assert trainer.step == 10 > step
    assert "warning: the checkpoint of step 2 could not be written" in capfd.readouterr().err
    assert not list((trainer.output_dir / "checkpoints").iterdir())
