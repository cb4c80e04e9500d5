"""The quantizer with and without l2 normalization against the published code (tests/parity/README.md)."""

import pytest
import torch
from torch import Tensor, nn

from modeling.layers.quantizer import VectorQuantizer
from tests.parity.deterministic import normal
from tests.support.parity import assert_close


def quantizer(l2_normalized: bool, commitment_cost: float = 0.25) -> VectorQuantizer:
    model = VectorQuantizer(16, 4, l2_normalized=l2_normalized, commitment_cost=commitment_cost)
    model.embedding.weight = nn.Parameter(torch.from_numpy(normal("titok-vq-codebook", (16, 4))))
    return model


def latents() -> Tensor:
    return torch.from_numpy(normal("titok-vq-latents", (2, 4, 1, 24))).requires_grad_()


@pytest.mark.parametrize(("kind", "l2_normalized"), [("plain", False), ("l2", True)])
def test_codes_loss_and_gradients_match(kind, l2_normalized, parity):
    expected = parity("titok_quantizer")
    model, z = quantizer(l2_normalized), latents()
    quantized, loss, codes = model(z)
    (loss + (quantized * torch.from_numpy(normal("titok-vq-grad", z.shape))).sum()).backward()
    assert (codes.numpy() == expected[f"codes_{kind}"]).all()
    assert torch.equal(model.assign(z), codes)
    assert_close(quantized.detach(), expected[f"quantized_{kind}"], 1e-5)
    assert_close(model.lookup(codes).detach(), expected[f"quantized_{kind}"], 1e-5)
    assert_close(loss.detach(), expected[f"loss_{kind}"], 1e-5)
    assert_close(z.grad, expected[f"grad_z_{kind}"], 1e-5)
    assert_close(model.embedding.weight.grad, expected[f"grad_codebook_{kind}"], 1e-5)


@pytest.mark.parametrize(("kind", "l2_normalized"), [("plain", False), ("l2", True)])
def test_the_parts_of_the_loss_match(kind, l2_normalized, parity):
    expected = parity("titok_quantizer")
    codebook = quantizer(l2_normalized, commitment_cost=0.0)(latents())[1].detach()
    both = quantizer(l2_normalized)(latents())[1].detach()
    assert_close(codebook, expected[f"codebook_loss_{kind}"], 1e-5)
    assert_close(both - codebook, expected[f"commitment_loss_{kind}"], 1e-5)
