"""The training loop: start, resume, save, export."""

import os
import signal
import time

import pytest
import torch

from tests.support.launch import held, run, small_files
from tests.support.resuming import RESUME
from tests.support.trainings import generator_trainer, tokenizer_trainer
from train_generator.trainer import GeneratorTrainer
from training import checkpoint, preemption
from training.checkpoint_files import list_checkpoints, load_checkpoint_weights
from training.logging import last_logged
from training.loop import BAR, shown
from utils.errors import UserError
from utils.progress import tqdm
from utils.weights import exported_step, read_state_dict


def test_the_bar_of_a_long_training_fits_a_terminal():
    facts = {"total": 250_000, "rate": 1.16, "unit": "step", "ncols": 79, "bar_format": BAR}
    postfix = ", ".join(f"{name}={text}" for name, text in shown({"loss": 4.0357, "accuracy": 0.1024}).items())
    line = tqdm.format_meter(n=125_000, elapsed=108_000, prefix="alitok_b: ", postfix=postfix, **facts)
    assert line.startswith("alitok_b: 125000/250000|")
    assert line.endswith("| 30:00:00<29:55:58,  1.16step/s, loss=4.04, acc=10.2%")


@pytest.mark.slow
def test_two_trainings_in_one_folder_are_refused(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(checkpoint, "LOCK_TIMEOUT", 1)
    with held(tmp_path / "run"), pytest.raises(UserError, match="another run is at work in"):
        generator_trainer(tmp_path, "run")
    assert "waiting up to 1 s for it" in capfd.readouterr().out
    trainer = generator_trainer(tmp_path, "run")
    code = "import sys; from pathlib import Path; from utils.folder_lock import exclusive_lock\n"
    code += "with exclusive_lock(Path(sys.argv[1])): pass"
    assert run("-c", code, trainer.output_dir, check=False).returncode == 1  # locked from the start
    trainer.run()
    run("-c", code, trainer.output_dir)  # until the end


def test_an_extended_training_replaces_what_the_shorter_one_left(tmp_path, capfd, monkeypatch):
    """Also if it was killed between its last checkpoint and the export."""
    generator_trainer(tmp_path, "run", "training.max_train_steps=4").run()
    longer = generator_trainer(tmp_path, "run", RESUME)

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(longer, "export", stop)
    with pytest.raises(KeyboardInterrupt):
        longer.run()
    assert exported_step(longer.output_dir) == 4
    generator_trainer(tmp_path, "run", RESUME).run()
    assert exported_step(longer.output_dir) == 8
    assert "trained already" not in capfd.readouterr().out
    exported = read_state_dict(longer.output_dir / "model.safetensors")
    average = load_checkpoint_weights(list_checkpoints(longer.output_dir)[-1], "ema")
    assert all(torch.equal(v, exported[k]) for k, v in average.items())
    generator_trainer(tmp_path, "run", RESUME, "training.max_train_steps=4").run()
    assert "trained already (8 steps)" in capfd.readouterr().out


def test_a_full_disk_at_the_end_is_reported(tmp_path, monkeypatch):
    trainer = generator_trainer(tmp_path, "run")

    def export_without_space() -> None:
        with small_files(10_000):
            GeneratorTrainer.export(trainer)

    monkeypatch.setattr(trainer, "export", export_without_space)
    with pytest.raises(UserError, match=r"weights could not be written.*the checkpoint is complete: free space"):
        trainer.run()
    assert not list(trainer.output_dir.glob("*.part"))
    generator_trainer(tmp_path, "run", RESUME).run()
    assert exported_step(trainer.output_dir) == 8


def test_a_run_killed_before_its_last_validation_validates_when_resumed(tmp_path):
    first = generator_trainer(tmp_path, "run")
    first.run()
    log, weights = first.output_dir / "metrics.jsonl", first.output_dir / "model.safetensors"
    expected = last_logged(first.output_dir, "val_loss")
    log.write_text("".join(line for line in log.read_text().splitlines(True) if "val_loss" not in line))
    weights.unlink()
    with pytest.raises(UserError, match="holds no val_loss"):
        last_logged(first.output_dir, "val_loss")
    generator_trainer(tmp_path, "run", RESUME).run()
    assert last_logged(first.output_dir, "val_loss") == pytest.approx(expected, rel=1e-6)
    assert weights.is_file()


def test_a_used_folder_is_not_overwritten(tmp_path):
    generator_trainer(tmp_path, "run").run()
    with pytest.raises(UserError, match=r"holds a checkpoint of a later step.*resume=auto"):
        generator_trainer(tmp_path, "run").run()


def test_a_full_disk_costs_no_training(tmp_path, images, capfd, monkeypatch):
    """Files may grow to 100 kB, less than a checkpoint: a warning during the training, an error at its end."""
    trainer = tokenizer_trainer(tmp_path, "run", 1, "experiment.save_every=2")
    save = trainer.checkpointer.save

    def save_without_space(**options: bool) -> bool:
        with small_files(100_000):
            return save(**options)

    monkeypatch.setattr(trainer.checkpointer, "save", save_without_space)
    with pytest.raises(UserError, match=r"checkpoint of step 10 could not be written.*there is none yet"):
        trainer.run()
    assert trainer.state.step == 10
    assert "warning: the checkpoint of step 2 could not be written" in capfd.readouterr().err
    assert not list((trainer.output_dir / "checkpoints").iterdir())


def test_sigterm_ends_a_training_that_waits_for_data(tmp_path, monkeypatch):
    monkeypatch.setattr(preemption, "GRACE", 0.1)
    trainer = generator_trainer(tmp_path, "run")
    usual = trainer.batches()

    def batches():
        yield next(usual)
        yield next(usual)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(trainer, "batches", batches)
    with pytest.raises(SystemExit) as caught:
        trainer.run()
    assert caught.value.code == 128 + signal.SIGTERM
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_00000002"]
