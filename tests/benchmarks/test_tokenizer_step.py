"""A tokenizer's step counted without data, against counts by hand and a step on the CPU."""

import pytest
import torch
import yaml

from benchmarks.tokenizer_step import TokenizerStep
from benchmarks.training_memory import BYTES_PER_WEIGHT
from tests.benchmarks.test_training_memory import PeakTensors
from tests.support import toy
from train_tokenizer.config import TokenizerConfig
from utils.config import load_config

WIDTH, LAYERS, CHANNELS = 32, 2, 8
PATCHES, CODES = 4, toy.NUM_CODES


def config(folder, stage: int, *overrides: str) -> TokenizerConfig:
    path = toy.write_tokenizer_config(folder / f"stage{stage}.yaml", stage)
    return load_config(TokenizerConfig, "", [f"config={path}", *overrides])


def transformer(length: int) -> int:
    """Operations of the blocks of encoder or decoder: 12 width^2 weights, and two products of attention."""
    return LAYERS * (2 * 12 * WIDTH**2 * length + 4 * length**2 * WIDTH)


PIXELS = 3 * toy.PATCH_SIZE**2
ENCODER = 2 * PIXELS * WIDTH * PATCHES + transformer(PATCHES + CODES) + 2 * WIDTH * CHANNELS * CODES
DISTANCES = 2 * CODES * CHANNELS * toy.CODEBOOK_SIZE


def decoder(learned: int) -> int:
    to_pixels = 2 * WIDTH * PIXELS * PATCHES + 2 * 3 * 3 * toy.IMAGE_SIZE**2
    return 2 * CHANNELS * WIDTH * CODES + transformer(learned + CODES) + to_pixels


def test_operations_are_those_counted_by_hand(tmp_path):
    step = TokenizerStep(config(tmp_path, 2))
    assert step.encoding_flops() == ENCODER + DISTANCES
    # Stage 2 is frozen up to the codes; the first layer of the decoder passes no gradient to them.
    expected = ENCODER + DISTANCES + 3 * decoder(4) - 2 * CHANNELS * WIDTH * CODES
    assert step.flops(step.config.phases[0]) == expected


def test_the_gan_adds_a_discriminator_and_takes_turns(tmp_path):
    turns = TokenizerStep(config(tmp_path, 2))
    both = TokenizerStep(config(tmp_path, 2, "losses.discriminator_turns=false"))
    mse, gan = turns.config.phases
    assert 2 * turns.flops(gan) == both.flops(gan)
    assert both.flops(gan) > turns.flops(mse) + ENCODER + decoder(4)


@pytest.mark.slow
def test_the_loss_on_the_prefix_row_costs_another_pass_of_the_network(tmp_path):
    networks = (
        "losses.perceptual_model=test_convnext",
        "phases=[{name: a, steps: 1, learning_rate: 1, perceptual_weight: 1}]",
    )
    plain, row = (
        TokenizerStep(config(tmp_path, 1, *networks, *more))
        for more in ((), ("model.vq_model.prefix_perceptual_weight=1",))
    )
    without = TokenizerStep(config(tmp_path, 1))
    own = without.flops(without.config.phases[0])
    network = plain.flops(plain.config.phases[0]) - own
    assert network > own
    assert row.flops(row.config.phases[0]) - own == pytest.approx(2 * network, rel=0.01)


def test_the_memory_bounds_a_real_step_closely(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling.layers.attention.MAX_MATERIALISED_LENGTH", 0)  # the fused kernel, as on a GPU
    path = toy.write_tokenizer_config(tmp_path / "stage1.yaml", 1)
    content = yaml.safe_load(path.read_text())
    sizes = {"width": 64, "num_layers": 3, "num_heads": 2}
    content["model"]["vq_model"] |= {"image_size": 64, "num_latent_tokens": 73}
    content["model"]["vq_model"]["encoder"] = sizes
    content["model"]["vq_model"]["decoder"] |= sizes
    content["phases"] = content["phases"][:1]
    path.write_text(yaml.safe_dump(content))
    settings = load_config(TokenizerConfig, "", [f"config={path}"])
    counted = TokenizerStep(settings).memory(16)
    step = TokenizerStep(settings)
    model = step.tokenizer.to_empty(device="cpu").train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    weights = sum(p.numel() for p in model.parameters())
    assert counted.state == BYTES_PER_WEIGHT * weights
    images = torch.rand(16, 3, 64, 64)
    with PeakTensors() as tensors:
        output = model(images)
        sum(term.value for term in output.losses.values()).backward()
    real = tensors.peak + images.numel() * 4 + 12 * weights  # gradients are allocated inside the step
    assert real <= counted.total <= 1.4 * real
