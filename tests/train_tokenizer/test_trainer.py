"""Tokenizer training: phases, exact resume, what is frozen, what is exported."""

import json

import pytest
import torch

from dataset.image_dataset import ImageBatch
from tests.support import toy
from tests.support.launch import run
from tests.support.resuming import assert_equal_checkpoints, interrupted
from tests.support.trainings import ONE_SHORT_PHASE, VALIDATE_OFTEN, tokenizer_trainer
from train_tokenizer.trainer import TokenizerTrainer
from training.checkpoint_files import list_checkpoints
from training.logging import read_log
from utils.errors import UserError
from utils.weights import read_state_dict


# Before the GAN phase and inside it.
@pytest.mark.parametrize("stop_at", [pytest.param(3, marks=pytest.mark.slow), 7])
def test_tokenizer_training_resumes_bit_for_bit(tmp_path, images, stop_at):
    def build(name: str, *overrides: str) -> TokenizerTrainer:
        start = "model.vq_model.quantizer_start_steps=8"
        return tokenizer_trainer(tmp_path, name, 1, "training.use_ema=true", start, *overrides)

    whole = build("whole")
    whole.run()
    parts = interrupted(build, stop_at)
    assert_equal_checkpoints(list_checkpoints(whole.output_dir)[-1], list_checkpoints(parts.output_dir)[-1])
    assert [r["loss"] for r in read_log(whole.output_dir) if "loss" in r]


@pytest.mark.slow
def test_stage2_learns_the_decoder_and_nothing_else(tmp_path, images):
    stage1 = tokenizer_trainer(tmp_path, "stage1", 1)
    stage1.run()
    start = f"experiment.init_from={stage1.output_dir / 'model.safetensors'}"
    stage2 = tokenizer_trainer(tmp_path, "stage2", 2, start, "training.use_ema=true")
    before = {k: v.clone() for k, v in stage2.tokenizer.decoder.state_dict().items()}
    stage2.run()
    one, two = (read_state_dict(t.output_dir / "pytorch_model.bin") for t in (stage1, stage2))
    frozen = [k for k in one if k.startswith(("encoder.", "quantize.", "latent_tokens"))]
    assert frozen
    assert all(torch.equal(one[k], two[k]) for k in frozen)
    changed = [k for k, v in before.items() if not torch.equal(v, two[f"decoder.{k}"])]
    assert len(changed) == len(before)
    assert not any(k.startswith("decoder.ffn_aux") for k in two)
    with pytest.raises(UserError, match="init_from"):
        tokenizer_trainer(tmp_path, "without", 2)


def test_gan_steps_alternate(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    discriminator = trainer.adversary.discriminator
    trainer.state.step = 6  # the first step of the GAN phase
    batch = ImageBatch(torch.rand(4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE), torch.arange(4), [])

    def moved(model, before) -> bool:
        return any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))

    for turn in ("tokenizer", "discriminator", "tokenizer"):
        before = [[p.clone() for p in m.parameters()] for m in (trainer.tokenizer, discriminator)]
        usage = trainer.tokenizer.quantize.embed_prob.clone()
        trainer.train_step([batch])
        assert moved(trainer.tokenizer, before[0]) == (turn == "tokenizer")
        assert moved(discriminator, before[1]) == (turn == "discriminator")
        assert torch.equal(usage, trainer.tokenizer.quantize.embed_prob) == (turn == "discriminator")


@pytest.mark.slow
def test_phases_are_announced_and_their_ends_kept(tmp_path, images, capfd):
    keep = ("experiment.keep_checkpoints=1", "experiment.milestone_every=4", "experiment.save_every=1")
    trainer = tokenizer_trainer(tmp_path, "run", 1, VALIDATE_OFTEN, *keep)
    trainer.run()
    assert [p.name[-2:] for p in list_checkpoints(trainer.output_dir)] == ["04", "06", "08", "10"]
    rows = read_log(trainer.output_dir)
    assert [(r["step"], r["phase"]) for r in rows if "phase" in r] == [(0, 1), (6, 2)]
    assert {r["step"] for r in rows if "val_psnr" in r} == {4, 6, 8, 10}
    announced = capfd.readouterr().err
    assert "step 6: phase 2 of 2, 'gan', step 0 of 4" in announced
    assert "GAN on" in announced


@pytest.mark.slow
def test_a_phase_added_later_starts_its_discriminator(tmp_path, images):
    tokenizer_trainer(tmp_path, "run", 1, ONE_SHORT_PHASE).run()
    (tmp_path / "run" / "model.safetensors").unlink()
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    assert trainer.state.step == 4
    assert trainer.adversary is not None
    trainer.run()


def test_the_average_is_validated_and_exported(tmp_path, images):
    average = ("training.use_ema=true", "training.ema_decay=0.5")
    trainer = tokenizer_trainer(tmp_path, "run", 1, ONE_SHORT_PHASE, *average)
    trainer.run()
    exported, averaged = read_state_dict(trainer.output_dir / "model.safetensors"), trainer.ema.module.state_dict()
    assert all(torch.equal(v, averaged[k]) for k, v in exported.items())
    own = trainer.tokenizer.state_dict()
    assert not all(torch.equal(v, own[k]) for k, v in exported.items())


@pytest.mark.slow
def test_compiled_training_is_eager_training(tmp_path, images):
    losses = []
    for flag in ("false", "true"):
        shallow = ("model.vq_model.encoder.num_layers=1", "model.vq_model.decoder.num_layers=1")
        options = ("training.freeze_encoder=false", f"training.compile={flag}", *shallow)
        trainer = tokenizer_trainer(tmp_path, f"run_{flag}", 2, *options)
        loader = iter(trainer.batches())
        losses.append([float(trainer.train_step(next(loader))["loss"]) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_collapses_are_warned_about(tmp_path, images, capfd):
    """Of the codebook, and of a training that draws one colour."""
    trainer = tokenizer_trainer(tmp_path, "run", 1, "validation.min_codebook_usage=1.1", ONE_SHORT_PHASE)
    trainer.run()
    errors = capfd.readouterr().err
    assert "it may have collapsed" in errors
    assert errors.count("every image is drawn as about the mean colour of all") == 1
    assert any("explained" in row for row in read_log(trainer.output_dir))


@pytest.mark.slow
def test_two_processes_and_accumulation_follow_one_process(tmp_path):
    """24 steps with clustering, the last 16 with the GAN, in float64: the same losses and weights.

    The codebook is small and its codes are far apart: otherwise dead codes with the same nearest latent
    become equal, and rounding decides which of two equal codes is the nearest.
    """
    toy.write_images(tmp_path / "images", noise=True)
    config = toy.write_tokenizer_config(tmp_path / "config.yaml", 1, steps=(8, 16))

    def follow(name: str, processes: int, *overrides: str) -> None:
        run(
            "tests/support/follow_steps.py",
            tmp_path / name,
            f"config={config}",
            f"dataset.params.data_path={tmp_path / 'images'}",
            f"experiment.output_dir={tmp_path / 'unused'}",
            "model.vq_model.codebook_size=8",
            "model.vq_model.init_std=0.2",
            "model.vq_model.quantizer_start_steps=12",
            *overrides,
            processes=processes,
        )

    def losses(name: str) -> torch.Tensor:
        return torch.tensor(json.loads((tmp_path / name / "losses.json").read_text()), dtype=torch.float64)

    follow("one", 1)
    follow("two", 2, "training.per_gpu_batch_size=4")
    follow("accumulated", 2, "training.per_gpu_batch_size=2", "training.gradient_accumulation_steps=2")
    # Clustering has moved some codes further than 24 gradient steps of 1e-3 in 8 dimensions can.
    assert max(json.loads((tmp_path / "one" / "moved.json").read_text())) > 2 * 24e-3 * 8**0.5
    weights = read_state_dict(tmp_path / "one" / "model.safetensors")
    for name in ("two", "accumulated"):
        torch.testing.assert_close(losses(name), losses("one"), rtol=1e-10, atol=0)
        for key, value in read_state_dict(tmp_path / name / "model.safetensors").items():
            torch.testing.assert_close(value, weights[key], rtol=0, atol=1e-9)
        codebooks = [json.loads((tmp_path / name / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
        assert codebooks[0] == codebooks[1]  # bit-identical after every step
        assert len(set(codebooks[0])) == 16  # 8 steps without the GAN, then every other one of 16
