"""What only a GPU can show. All other tests run on the CPU; run these with

CUDA_VISIBLE_DEVICES=0,1 python -m pytest tests/test_gpu.py
"""

from dataclasses import replace

import pytest
import torch

from benchmarks.training_memory import count_memory
from modeling.build import build_generator, code_layout
from sampling.masked import MaskedDecoder, MaskedSettings
from sampling.noise import image_noise
from sampling.pipeline import Pipeline
from sampling.settings import SamplingSettings
from tests.support import toy
from tests.support.decoding import draw_codes
from tests.support.paths import ROOT
from tests.support.resuming import interrupted
from tests.support.toy.maskgit import masked_generator
from tests.support.toy.rar import rar_generator
from tests.support.trainings import generator_trainer, train_step
from train_generator.config import ARConfig
from train_generator.trainer import GeneratorTrainer, parameter_groups
from train_tokenizer.losses import hinge_generator_loss
from training.checkpoint_files import list_checkpoints, load_checkpoint_weights
from utils.config import load_config

DEVICE = "cuda"
SETTINGS = SamplingSettings(4.0, 1.0)
NO_DROPOUT = dict.fromkeys(("dropout", "attn_drop", "tok_dropout", "class_label_dropout"), 0.0)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or CUDA_VISIBLE_DEVICES hides it")


def pipeline(device: str, **options) -> Pipeline:
    models = (model.to(device).requires_grad_(False) for model in (toy.tokenizer(init_std=0.3), toy.generator()))
    return Pipeline(*models, SETTINGS, **({"precision": "fp32", "batch_size": 4} | options))


def expected_codes(classes: list[int]) -> torch.Tensor:
    """What the CPU draws for images 0, 1, ... of seed 0."""
    noise = image_noise(0, range(len(classes)), toy.NUM_CODES)
    return draw_codes(toy.generator(), torch.tensor(classes), noise, SETTINGS)


@pytest.mark.parametrize("compile", [False, True])
def test_graphs_draw_what_the_cpu_draws(compile):
    drawn = pipeline(DEVICE, compile=compile)
    for classes in ([0, 1, 2, 3], [3, 1], [2, 2, 0, 1]):  # recorded, replayed with fewer rows, and again
        codes = drawn.generate_codes(classes).cpu()
        assert (codes == expected_codes(classes)).float().mean() > 0.95  # rounding changes a draw at a boundary


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("build", [toy.generator, rar_generator])
def test_soft_guidance_and_completion_draw_what_the_cpu_draws(build, compile):
    """Kept codes enter the cache outside the recorded work, which then draws the others."""
    soft, classes, kept = replace(SETTINGS, soft_guidance=True), [0, 1, 2, 3], torch.full((4, toy.NUM_CODES), -1)
    models = (model.to(DEVICE).requires_grad_(False) for model in (toy.tokenizer(init_std=0.3), build()))
    drawn = Pipeline(*models, soft, precision="fp32", batch_size=4, compile=compile)
    noise = image_noise(0, range(4), toy.NUM_CODES)
    expected = draw_codes(build(), torch.tensor(classes), noise, soft)
    assert (drawn.generate_codes(classes).cpu() == expected).float().mean() > 0.95
    for count in (1, 4, 2):
        kept[:] = -1
        kept[:, :count] = expected[:, :count]
        completed = drawn.generate_codes(classes, kept=kept).cpu()
        assert torch.equal(completed[:, :count], expected[:, :count])
        assert (completed == expected).float().mean() > 0.95


@pytest.mark.parametrize("compile", [False, True])
def test_masked_decoding_draws_what_the_cpu_draws(compile):
    settings, classes = MaskedSettings(4, 3.0, temperature=1.0), [0, 1, 2, 3]
    models = (model.to(DEVICE).requires_grad_(False) for model in (toy.tokenizer(init_std=0.3), masked_generator()))
    drawn = Pipeline(*models, settings, precision="fp32", batch_size=4, compile=compile)
    decoder = MaskedDecoder(masked_generator(), settings)
    expected = decoder(torch.tensor(classes), image_noise(0, range(4), decoder.noise_shape))
    assert (drawn.generate_codes(classes).cpu() == expected).float().mean() > 0.9
    assert drawn.generate_codes(classes[:2]).shape == (2, toy.NUM_CODES)


def test_one_batch_at_a_time():
    drawn = pipeline(DEVICE, compile=False)
    stream = drawn.stream([0, 1], every=1)
    next(stream)
    with pytest.raises(RuntimeError, match="another batch of this decoder is not finished"):
        drawn.generate([2])
    stream.close()
    assert torch.equal(drawn.generate_codes([2]).cpu(), expected_codes([2]))


def test_a_gpu_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("only one GPU")
    drawn = pipeline("cuda:1", compile=False)
    for classes in ([0, 1, 2, 3], [3, 1, 0, 0]):
        assert (drawn.generate_codes(classes).cpu() == expected_codes(classes)).float().mean() > 0.95


def test_losses_and_gradients_are_the_cpus():
    results = []
    images = torch.rand(4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
    codes = torch.randint(0, toy.CODEBOOK_SIZE, (4, toy.NUM_CODES), generator=torch.Generator().manual_seed(1))
    for device in ("cpu", DEVICE):
        generator, tokenizer = toy.generator(**NO_DROPOUT).to(device).train(), toy.tokenizer(stage=1).to(device).train()
        loss = generator.loss(codes.to(device), torch.arange(4, device=device)).value
        output = tokenizer(images.to(device))
        reconstruction = sum(term.weight * term.value for term in output.losses.values())
        (loss + reconstruction + hinge_generator_loss(output.reconstruction)).backward()
        norms = [p.grad.norm().cpu() for m in (generator, tokenizer) for p in m.parameters() if p.grad is not None]
        results.append((float(loss.detach()), float(reconstruction.detach()), torch.stack(norms)))
    (loss, reconstruction, norms), (other_loss, other_reconstruction, other_norms) = results
    assert other_loss == pytest.approx(loss, rel=1e-4)
    assert other_reconstruction == pytest.approx(reconstruction, rel=1e-3)
    torch.testing.assert_close(other_norms, norms, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.usefixtures("fresh_accelerate")
def test_a_resumed_training_is_one_training(tmp_path, precision):
    def build(name: str, *overrides: str) -> GeneratorTrainer:
        return generator_trainer(tmp_path, name, f"training.mixed_precision={precision}", *overrides)

    whole = build("whole")
    whole.run()
    parts = interrupted(build, 3)
    one, two = (load_checkpoint_weights(list_checkpoints(t.output_dir)[-1], "model") for t in (whole, parts))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


def test_memory_is_what_was_counted(tmp_path):
    """AliTok-B with 32 images: at most 5% above the count and at most 25% below it."""
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
