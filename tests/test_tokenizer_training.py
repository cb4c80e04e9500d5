"""Tokenizer training in this process: phases, exact resume, what is frozen, guards, what is kept."""

import json
import time
from pathlib import Path

import pytest
import torch

from dataset.image_dataset import ImageBatch
from tests.support import toy
from tests.support.launch import run, small_files
from tests.support.resuming import assert_equal_checkpoints, interrupted
from train_tokenizer.trainer import TokenizerTrainer
from training.checkpoint import list_checkpoints
from training.logging import read_log
from training.meters import Meters
from utils.config import load_config
from utils.errors import UserError
from utils.schema import TokenizerConfig
from utils.weights import read_state_dict


@pytest.fixture
def images(tmp_path) -> Path:
    return toy.write_images(tmp_path / "images")


def tokenizer_trainer(tmp_path: Path, name: str, stage: int, *overrides: str) -> TokenizerTrainer:
    config = load_config(
        TokenizerConfig,
        "",
        [
            f"config={toy.write_tokenizer_config(tmp_path / f'stage{stage}.yaml', stage)}",
            f"dataset.params.data_path={tmp_path / 'images'}",
            f"experiment.output_dir={tmp_path / name}",
            *overrides,
        ],
    )
    return TokenizerTrainer(config)


@pytest.mark.parametrize("stop_at", [3, 7])  # before and within the GAN phase
def test_tokenizer_training_resumes_bit_for_bit(tmp_path, images, stop_at):
    average = "training.use_ema=true"
    whole = tokenizer_trainer(tmp_path, "whole", 1, average)
    whole.run()
    parts = interrupted(lambda *a: tokenizer_trainer(tmp_path, a[0], 1, average, *a[1:]), stop_at)
    assert_equal_checkpoints(list_checkpoints(whole.output_dir)[-1], list_checkpoints(parts.output_dir)[-1])
    assert [r["loss"] for r in read_log(whole.output_dir) if "loss" in r]


def test_stage2_learns_the_decoder_and_nothing_else(tmp_path, images):
    stage1 = tokenizer_trainer(tmp_path, "stage1", 1)
    stage1.run()
    start = f"experiment.init_from={stage1.output_dir / 'model.safetensors'}"
    stage2 = tokenizer_trainer(tmp_path, "stage2", 2, start, "training.use_ema=true")
    before = {k: v.clone() for k, v in stage2.tokenizer.decoder.state_dict().items()}
    stage2.run()
    one, two = (read_state_dict(t.output_dir / "pytorch_model.bin") for t in (stage1, stage2))
    frozen = [k for k in one if k.startswith(("encoder.", "quantize.", "latent_tokens"))]
    assert frozen and all(torch.equal(one[k], two[k]) for k in frozen)
    changed = [k for k, v in before.items() if not torch.equal(v, two[f"decoder.{k}"])]
    assert len(changed) == len(before)
    assert not any(k.startswith("decoder.ffn_aux") for k in two)
    with pytest.raises(UserError, match="init_from"):
        tokenizer_trainer(tmp_path, "without", 2)


def test_gan_steps_alternate(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    trainer.step = 6  # the first step of the GAN phase
    batch = ImageBatch(torch.rand(4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE), torch.arange(4), [])

    def moved(model, before) -> bool:
        return any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))

    for turn in ("generator", "discriminator", "generator"):
        before = [[p.clone() for p in m.parameters()] for m in (trainer.tokenizer, trainer.discriminator)]
        usage = trainer.tokenizer.quantize.embed_prob.clone()
        trainer.train_step([batch])
        assert moved(trainer.tokenizer, before[0]) == (turn == "generator")
        assert moved(trainer.discriminator, before[1]) == (turn == "discriminator")
        assert torch.equal(usage, trainer.tokenizer.quantize.embed_prob) == (turn == "discriminator")


def batch_of(trainer: TokenizerTrainer, value: float | None = None) -> ImageBatch:
    images = torch.rand(4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE) if value is None else torch.full((4, 3, 16, 16), value)
    return ImageBatch(images, torch.arange(4), [])


def test_two_processes_and_accumulation_follow_one_process(tmp_path):
    """24 steps with clustering, the last 16 with the GAN, in float64: the same losses and weights.

    The codebook is small and its codes far apart: dead codes that share a nearest latent become
    equal, and which of two equal codes is the nearest is a matter of the last bit.
    """
    toy.write_images(tmp_path / "images", noise=True)
    config = toy.write_tokenizer_config(tmp_path / "config.yaml", 1, steps=(8, 16))
    common = (
        f"config={config}",
        f"dataset.params.data_path={tmp_path / 'images'}",
        f"experiment.output_dir={tmp_path / 'unused'}",
        "model.vq_model.codebook_size=8",
        "model.vq_model.init_std=0.2",
    )
    script = "tests/support/follow_steps.py"
    run(script, tmp_path / "one", *common)
    run(script, tmp_path / "two", *common, "training.per_gpu_batch_size=4", processes=2)
    half = ("training.per_gpu_batch_size=2", "training.gradient_accumulation_steps=2")
    run(script, tmp_path / "accumulated", *common, *half, processes=2)

    def losses(name: str) -> torch.Tensor:
        return torch.tensor(json.loads((tmp_path / name / "losses.json").read_text()), dtype=torch.float64)

    # Some codes have jumped, which gradient steps alone (24 of 1e-3 in 8 directions) could not do.
    assert max(json.loads((tmp_path / "one" / "moved.json").read_text())) > 2 * 24e-3 * 8**0.5
    weights = read_state_dict(tmp_path / "one" / "model.safetensors")
    for name in ("two", "accumulated"):
        torch.testing.assert_close(losses(name), losses("one"), rtol=1e-10, atol=0)
        for key, value in read_state_dict(tmp_path / name / "model.safetensors").items():
            torch.testing.assert_close(value, weights[key], rtol=0, atol=1e-9)
        codebooks = [json.loads((tmp_path / name / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
        assert codebooks[0] == codebooks[1]  # bit-identical after every step
        assert len(set(codebooks[0])) == 16  # eight steps alone, then every other one is the discriminator's


def test_phases_are_announced_and_their_ends_kept(tmp_path, images, capfd):
    keep = ("experiment.keep_checkpoints=1", "experiment.milestone_every=4", "experiment.save_every=1")
    trainer = tokenizer_trainer(tmp_path, "run", 1, *keep)
    trainer.run()
    assert [p.name[-2:] for p in list_checkpoints(trainer.output_dir)] == ["04", "06", "08", "10"]
    rows = read_log(trainer.output_dir)
    assert [(r["step"], r["phase"]) for r in rows if "phase" in r] == [(0, 1), (6, 2)]
    assert {r["step"] for r in rows if "val_psnr" in r} == {4, 6, 8, 10}
    announced = capfd.readouterr().err
    assert "step 6: phase 2 of 2, 'gan', step 0 of 4" in announced and "GAN on" in announced


def test_a_phase_added_later_starts_its_discriminator(tmp_path, images):
    without = ("phases=[{name: mse, steps: 4, learning_rate: 1e-3}]",)
    tokenizer_trainer(tmp_path, "run", 1, *without).run()
    (tmp_path / "run" / "model.safetensors").unlink()
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    assert trainer.step == 4 and trainer.discriminator is not None
    trainer.run()


def test_the_average_is_validated_and_exported(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1, "training.use_ema=true", "training.ema_decay=0.5")
    trainer.run()
    exported, average = read_state_dict(trainer.output_dir / "model.safetensors"), trainer.ema.module.state_dict()
    assert all(torch.equal(v, average[k]) for k, v in exported.items())
    own = trainer.tokenizer.state_dict()
    assert not all(torch.equal(v, own[k]) for k, v in exported.items())


def test_compiled_training_is_eager_training(tmp_path, images):
    losses = []
    for flag in ("false", "true"):
        shallow = ("model.vq_model.encoder.num_layers=1", "model.vq_model.decoder.num_layers=1")
        options = ("training.freeze_encoder=false", f"training.compile={flag}", *shallow)
        trainer = tokenizer_trainer(tmp_path, f"run_{flag}", 2, *options)
        loader = iter(trainer.loader())
        losses.append([float(trainer.train_step([trainer.to_device(next(loader))])["loss"]) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


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


def test_undecodable_files_are_skipped_counted_and_listed(tmp_path, images, capfd):
    broken = images / "train" / "class_1" / "broken.JPEG"
    broken.write_bytes((images / "train" / "class_1" / "001.JPEG").read_bytes()[:200])
    trainer = tokenizer_trainer(tmp_path, "run", 1, "dataset.params.max_bad_fraction=0.1")
    trainer.run()
    assert (trainer.output_dir / "undecodable.txt").read_text() == f"{broken}\n"
    assert [r["undecodable_files"] for r in read_log(trainer.output_dir) if "loss" in r][-1] == 1
    assert capfd.readouterr().out.count("broken.JPEG cannot be decoded") == 1
    with pytest.raises(UserError, match=r"1 of 49 files cannot be decoded.*max_bad_fraction=0.01.*broken.JPEG"):
        tokenizer_trainer(tmp_path, "strict", 1, "dataset.params.max_bad_fraction=0.01").run()


def test_a_lost_disk_ends_the_run(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    for path in (images / "train").rglob("*.*"):
        path.unlink()
    with pytest.raises(UserError, match="48 files in a row cannot be decoded"):
        trainer.run()


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


def test_a_bad_validation_file_is_left_out(tmp_path, images, capfd):
    (images / "val" / "class_2" / "000.png").write_bytes(b"no image")
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    trainer.run()
    assert "000.png cannot be decoded" in capfd.readouterr().out
    last = read_log(trainer.output_dir)[-1]
    assert 0 < last["val_ssim"] < 1 and last["val_images"] == 47
    for path in (images / "val").rglob("*.*"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of the 48 images of .*val can be decoded"):
        trainer.evaluation.metrics(trainer.tokenizer)


def test_pauses_do_not_count_in_rates(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    meters = Meters()
    meters.add(100)
    start = time.perf_counter()
    with meters.pause():
        time.sleep(0.5)
    elapsed = time.perf_counter() - start
    assert meters.pop(trainer.accelerator)["images_per_second"] > 2 * 100 / elapsed


def test_skipped_steps_do_not_spoil_the_means(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    meters = Meters()
    for value in (1.0, float("nan"), 3.0):
        meters.add(8, 0.0, loss=value, grad_norm=float("inf"))
    means = meters.pop(trainer.accelerator)
    assert means["loss"] == 2.0 and "grad_norm" not in means and means["images_per_second"] > 0


def test_a_collapsed_codebook_is_warned_about(tmp_path, images, capfd):
    tokenizer_trainer(tmp_path, "run", 1, "validation.min_codebook_usage=1.1").run()
    assert "it may have collapsed" in capfd.readouterr().err


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
