"""AliTok's third version: a prefix code for each patch of the first row, and a perceptual loss on that row."""

import math
from dataclasses import replace

import pytest
import torch

from modeling.alitok.tokenizer import AliTok
from modeling.interfaces import PerceptualPicture, TokenizerOutput
from modeling.layers.rope import rotary_table
from tests.modeling.alitok.test_tokenizer import patch_changes, strong
from tests.support import toy
from tests.support.paths import ROOT
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.loss import LossSettings, TokenizerLoss
from train_tokenizer.phases import Phase, PhaseSchedule
from utils.config import load_config

P, GRID = toy.PATCH_SIZE, toy.IMAGE_SIZE // toy.PATCH_SIZE
WEIGHT = 0.5


def version3(**changes) -> AliTok:
    return toy.tokenizer(stage=1, num_latent_tokens=GRID**2 + GRID, prefix_perceptual_weight=WEIGHT, **changes)


def images() -> torch.Tensor:
    return torch.rand(2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)


def test_shapes():
    model = version3()
    codes = model.encode(images())
    reconstruction, prefix_image = model.decoder(model.quantize.lookup(codes))
    assert model.layout.num_prefix == GRID
    assert codes.shape == (2, GRID + GRID**2)
    assert reconstruction.shape == (2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    assert prefix_image.shape == (2, 3, P, toy.IMAGE_SIZE)


def test_the_target_is_the_first_row():
    pictures = images()
    assert torch.equal(version3().prefix_target(pictures), pictures[:, :, :P])


@torch.no_grad()
def test_causal_decoder_never_looks_ahead():
    model = strong(version3())
    for image_code in range(GRID**2):
        changes = patch_changes(model, GRID + image_code)
        assert (changes[:image_code] == 0).all()
        assert (changes[image_code:] > 0).all()
    for prefix_code in range(GRID):
        assert (patch_changes(model, prefix_code) > 0).all()


@pytest.mark.parametrize("model", [version3(), toy.tokenizer(stage=1)], ids=["version 3", "released"])
def test_the_first_row_is_the_prefix_codes_and_the_rest_the_image_codes(model):
    reconstruction, prefix_image = model.decoder(model.quantize.lookup(model.encode(images())))
    picture = model.with_prefix_row(reconstruction, prefix_image)
    assert picture.shape == reconstruction.shape
    assert torch.equal(picture[:, :, :P], prefix_image[..., -toy.IMAGE_SIZE :])
    assert torch.equal(picture[:, :, P:], reconstruction[:, :, P:])


def test_gradients_of_the_prefix_picture_reach_the_prefix_codes_only():
    model = strong(version3())
    quantized = model.quantize.lookup(model.encode(images())).detach().requires_grad_()
    model.with_prefix_row(*model.decoder(quantized)).square().sum().backward()
    assert (quantized.grad[..., :GRID].abs().amax((0, 1)) > 0).all()
    assert (quantized.grad[..., GRID:] == 0).all()
    # The pictures themselves depend on all codes.
    quantized.grad = None
    model.decoder(quantized)[0].square().sum().backward()
    assert (quantized.grad.abs().amax((0, 1)) > 0).all()


def test_only_version_3_has_the_picture():
    assert version3()(images()).perceptual_pictures["prefix"].weight == WEIGHT
    assert toy.tokenizer(stage=1)(images()).perceptual_pictures == {}
    assert toy.tokenizer(stage=2, prefix_perceptual_weight=WEIGHT)(images()).perceptual_pictures == {}


def test_perceptual_losses_see_the_whole_picture():
    phase = Phase("both", 1, learning_rate=1.0, perceptual_weight=3.0, lpips_weight=2.0)
    settings = LossSettings(perceptual_model="test_convnext", random_weights=True)
    loss = TokenizerLoss(settings, PhaseSchedule([replace(phase, lpips_weight=0.0)], 1), torch.device("cpu"))
    loss.lpips = lambda one, two: (one - two).square().mean((1, 2, 3))  # VGG16 takes seconds to initialise
    real, reconstruction, picture = images(), images(), images().requires_grad_()
    extra = {"prefix": PerceptualPicture(picture, WEIGHT)}
    without = loss(real, TokenizerOutput({}, reconstruction), phase, None)
    values = loss(real, TokenizerOutput({}, reconstruction, extra), phase, None)
    alone = loss(real, TokenizerOutput({}, picture), phase, None)
    assert values["prefix_perceptual"] == alone["perceptual"]
    assert values["prefix_lpips"] == alone["lpips"]
    torch.testing.assert_close(values["loss"], without["loss"] + WEIGHT * alone["loss"])
    values["loss"].backward()
    assert (picture.grad != 0).any(dim=1).float().mean() > 0.9  # no row is left out


def test_rotary_table_of_272_codes():
    """Prefix codes turn by 0 .. 15, rows and columns of the grid by 16 .. 31."""
    config = load_config(TokenizerConfig, "", [f"config={ROOT}/configs/alitok_v3/tokenizer_stage1.yaml"])
    layout = config.model.vq_model.layout
    assert (layout.num_codes, layout.num_prefix, layout.grid) == (272, 16, (16, 16))
    table = rotary_table(layout, 48)

    def turned(angle: float) -> torch.Tensor:
        return torch.tensor([math.cos(angle), math.sin(angle)])

    assert table.shape == (273, 24, 2)
    torch.testing.assert_close(table[1, 0], turned(0))
    torch.testing.assert_close(table[16, 0], turned(15))
    for half in (0, 12):  # the fastest pair by row, by column
        torch.testing.assert_close(table[17, half], turned(16))
        torch.testing.assert_close(table[272, half], turned(31))
