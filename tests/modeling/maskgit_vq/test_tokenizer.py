"""What must hold of MaskGIT-VQ whatever its weights."""

import pytest
import torch
from torch import nn

from modeling.build import build_tokenizer, build_trainable_tokenizer
from modeling.configs import read_tokenizer_config
from modeling.interfaces import TOKENIZERS, CodeLayout
from modeling.maskgit_vq.blocks import ResidualBlock
from modeling.maskgit_vq.settings import MaskGITVQConfig
from tests.support import toy
from tests.support.paths import ROOT
from utils.errors import UserError


def test_the_layout_follows_from_the_sizes():
    assert MaskGITVQConfig().layout == CodeLayout(1024, 256, 0, (16, 16))
    assert MaskGITVQConfig(**toy.MASKGIT_VQ).layout == CodeLayout(32, 64, 0, (8, 8))
    assert MaskGITVQConfig(image_size=512, num_latent_tokens=1024).layout.grid == (32, 32)


def test_the_configuration_file_holds_the_published_sizes():
    assert read_tokenizer_config(ROOT / "configs/maskgit_vq.yaml") == MaskGITVQConfig(num_latent_tokens=256)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 250}, "250 is not a multiple of 16, by which 5 levels reduce it"),
        ({"num_latent_tokens": 273}, "num_latent_tokens is 273, a grid of 16x16 has 256"),
        ({"channel_multipliers": []}, "channel_multipliers is empty"),
        ({"channels": 40}, "divisible by num_groups"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        build_tokenizer(MaskGITVQConfig(**sizes))


@torch.no_grad()
def test_a_block_that_changes_the_channels_drops_its_input():
    """Its result is h + nin_shortcut(h); a block of one width adds its input."""
    x = torch.randn(2, 32, 4, 4)
    same, wider = ResidualBlock(32, 32), ResidualBlock(32, 64)
    for block in (same, wider):
        nn.init.zeros_(block.conv2.weight)
    assert torch.equal(same(x), x)
    assert torch.equal(wider(x), torch.zeros(2, 64, 4, 4))
    nn.init.normal_(wider.conv2.weight, std=0.1)
    with_shortcut = wider(x)
    nn.init.zeros_(wider.nin_shortcut.weight)
    h = wider(x)
    nn.init.dirac_(wider.nin_shortcut.weight)
    torch.testing.assert_close(wider(x), 2 * h)
    assert not torch.allclose(with_shortcut, h)


@torch.no_grad()
def test_codes_lie_in_raster_order():
    model, inputs = toy.maskgit_vq(), []
    model.decoder.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    codes = torch.randint(0, 32, (2, 64))
    images = model.decode(codes)
    for row, column in ((0, 0), (2, 5), (7, 1)):
        assert torch.equal(inputs[0][:, :, row, column], model.quantize.embedding(codes[:, 8 * row + column]))
    assert images.shape == (2, 3, 32, 32)
    assert images.min() == 0
    assert images.max() == 1  # these weights make pixels outside [0, 1]


@torch.no_grad()
def test_codes_are_the_nearest_rows():
    model = toy.maskgit_vq()
    images = torch.rand(3, 3, 32, 32)
    latents = model.encoder(images).permute(0, 2, 3, 1).reshape(3, 64, 1, 8)
    distances = (latents - model.quantize.embedding.weight).square().sum(-1)
    codes = model.encode(images)
    assert torch.equal(codes, distances.argmin(-1))
    assert len(codes.unique()) > 8


@torch.no_grad()
def test_bfloat16_does_not_round_the_pixels():
    model = toy.maskgit_vq()
    quantized = torch.randn(1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        pixels = model.decoder(quantized)
    assert pixels.dtype == torch.float32
    assert not torch.equal(pixels, pixels.bfloat16().float())


def test_it_has_no_training():
    assert not TOKENIZERS.part_class("maskgit_vq").trainable
    with pytest.raises(UserError, match="the tokenizer 'maskgit_vq' has no training, only published weights"):
        build_trainable_tokenizer(MaskGITVQConfig(**toy.MASKGIT_VQ))
