"""What only a GPU can show of training. Compared over one step: rounding grows with every update of Adam."""

import copy

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks.ar_training import write_cache
from benchmarks.training_memory import count_memory
from modeling.build import build_generator, code_layout
from modeling.interfaces import Progress
from tests.support import toy
from tests.support.gpu import DEVICE, large_config, needs_gpu, not_rehearsed, without_tf32  # noqa: F401
from tests.support.paths import ROOT
from tests.support.resuming import RESUME, assert_equal
from tests.support.toy.maskgit import masked_generator
from tests.support.toy.rar import rar_generator
from tests.support.toy.titok import titok
from tests.support.trainings import generator_trainer, tokenizer_trainer, train_step
from train_generator.config import ARConfig
from train_generator.loss_noise import loss_noise
from train_generator.trainer import GeneratorTrainer, parameter_groups
from train_tokenizer.losses import hinge_generator_loss
from training.checkpoint_files import list_checkpoints
from training.fsdp import full_state, optimizer_state
from training.logging import read_log
from utils.config import load_config

pytestmark = needs_gpu


def alitok_loss(device: str):
    return generator_loss(toy.generator(dropout=0.0, attn_drop=0.0, tok_dropout=0.0, class_label_dropout=0.0), device)


def rar_loss(device: str):
    return generator_loss(rar_generator(dropout=0.0, attn_drop=0.0, class_label_dropout=0.0), device)


def masked_loss(device: str):
    return generator_loss(masked_generator("UViT", dropout=0.0, attn_drop=0.0, class_label_dropout=0.0), device)


def generator_loss(generator, device: str):
    generator = generator.to(device).train()
    codes = torch.randint(0, toy.CODEBOOK_SIZE, (4, toy.NUM_CODES), generator=torch.Generator().manual_seed(1))
    noise = loss_noise(0, torch.arange(4), generator.loss_noise)
    arguments = (x.to(device) for x in (codes, torch.arange(4)))
    return generator, generator.loss(*arguments, Progress(0, 2), noise.to(device)).value


def stage1_loss(device: str):
    return tokenizer_loss(toy.tokenizer(stage=1), device)


def titok_loss(device: str):
    return tokenizer_loss(titok("single_stage"), device)


def tokenizer_loss(tokenizer, device: str):
    tokenizer, side = tokenizer.to(device).train(), tokenizer.image_size
    output = tokenizer(torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device))
    loss = sum(term.weight * term.value for term in output.losses.values())
    return tokenizer, loss + hinge_generator_loss(output.reconstruction)


@pytest.mark.parametrize("make", [alitok_loss, rar_loss, masked_loss, stage1_loss, titok_loss])
def test_losses_and_gradients_are_the_cpus(make):
    results = []
    for device in ("cpu", DEVICE):
        model, loss = make(device)
        loss.backward()
        gradients = [p.grad.norm().cpu() for p in model.parameters() if p.grad is not None]
        results.append((float(loss.detach()), torch.stack(gradients)))
    (expected, expected_norms), (loss, norms) = results
    assert loss == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(norms, expected_norms, rtol=1e-3, atol=1e-5 * float(expected_norms.max()))


def test_the_default_training_step_is_close_to_float32(tmp_path):
    """bfloat16 and compiled, at the width and length of B: losses of three steps and the gradient of the first."""
    common = [f"dataset.params.pretokenization={tmp_path / 'cache'}", "dataset.params.num_workers_per_gpu=0"]
    common += ["training.per_gpu_batch_size=4", "training.enable_wandb=false", "lr_scheduler.params.warmup_steps=1"]
    common += toy.NO_DROPOUT
    write_cache(tmp_path / "cache", large_config("alitok_b", *common), 16)
    results = []
    for overrides in ((), ("training.mixed_precision=no", "training.compile=false", "training.enable_tf32=false")):
        AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps the first precision of a process
        output = f"experiment.output_dir={tmp_path / str(len(results))}"
        trainer = GeneratorTrainer(large_config("alitok_b", *common, output, *overrides))
        torch.manual_seed(0)
        torch.nn.init.normal_(trainer.generator.output.weight, std=0.05)  # its zeros would leave the blocks still
        batches = trainer.batches()
        results.append([trainer.train_step(next(batches)) for _ in range(3)])
    AcceleratorState._reset_state(reset_partial_state=True)
    ours, expected = ([float(step["loss"]) for step in steps] for steps in results)
    assert ours == pytest.approx(expected, rel=5e-3)
    assert len(set(expected)) == 3
    assert results[0][0]["grad_norm"] == pytest.approx(results[1][0]["grad_norm"], rel=3e-2)


@pytest.mark.parametrize("precision", ["no", "bf16", pytest.param("fp16", marks=not_rehearsed)])
@pytest.mark.usefixtures("fresh_accelerate")
def test_a_resumed_training_continues(tmp_path, precision):
    """The checkpoint holds the state bit for bit, and the next step is the same but for the order of sums."""

    def build() -> GeneratorTrainer:
        return generator_trainer(tmp_path, "run", f"training.mixed_precision={precision}", RESUME)

    def everything(trainer: GeneratorTrainer) -> list:
        states = [full_state(model) for model in trainer.state.models.values()]
        optimizers = [optimizer_state(*pair)["state"] for pair in trainer.state.optimizers.values()]
        scaler = trainer.accelerator.scaler
        everything = [states, optimizers, trainer.state.counters(), {} if scaler is None else scaler.state_dict()]
        return copy.deepcopy(everything)  # on a CPU the states are the weights themselves

    first = build()
    batches = first.batches()
    for _ in range(4):
        first.train_step(next(batches))
    first.checkpointer.save()
    saved, expected = everything(first), first.train_step(next(batches))
    first.checkpointer.lock.close()
    second = build()
    assert second.state.step == 4
    assert_equal(everything(second), saved)
    found = second.train_step(next(second.batches()))
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_tokenizer_trains_by_default(tmp_path, images):
    """bfloat16, compiled, with clustering, the GAN, validation and export."""
    trainer = tokenizer_trainer(tmp_path, "run", 1, "training.mixed_precision=bf16", "experiment.log_every=1")
    trainer.run()
    last = read_log(trainer.output_dir)[-1]
    assert last["val_psnr"] > 5
    assert trainer.state.skipped_steps == 0
    assert list_checkpoints(trainer.output_dir)[-1].name.endswith("10")
    assert (trainer.output_dir / "model.safetensors").is_file()


@not_rehearsed
def test_memory_is_what_was_counted(tmp_path):
    """AliTok-B with 32 images, not compiled: at most 5% above the count and at most 25% below it."""
    config = load_config(ARConfig, "", [f"config={ROOT}/configs/alitok_b.yaml", f"experiment.output_dir={tmp_path}"])
    model = build_generator(config.model.generator, code_layout(config.model.vq_model)).to(DEVICE).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.03), fused=True)
    codes = torch.randint(0, model.layout.codebook_size, (32, model.layout.num_codes), device=DEVICE)
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        class_ids = torch.arange(32, device=DEVICE)
        train_step(model, optimizer, codes, class_ids, torch.autocast(DEVICE, torch.bfloat16))
    counted = count_memory(config, 32).total
    assert 0.75 * counted < torch.cuda.max_memory_allocated() < 1.05 * counted
