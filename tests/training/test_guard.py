"""Steps without a finite loss or gradient are skipped."""

import pytest
import torch

from dataset.code_dataset import CodeBatch
from dataset.image_dataset import ImageBatch
from tests.support import toy
from tests.support.trainings import generator_trainer, tokenizer_trainer
from training.checkpoint_files import list_checkpoints
from utils.errors import UserError


def test_a_bad_gradient_is_skipped(tmp_path):
    trainer = generator_trainer(tmp_path, "run")
    batch = CodeBatch(
        torch.zeros(2, toy.NUM_CODES).long(), None, torch.tensor([0, 1]), torch.tensor([3, 5]), torch.arange(2), []
    )
    before = [p.clone() for p in trainer.generator.parameters()]
    hook = trainer.generator.norm.weight.register_hook(lambda grad: grad * float("nan"))
    trainer.state.step = 5
    for _ in range(3):
        trainer.train_step([batch])
    assert trainer.state.skipped_steps == 3
    assert all(torch.equal(p, q) for p, q in zip(trainer.generator.parameters(), before, strict=True))
    with pytest.raises(UserError, match=r"no finite loss and gradient.*its images were d/3.png, b/5.png"):
        for _ in range(20):
            trainer.train_step([batch])
    hook.remove()


def random_batch() -> ImageBatch:
    return ImageBatch(torch.rand(4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE), torch.arange(4), [])


def nan_batch() -> ImageBatch:
    return random_batch()._replace(images=torch.full((4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE), float("nan")))


def test_a_step_without_finite_loss_changes_nothing(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1, "training.max_bad_steps=3")
    before = {k: v.clone() for k, v in trainer.tokenizer.state_dict().items()}
    for _ in range(2):
        trainer.train_step([nan_batch()])
    assert all(torch.equal(v, before[k]) for k, v in trainer.tokenizer.state_dict().items())  # codebook included
    trainer.train_step([random_batch()])
    assert trainer.state.skipped_steps == 2
    assert trainer.guard.bad_in_a_row == 0
    for _ in range(2):
        trainer.train_step([nan_batch()])
    with pytest.raises(UserError, match=r"3 steps in a row up to step 5 .*last loss .* was nan; .*class_0/000.png"):
        trainer.train_step([nan_batch()])


def test_nothing_is_saved_between_bad_steps(tmp_path, images):
    bad = ("phases.0.learning_rate=1e30", "training.max_grad_norm=null", "experiment.save_every=1")
    trainer = tokenizer_trainer(tmp_path, "run", 1, *bad, "training.max_bad_steps=3")
    with pytest.raises(UserError, match="nothing new was saved"):
        trainer.run()
    kept = [int(p.name[-8:]) for p in list_checkpoints(trainer.output_dir)]
    assert kept
    assert max(kept) == trainer.state.step - 2  # the good steps before
