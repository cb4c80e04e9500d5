"""The sum of a phase's losses."""

from tests.support.trainings import ONE_SHORT_PHASE, tokenizer_trainer


def test_losses_of_no_phase_are_not_built(tmp_path, images, capfd):
    trainer = tokenizer_trainer(tmp_path, "plain", 1, ONE_SHORT_PHASE)
    assert trainer.loss.logit_loss is None
    assert trainer.loss.lpips is None
    assert trainer.adversary is None
    lpips = "{name: lpips, steps: 1, learning_rate: 1e-3, lpips_weight: 1.0}"
    logits = "{name: logits, steps: 1, learning_rate: 1e-3, perceptual_weight: 1.0}"
    networks = ("losses.random_weights=true", "losses.perceptual_model=test_convnext")
    trainer = tokenizer_trainer(tmp_path, "perceptual", 1, *networks, f"phases=[{lpips}, {logits}]")
    assert "only for tests" in capfd.readouterr().out
    loader = iter(trainer.batches())
    logged = [trainer.train_step(next(loader)) for _ in range(2)]
    assert "lpips" in logged[0]
    assert "perceptual" not in logged[0]
    assert "lpips" not in logged[1]
    assert "perceptual" in logged[1]
    # LPIPS is loaded, so validation reports it too.
    trainer.tokenizer.eval()
    assert trainer.validation.evaluation.metrics(trainer.tokenizer)["lpips"] > 0
