"""The tokenizer against numbers of the published code (tests/parity/README.md)."""

import pytest
import torch

from modeling.alitok.settings import AliTokConfig, DecoderConfig
from modeling.alitok.tokenizer import AliTok
from tests.parity.deterministic import fill, image, integers
from tests.support.parity import assert_close, published_shapes, shapes

PIXELS = integers("parity-pixels", (4096,), 3 * 256 * 256)


def stage1_config() -> AliTokConfig:
    return AliTokConfig(decoder=DecoderConfig(1024, 24, 16, causal=True, num_learned_tokens=1, prefix_head=True))


def filled(config: AliTokConfig, with_decoder: bool = True) -> AliTok:
    with torch.device("meta"):  # initialising 390M parameters takes long, and `fill` overwrites them
        model = AliTok(config)
    if not with_decoder:
        del model.decoder
    model.to_empty(device="cpu").eval()
    fill(model)
    return model


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(image("parity-image", 256, 2))


def test_keys_shapes_and_parameter_counts():
    with torch.device("meta"):
        stage1, stage2 = AliTok(stage1_config()), AliTok(AliTokConfig())
    assert shapes(stage2) == published_shapes("stage2_training")
    final = {k: v for k, v in shapes(stage2).items() if k != "quantize.embed_prob"}
    assert final == published_shapes("AliTok.pth")
    assert sum(p.numel() for p in stage2.parameters()) == 389_899_308
    assert sum(p.numel() for p in stage2.encoder.parameters()) == 86_079_008
    assert sum(p.numel() for p in stage2.decoder.parameters()) == 303_479_564
    assert shapes(stage1) == published_shapes("stage1")


@torch.no_grad()
def test_stage2_encodes_like_the_published_model(images, parity):
    """Without the decoder, which has three quarters of the parameters."""
    expected = parity("tokenizer_stage2")
    encoder = filled(AliTokConfig(), with_decoder=False)
    assert_close(encoder.encoder(images, encoder.latent_tokens), expected["z"])
    assert (encoder.encode(images[:1]).numpy() == expected["codes"][:1]).all()


@pytest.mark.slow
@torch.no_grad()
def test_stage2_matches_the_published_model(images, parity):
    expected = parity("tokenizer_stage2")
    stage2 = filled(AliTokConfig())
    quantized, quantizer_loss, codes = stage2.quantize(stage2.encoder(images, stage2.latent_tokens))
    assert (codes.numpy() == expected["codes"]).all()
    assert_close(quantizer_loss, expected["quantizer_loss"])
    reconstruction, _ = stage2.decoder(quantized)
    assert_close(reconstruction[0].flatten()[PIXELS], expected["reconstruction_pixels"])
    decoded = stage2.decode(torch.from_numpy(integers("parity-codes", (1, 273), 4096)))
    assert_close(decoded.flatten()[PIXELS], expected["decoded_pixels"])
    assert_close(decoded[0].mean((1, 2)), expected["decoded_mean"].reshape(-1))
    assert_close(decoded[0].std((1, 2)), expected["decoded_std"].reshape(-1))


@pytest.mark.slow
@torch.no_grad()
def test_stage1_matches_the_published_model(images, parity):
    expected = parity("tokenizer_stage1")
    stage1 = filled(stage1_config())
    quantized, quantizer_loss, codes = stage1.quantize(stage1.encoder(images[:1], stage1.latent_tokens))
    assert (codes.numpy() == expected["codes"]).all()
    reconstruction, prefix_image = stage1.decoder(quantized)
    assert_close(reconstruction.flatten()[PIXELS], expected["reconstruction_pixels"])
    assert prefix_image.shape == (1, 3, 16, 272)
    aux_pixels = integers("parity-aux-pixels", (1024,), 3 * 16 * 272)
    assert_close(prefix_image.flatten()[aux_pixels], expected["aux_pixels"])
    assert_close(quantizer_loss, expected["quantizer_loss"])
