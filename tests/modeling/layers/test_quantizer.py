"""The quantizer: the published numbers, and what clustering does to the codebook."""

import torch
from torch import nn

from modeling.layers.quantizer import VectorQuantizer
from tests.parity.deterministic import normal
from tests.support.parity import assert_close


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


def test_clustering_revives_dead_codes():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(64, 4, clustering=True).train()
    nn.init.normal_(quantizer.embedding.weight, std=20)
    latents = torch.randn(8, 4, 1, 64)
    used = []
    for _ in range(20):
        used.append(quantizer(latents)[2].unique().numel())
        quantizer.update_codebook()
    assert used[0] < 16
    assert used[-1] > 40


def test_clustering_of_micro_batches_equals_that_of_the_whole_batch():
    latents = torch.randn(8, 4, 1, 16)
    results = []
    for parts in (latents.split(8), latents.split(2)):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(32, 4, clustering=True).train()
        for part in parts:
            quantizer(part)
        quantizer.update_codebook()
        results.append(quantizer.state_dict())
    assert all(torch.equal(v, results[1][k]) for k, v in results[0].items())
