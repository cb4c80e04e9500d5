"""Steps without a finite loss or gradient are skipped."""

from pathlib import Path

import pytest
import torch

from dataset.code_dataset import CodeBatch
from dataset.image_dataset import ImageBatch
from tests.support import toy
from tests.support.trainings import generator_trainer, tokenizer_trainer
from train_tokenizer.trainer import TokenizerTrainer
from training.checkpoint import list_checkpoints
from utils.errors import UserError


def test_a_bad_gradient_is_skipped(tmp_path):
    trainer = generator_trainer(tmp_path, "run")
    batch = CodeBatch(torch.zeros(2, toy.NUM_CODES).long(), None, torch.tensor([0, 1]), torch.tensor([3, 5]), [])
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


@pytest.fixture
def images(tmp_path) -> Path:
    return toy.write_images(tmp_path / "images")


def batch_of(trainer: TokenizerTrainer, value: float | None = None) -> ImageBatch:
    images = torch.rand(4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE) if value is None else torch.full((4, 3, 16, 16), value)
    return ImageBatch(images, torch.arange(4), [])


def test_a_step_without_finite_loss_changes_nothing(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1, "training.max_bad_steps=3")
    before = {k: v.clone() for k, v in trainer.tokenizer.state_dict().items()}
    for _ in range(2):
        trainer.train_step([batch_of(trainer, float("nan"))])
    assert all(torch.equal(v, before[k]) for k, v in trainer.tokenizer.state_dict().items())  # codebook included
    trainer.train_step([batch_of(trainer)])
    assert trainer.guard.skipped == 2 and trainer.guard.in_a_row == 0
    for _ in range(2):
        trainer.train_step([batch_of(trainer, float("nan"))])
    with pytest.raises(UserError, match=r"3 steps in a row up to step 5 .*last loss .* was nan; .*class_0/000.png"):
        trainer.train_step([batch_of(trainer, float("nan"))])


def test_nothing_is_saved_amid_bad_steps(tmp_path, images):
    bad = ("phases.0.learning_rate=1e30", "training.max_grad_norm=null", "experiment.save_every=1")
    trainer = tokenizer_trainer(tmp_path, "run", 1, *bad, "training.max_bad_steps=3", "experiment.eval_every=100")
    with pytest.raises(UserError, match="nothing new was saved"):
        trainer.run()
    kept = [int(p.name[-8:]) for p in list_checkpoints(trainer.output_dir)]
    assert kept and max(kept) == trainer.step - 2  # the steps that were still good
