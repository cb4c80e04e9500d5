"""What must hold of the tokenizer whatever its weights."""

import torch
from torch import nn

from tests.support import toy


def patch_changes(model, code: int) -> torch.Tensor:
    """Largest change of each patch, in raster order, when one code is replaced: (N,)."""
    codes = torch.randint(0, model.layout.codebook_size, (1, model.layout.num_codes))
    other = codes.clone()
    other[0, code] = (other[0, code] + 1) % model.layout.codebook_size
    change = (model.decode(codes) - model.decode(other)).abs()
    patches = change.unfold(2, toy.PATCH_SIZE, toy.PATCH_SIZE).unfold(3, toy.PATCH_SIZE, toy.PATCH_SIZE)
    return patches.amax((0, 1, 4, 5)).flatten()


def strong(model: nn.Module) -> nn.Module:
    """Large weights, so that every dependence is above rounding."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def test_causal_decoder_never_looks_ahead():
    model = strong(toy.tokenizer(stage=1))
    for image_code in range(model.layout.num_codes - model.layout.num_prefix):
        changes = patch_changes(model, model.layout.num_prefix + image_code)
        assert (changes[:image_code] == 0).all()
        assert (changes[image_code:] > 0).all()
    for prefix_code in range(model.layout.num_prefix):
        assert (patch_changes(model, prefix_code) > 0).all()


@torch.no_grad()
def test_bidirectional_decoder_looks_everywhere():
    model = strong(toy.tokenizer(stage=2))
    for code in range(model.layout.num_codes):
        assert (patch_changes(model, code) > 0).all()


def test_prefix_image_and_its_target():
    model = toy.tokenizer(stage=1)
    images = torch.rand(2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    p = toy.PATCH_SIZE
    target = model.prefix_target(images)
    prefix_image = model.decoder(model.quantize.lookup(model.encode(images)))[1]
    assert target.shape == prefix_image.shape == (2, 3, p, 3 * p)
    assert torch.equal(target[..., :p], images[:, :, :p, :p])
    assert torch.equal(target[..., p:], images[:, :, :p])


def test_encode_equals_forward_and_keeps_the_codebook():
    model = toy.tokenizer(stage=1).train()
    model.quantize.clustering = True
    images = torch.rand(4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    before = model.quantize.embedding.weight.clone()
    codes = model.encode(images)
    assert torch.equal(model.quantize.embedding.weight, before)
    model.quantize.update_codebook()
    assert torch.equal(model.quantize.embedding.weight, before)  # `encode` collects no latents
    assert torch.equal(model.quantize(model.encoder(images, model.latent_tokens))[2], codes)
    model.quantize.discard_collected()
    model(images)
    model.quantize.update_codebook()
    assert not torch.equal(model.quantize.embedding.weight, before)  # `forward` does, and the update clusters them


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
    assert torch.allclose(model.decode(model.encode(images)), model(images).reconstruction, atol=1e-6)


def test_own_losses_and_their_weights():
    """Stage 1: pixels, the prefix image by its share of the patches, quantizer. Stage 2, frozen: pixels."""
    images = torch.rand(2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    stage1, stage2 = toy.tokenizer(stage=1), toy.tokenizer(stage=2)
    losses = stage1(images).losses
    assert {name: term.weight for name, term in losses.items()} == {
        "reconstruction": 1.0,
        "prefix": 10.0 * 3 / 4,
        "quantizer": 1.0,
    }
    reconstruction = stage1(images).reconstruction
    torch.testing.assert_close(losses["reconstruction"].value, (reconstruction - images).square().mean())
    for name, parameter in stage2.named_parameters():
        parameter.requires_grad_(not name.startswith(stage2.code_keys))
    assert list(stage2(images).losses) == ["reconstruction"]
