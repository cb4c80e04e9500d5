"""AliTok's training while quantization grows."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from modeling.alitok.tokenizer import AliTok
from modeling.build import load_tokenizer, tokenizer_fingerprint
from tests.support import toy
from utils.weights import export_weights

IMAGES = torch.rand(4, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE, generator=torch.Generator().manual_seed(0))


def training_tokenizer(steps: int) -> AliTok:
    tokenizer = toy.tokenizer(1, init_std=0.2, quantizer_start_steps=steps).train()
    tokenizer.begin_step(SimpleNamespace(clustering=False))
    return tokenizer


@torch.no_grad()
def decoded_without_codes(tokenizer: AliTok) -> torch.Tensor:
    return tokenizer.decoder(tokenizer.encoder(IMAGES, tokenizer.latent_tokens))[0]


def test_the_first_step_is_not_quantized():
    tokenizer = training_tokenizer(100)
    output = tokenizer(IMAGES)
    torch.testing.assert_close(output.reconstruction, decoded_without_codes(tokenizer))
    assert output.losses["quantizer"].weight == 0
    assert (output.reconstruction - training_tokenizer(0)(IMAGES).reconstruction).abs().max() > 1e-3


def test_in_between_latents_are_partly_quantized():
    tokenizer = training_tokenizer(100)
    tokenizer.quantizer_start.strength.fill_(0.25)
    seen = []
    tokenizer.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    output = tokenizer(IMAGES)
    with torch.no_grad():
        z = tokenizer.encoder(IMAGES, tokenizer.latent_tokens)
        q = tokenizer.quantize.lookup(tokenizer.quantize.assign(z))
    torch.testing.assert_close(seen[0], 0.75 * z + 0.25 * q)
    assert output.losses["quantizer"].weight == pytest.approx(0.25)


def test_at_full_strength_it_is_the_published_training():
    started, published = training_tokenizer(1), training_tokenizer(0)
    started(IMAGES)
    started.before_update()
    outputs = [tokenizer(IMAGES) for tokenizer in (started, published)]
    for output in outputs:
        sum(term.weight * term.value for term in output.losses.values()).backward()
    torch.testing.assert_close(outputs[0].reconstruction, outputs[1].reconstruction)
    gradients = [dict(t.named_parameters())["encoder.conv_out.weight"].grad for t in (started, published)]
    torch.testing.assert_close(*gradients)


def test_codes_and_images_are_quantized_from_the_first_step():
    started, published = training_tokenizer(100).eval(), training_tokenizer(0).eval()
    codes = started.encode(IMAGES)
    assert torch.equal(codes, published.encode(IMAGES))
    assert torch.equal(started.decode(codes), published.decode(codes))


def test_a_frozen_encoder_has_no_start():
    """Stage 2, which inherits the option from its base file."""
    tokenizer = training_tokenizer(100)
    tokenizer.quantize.requires_grad_(False)
    tokenizer.encoder.requires_grad_(False)
    tokenizer.latent_tokens.requires_grad_(False)
    output = tokenizer(IMAGES)
    assert torch.equal(output.reconstruction, tokenizer.eval()(IMAGES).reconstruction)
    assert "quantizer" not in output.losses


def test_exported_weights_load(tmp_path):
    """They lack what only the beginning of a training needs."""
    tokenizer = training_tokenizer(100)
    state = {k: v for k, v in tokenizer.state_dict().items() if k not in tokenizer.optional_keys}
    export_weights(tmp_path, state)
    loaded = load_tokenizer(tokenizer.config, tmp_path / "model.safetensors", "cpu")
    assert torch.equal(loaded.encode(IMAGES), tokenizer.eval().encode(IMAGES))


def test_the_fingerprint_is_of_the_weights_alone(tmp_path):
    """A token cache and a generator's training may read one file under configurations with other starts."""
    tokenizer = training_tokenizer(100)
    export_weights(tmp_path, tokenizer.state_dict())
    configs = [replace(tokenizer.config, quantizer_start_steps=steps) for steps in (0, 100)]
    loaded = [load_tokenizer(config, tmp_path / "model.safetensors", "cpu") for config in configs]
    assert tokenizer_fingerprint(loaded[0]) == tokenizer_fingerprint(loaded[1]) == tokenizer_fingerprint(tokenizer)
    loaded[0].encoder.conv_out.bias[0] += 1e-6
    assert tokenizer_fingerprint(loaded[0]) != tokenizer_fingerprint(tokenizer)
