"""FID of samples during generator training."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.extractors import ClassifierExtractor
from evaluation.fid import Statistics, frechet_distance
from modeling.frozen.small_classifier import Classifier, save_classifier
from sampling.pipeline import Pipeline
from tests.support import toy
from tests.support.commands import train_ar
from tests.support.launch import run
from tests.support.resuming import RESUME, interrupted
from tests.support.trainings import generator_trainer
from train_generator.trainer import GeneratorTrainer
from training.logging import read_log
from utils.images import to_bytes
from utils.npz import NpzImages

SAMPLES = 37  # not a multiple of batch or processes


@pytest.fixture(scope="module")
def scoring(tmp_path_factory, pretrained) -> tuple[str, ...]:
    """Overrides that switch gFID on, every 3 of 8 steps."""
    folder = tmp_path_factory.mktemp("scoring")
    torch.manual_seed(0)
    save_classifier(folder / "c.safetensors", Classifier(toy.NUM_CLASSES), toy.IMAGE_SIZE, 0.5)
    shape = (150, toy.IMAGE_SIZE, toy.IMAGE_SIZE, 3)
    np.savez(folder / "reference.npz", arr_0=np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return (
        f"experiment.tokenizer_checkpoint={pretrained / 'tokenizer' / 'model.safetensors'}",
        "experiment.generate_every=0",
        "optimizer.params.learning_rate=3e-2",  # so that guidance changes the codes
        "training.ema_decay=0.5",
        "training.eval_fid_every=3",
        f"training.eval_fid_samples={SAMPLES}",
        "training.eval_fid_batch_size=16",
        f"training.eval_fid_reference={folder / 'reference.npz'}",
        f"training.eval_fid_classifier={folder / 'c.safetensors'}",
    )


def values_of(output_dir: Path) -> dict[int, tuple[float, float]]:
    """Step -> FID with and without guidance."""
    return {row["step"]: (row["gfid"], row["gfid_unguided"]) for row in read_log(output_dir) if "gfid" in row}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, scoring) -> GeneratorTrainer:
    trainer = generator_trainer(tmp_path_factory.mktemp("whole"), "run", *scoring)
    trainer.run()
    return trainer


def named(overrides: tuple[str, ...], key: str) -> str:
    return next(item.partition("=")[2] for item in overrides if item.startswith(f"training.{key}="))


def test_it_is_logged_when_due_and_after_the_last_step(whole):
    values = values_of(whole.output_dir)
    assert list(values) == [3, 6, 8]
    assert all(guided != unguided for guided, unguided in values.values())


def test_it_is_the_fid_of_the_averages_first_samples(whole, scoring):
    extractor = ClassifierExtractor(named(scoring, "eval_fid_classifier"))
    pipeline = Pipeline.from_pretrained(whole.output_dir)
    images = pipeline.generate([i % toy.NUM_CLASSES for i in range(SAMPLES)])
    reference = next(NpzImages(named(scoring, "eval_fid_reference")).batches(150))
    statistics = [Statistics.from_features(extractor(x).pool) for x in (torch.from_numpy(reference), to_bytes(images))]
    assert values_of(whole.output_dir)[8][0] == pytest.approx(frechet_distance(*statistics), rel=1e-6)


def test_a_resumed_training_logs_the_same_values(whole, scoring, tmp_path):
    parts = interrupted(lambda name, *more: generator_trainer(tmp_path, name, *scoring, *more), stop_at=3)
    assert values_of(parts.output_dir) == values_of(whole.output_dir)


def test_a_value_that_a_kill_left_out_is_computed_at_the_resume(whole, scoring, tmp_path):
    shutil.copytree(whole.output_dir, tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text("".join(x for x in log.read_text().splitlines(True) if '"step": 8, "gfid"' not in x))
    assert list(values_of(tmp_path / "run")) == [3, 6]
    (tmp_path / "run" / "model.safetensors").unlink()
    generator_trainer(tmp_path, "run", *scoring, RESUME).run()
    assert values_of(tmp_path / "run") == values_of(whole.output_dir)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.eval_fid_reference=none.npz", "no gFID (file not found: none.npz)"),
        ("training.eval_fid_reference=null", "no gFID (training.eval_fid_reference is not set)"),
        ("experiment.tokenizer_checkpoint=none", "no gFID ("),
    ],
)
def test_what_is_missing_is_a_warning(scoring, tmp_path, capfd, override, message):
    trainer = generator_trainer(tmp_path, "run", *scoring, override)
    assert trainer.sample_fid.every == 0
    assert f"warning: {message}" in capfd.readouterr().err


def test_fewer_samples_than_features_are_warned_of(scoring, tmp_path, capfd):
    assert generator_trainer(tmp_path, "run", *scoring).sample_fid.every == 3
    assert f"eval_fid_samples is {SAMPLES} for 128 features: their covariance is singular" in capfd.readouterr().err


def test_a_failure_while_drawing_is_a_warning(scoring, tmp_path, capfd):
    trainer = generator_trainer(tmp_path, "run", *scoring, "training.max_train_steps=3")
    with torch.no_grad():
        next(trainer.sample_fid.tokenizer.decoder.parameters()).fill_(torch.nan)
    trainer.run()
    assert "warning: no gFID (samples hold NaN or infinity, at step 3)" in capfd.readouterr().err
    assert values_of(trainer.output_dir) == {}
    assert (trainer.output_dir / "model.safetensors").is_file()


@pytest.mark.slow
def test_two_processes_give_the_value_of_one(scoring, tmp_path):
    """The same weights: the learning rate is 0."""
    rates = ("optimizer.params.learning_rate", "lr_scheduler.params.learning_rate", "lr_scheduler.params.end_lr")
    overrides = (*scoring, *(f"{rate}=0" for rate in rates), "training.max_train_steps=3")
    one = generator_trainer(tmp_path, "one", *overrides)
    one.run()
    run(*train_ar(tmp_path / "ar.yaml", tmp_path / "cache", tmp_path / "two", *overrides), processes=2)
    assert values_of(tmp_path / "two")[3] == pytest.approx(values_of(one.output_dir)[3], rel=1e-5)
