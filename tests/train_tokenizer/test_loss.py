"""The sum of a phase's losses."""

from pathlib import Path

import pytest

from tests.support import toy
from tests.support.trainings import tokenizer_trainer


@pytest.fixture
def images(tmp_path) -> Path:
    return toy.write_images(tmp_path / "images")


def test_losses_of_no_phase_are_not_built(tmp_path, images, capfd):
    trainer = tokenizer_trainer(tmp_path, "plain", 1, "phases=[{name: mse, steps: 2, learning_rate: 1e-3}]")
    assert trainer.objective.logit_loss is None and trainer.objective.lpips is None and trainer.discriminator is None
    phases = (
        "phases=[{name: lpips, steps: 1, learning_rate: 1e-3, lpips_weight: 1.0},"
        "{name: logits, steps: 1, learning_rate: 1e-3, perceptual_weight: 1.0}]"
    )
    weights = ("losses.random_weights=true", "losses.perceptual_model=test_convnext", f"{phases}")
    trainer = tokenizer_trainer(tmp_path, "perceptual", 1, *weights)
    assert "for tests only" in capfd.readouterr().out
    loader = iter(trainer.loader())
    logged = [trainer.train_step([trainer.to_device(next(loader))]) for _ in range(2)]
    assert "lpips" in logged[0] and "perceptual" not in logged[0]
    assert "lpips" not in logged[1] and "perceptual" in logged[1]
    # The network is there, so validation uses it: 0 for equal images, more for reconstructions.
    trainer.tokenizer.eval()
    assert trainer.evaluation.metrics(trainer.tokenizer)["lpips"] > 0
