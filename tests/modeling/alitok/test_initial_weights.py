"""How AliTok's tokenizer starts: as published, or scaled so that small models begin to learn at once."""

import pytest
import torch
from torch import nn

from modeling.alitok.tokenizer import AliTok
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


def variance_between_images(tokenizer: AliTok) -> float:
    """Share of the latents' variance that is between images, not between places, for random tiles on random colours."""
    random = torch.Generator().manual_seed(0)
    patch, grid = tokenizer.config.patch_size, tokenizer.config.grid_size
    tiles = 0.7 * torch.rand(64, 3, 1, 1, generator=random) + 0.3 * torch.rand(64, 3, grid, grid, generator=random)
    with torch.no_grad():
        images = tiles.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        z = tokenizer.encoder(images, tokenizer.latent_tokens)
    return (z.var(0).mean() / z.var((0, 3)).mean()).item()


def test_scaled_latents_tell_images_apart():
    """What quantization would hide, and the decoder could not draw: docs/training.md."""
    published, scaled = (variance_between_images(wide(init_std)) for init_std in (0.02, None))
    assert published < 0.001
    assert scaled > 0.05
