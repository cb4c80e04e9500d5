"""The tokenizer against numbers of the published code (tests/parity/README.md)."""

import json

import pytest
import torch

from modeling.alitok.tokenizer import AliTok, AliTokConfig, DecoderConfig
from modeling.layers.quantizer import VectorQuantizer
from tests.conftest import PARITY, assert_close
from tests.parity.deterministic import fill, image, integers, normal
from train_tokenizer.discriminator import Discriminator

KEYS = json.loads((PARITY / "state_dict_keys.json").read_text())["state_dicts"]
PIXELS = integers("parity-pixels", (4096,), 3 * 256 * 256)


def shapes(model) -> dict:
    return {k: list(v.shape) for k, v in model.state_dict().items()}


def stage1_config() -> AliTokConfig:
    return AliTokConfig(decoder=DecoderConfig(1024, 24, 16, causal=True, num_learned_tokens=1, prefix_head=True))


def filled(config: AliTokConfig) -> AliTok:
    with torch.device("meta"):  # initialising 390M parameters, only to overwrite them, takes long
        model = AliTok(config)
    model.to_empty(device="cpu").eval()
    fill(model)
    return model


@pytest.fixture(scope="module")
def stage2():
    return filled(AliTokConfig())


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(image("parity-image", 256, 2))


def test_keys_shapes_and_parameter_counts(stage2):
    assert shapes(stage2) == KEYS["stage2_training"]
    final = {k: v for k, v in shapes(stage2).items() if k != "quantize.embed_prob"}
    assert final == KEYS["AliTok.pth"]
    assert sum(p.numel() for p in stage2.parameters()) == 389_899_308
    assert sum(p.numel() for p in stage2.encoder.parameters()) == 86_079_008
    assert sum(p.numel() for p in stage2.decoder.parameters()) == 303_479_564
    with torch.device("meta"):
        assert shapes(AliTok(stage1_config())) == KEYS["stage1"]


@torch.no_grad()
def test_stage2_matches_the_published_model(stage2, images, parity):
    expected = parity("tokenizer_stage2")
    assert_close(stage2.encoder(images, stage2.latent_tokens), expected["z"])
    out = stage2(images)
    assert (out.codes.numpy() == expected["codes"]).all()
    assert (stage2.encode(images).numpy() == expected["codes"]).all()
    assert_close(out.quantizer_loss, expected["quantizer_loss"])
    assert_close(out.reconstruction[0].flatten()[PIXELS], expected["reconstruction_pixels"])
    decoded = stage2.decode(torch.from_numpy(integers("parity-codes", (1, 273), 4096)))
    assert_close(decoded.flatten()[PIXELS], expected["decoded_pixels"])
    assert_close(decoded[0].mean((1, 2)), expected["decoded_mean"].reshape(-1))
    assert_close(decoded[0].std((1, 2)), expected["decoded_std"].reshape(-1))


@torch.no_grad()
def test_stage1_matches_the_published_model(images, parity):
    expected = parity("tokenizer_stage1")
    out = filled(stage1_config())(images[:1])
    assert (out.codes.numpy() == expected["codes"]).all()
    assert_close(out.reconstruction.flatten()[PIXELS], expected["reconstruction_pixels"])
    assert out.prefix_image.shape == (1, 3, 16, 272)
    aux_pixels = integers("parity-aux-pixels", (1024,), 3 * 16 * 272)
    assert_close(out.prefix_image.flatten()[aux_pixels], expected["aux_pixels"])
    assert_close(out.quantizer_loss, expected["quantizer_loss"])


def test_quantizer_and_clustering_match(parity):
    expected = parity("quantizer_clustering")
    quantizer = VectorQuantizer(16, 4, clustering=True).train()
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.from_numpy(normal("vq-codebook", (16, 4))))
    for s in range(3):
        z = torch.from_numpy(normal(f"vq-latents-{s}", (2, 4, 1, 24))).requires_grad_()
        quantized, loss, codes = quantizer(z)
        (loss + (quantized * torch.from_numpy(normal(f"vq-grad-{s}", (2, 4, 1, 24)))).sum()).backward()
        quantizer.update_codebook()
        assert (codes.flatten().numpy() == expected[f"indices_{s}"]).all()
        assert_close(loss.detach(), expected[f"loss_{s}"], 1e-5)
        assert_close(quantized.detach(), expected[f"quantized_{s}"], 1e-5)
        assert_close(quantizer.embedding.weight.detach(), expected[f"codebook_{s}"], 1e-5)
        assert_close(quantizer.embed_prob, expected[f"embed_prob_{s}"], 1e-5)
        assert_close(z.grad, expected[f"grad_z_{s}"], 1e-5)


@torch.no_grad()
def test_discriminator_matches(parity):
    expected = parity("discriminator")
    model = Discriminator().eval()
    assert shapes(model) == KEYS["discriminator"]
    assert sum(p.numel() for p in model.parameters()) == 1_909_889
    fill(model)
    assert_close(model(torch.from_numpy(image("disc-image", 256))), expected["logits"])
    assert_close(model(torch.from_numpy(image("disc-image-small", 36))), expected["logits_small"])
