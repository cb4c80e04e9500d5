"""How AliTok's tokenizer starts: as published, or scaled so that small models begin to learn at once."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modeling.alitok.tokenizer import AliTok
from modeling.layers.quantizer_start import explained_variance, variance_sums
from tests.support import toy

MATRICES = nn.Linear | nn.Conv2d | nn.Embedding
TRUNCATED = 0.88  # spread of a normal distribution of spread 1, truncated at 2


def wide(init_std: float | None) -> AliTok:
    torch.manual_seed(0)
    return toy.tokenizer(1, width=128, init_std=init_std)


def matrices(tokenizer: AliTok) -> list[nn.Module]:
    return [m for m in tokenizer.modules() if isinstance(m, MATRICES) and m.weight.numel() > 1000]


def test_published_weights_have_one_spread_and_no_biases():
    tokenizer = wide(0.02)
    for module in matrices(tokenizer):
        assert module.weight.std().item() == pytest.approx(0.02 * TRUNCATED, rel=0.1)
    for name, parameter in tokenizer.named_parameters():
        assert not name.endswith("bias") or (parameter == 0).all(), name


def test_scaled_layers_keep_the_size_of_their_inputs():
    for module in matrices(wide(None)):
        fan_in = module.weight[0].numel()
        assert module.weight.std().item() * fan_in**0.5 == pytest.approx(TRUNCATED, rel=0.1)


def test_scaled_patches_of_grey_are_zero():
    tokenizer = wide(None)
    images = torch.rand(2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    patches, grey = tokenizer.encoder.patch_embed(images), tokenizer.encoder.patch_embed(torch.full_like(images, 0.5))
    assert grey.abs().max() < 1e-5 < patches.abs().max()
    assert all((p == 0).all() for n, p in tokenizer.named_parameters() if n.endswith("bias") and "patch_embed" not in n)


def share_of_steps_at_the_mean_colour(init_std: float | None, steps: int = 80) -> float:
    """Of a training on images of coloured tiles, of a colour of their own each."""
    torch.manual_seed(0)
    tokenizer = toy.tokenizer(1, width=64, init_std=init_std, codebook_size=64).train()
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3, betas=(0.9, 0.99))
    patch, grid = tokenizer.config.patch_size, tokenizer.config.grid_size
    there = 0
    for _ in range(steps):
        tiles = 0.7 * torch.rand(16, 3, 1, 1) + 0.3 * torch.rand(16, 3, grid, grid)
        images = tiles.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        tokenizer.begin_step(SimpleNamespace(clustering=True))
        output = tokenizer(images)
        sum(term.weight * term.value for term in output.losses.values()).backward()
        tokenizer.before_update()
        optimizer.step()
        optimizer.zero_grad()
        there += explained_variance(variance_sums(images, output.reconstruction)).item() < 0.1
    return there / steps


def test_a_small_model_begins_sooner_when_scaled():
    """50 of 80 steps, where the published start, made for a model twelve times as wide, needs more than 80."""
    assert share_of_steps_at_the_mean_colour(None) < 0.85
    assert share_of_steps_at_the_mean_colour(0.02) == 1
