"""What must hold of the tokenizer whatever its weights."""

import pytest
import torch
from torch import nn

from modeling.alitok.tokenizer import AliTokConfig
from modeling.build import build_tokenizer
from modeling.interfaces import Generator, Tokenizer
from modeling.layers.quantizer import VectorQuantizer
from tests.support import toy
from utils.errors import UserError


def patch_changes(model, code: int) -> torch.Tensor:
    """Largest change of each patch, in raster order, when one code is replaced: (N,)."""
    codes = torch.randint(0, model.codebook_size, (1, model.num_codes))
    other = codes.clone()
    other[0, code] = (other[0, code] + 1) % model.codebook_size
    change = (model.decode(codes) - model.decode(other)).abs()
    patches = change.unfold(2, model.patch_size, model.patch_size).unfold(3, model.patch_size, model.patch_size)
    return patches.amax((0, 1, 4, 5)).flatten()


def strong(model: nn.Module) -> nn.Module:
    """Weights large enough that every allowed dependence shows."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def test_causal_decoder_never_looks_ahead():
    model = strong(toy.tokenizer(stage=1))
    for image_code in range(model.grid_size**2):
        changes = patch_changes(model, model.num_prefix_tokens + image_code)
        assert (changes[:image_code] == 0).all()
        assert (changes[image_code:] > 0).all()
    for prefix_code in range(model.num_prefix_tokens):
        assert (patch_changes(model, prefix_code) > 0).all()


@torch.no_grad()
def test_bidirectional_decoder_looks_everywhere():
    model = strong(toy.tokenizer(stage=2))
    for code in range(model.num_codes):
        assert (patch_changes(model, code) > 0).all()


def test_prefix_image_and_its_target():
    model = toy.tokenizer(stage=1)
    images = torch.rand(2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    p = toy.PATCH_SIZE
    target = model.prefix_target(images)
    assert target.shape == model(images).prefix_image.shape == (2, 3, p, 3 * p)
    assert torch.equal(target[..., :p], images[:, :, :p, :p])
    assert torch.equal(target[..., p:], images[:, :, :p])


def test_encode_equals_forward_and_leaves_the_codebook_alone():
    model = toy.tokenizer(stage=1).train()
    model.quantize.clustering = True
    images = torch.rand(4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    before = model.quantize.embedding.weight.clone()
    codes = model.encode(images)
    assert torch.equal(model.quantize.embedding.weight, before)
    model.quantize.update_codebook()
    assert torch.equal(model.quantize.embedding.weight, before)  # nothing was collected
    assert torch.equal(model(images).codes, codes)
    model.quantize.update_codebook()
    assert not torch.equal(model.quantize.embedding.weight, before)  # forward collects, the update clusters


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


def test_clustering_of_micro_batches_is_that_of_the_whole():
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


def test_activation_checkpointing_changes_no_gradient():
    images = torch.rand(2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    gradients = []
    for recompute in (False, True):
        model = toy.tokenizer(stage=1).train()
        model.encoder.activation_checkpointing = model.decoder.activation_checkpointing = recompute
        model(images).reconstruction.square().mean().backward()
        gradients.append([p.grad for p in model.encoder.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_codes_decide_the_picture():
    model = toy.tokenizer()
    images = torch.rand(2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    out = model(images)
    assert torch.allclose(model.decode(out.codes), out.reconstruction, atol=1e-6)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"num_latent_tokens is 272.*273.*256"):
        build_tokenizer(AliTokConfig(num_latent_tokens=272))
    with pytest.raises(UserError, match="multiple of patch_size"):
        build_tokenizer(AliTokConfig(image_size=250))


def test_interfaces_are_met():
    assert isinstance(toy.tokenizer(), Tokenizer)
    assert isinstance(toy.generator(), Generator)
