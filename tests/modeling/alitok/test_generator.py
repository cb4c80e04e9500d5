"""What must hold of the generator whatever its weights."""

import numpy as np
import pytest
import torch

from modeling.alitok.generator import AliTokGenerator, GeneratorConfig
from sampling.autoregressive import SamplingSettings, image_noise, sample_codes
from tests.support import toy


@torch.no_grad()
def test_cached_decoding_equals_the_full_forward():
    model = toy.generator()
    codes = torch.randint(0, toy.CODEBOOK_SIZE, (3, toy.NUM_CODES))
    classes = torch.tensor([0, 3, model.num_classes])
    full = model(codes[:, :-1], classes)
    state = model.start(classes)
    for t in range(toy.NUM_CODES):
        logits = model.step(state, None if t == 0 else codes[:, t - 1])
        torch.testing.assert_close(logits, full[:, t], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_logits_depend_on_the_past_only():
    model = toy.generator()
    codes = torch.randint(0, toy.CODEBOOK_SIZE, (1, toy.NUM_CODES))
    classes = torch.tensor([1])
    before = model(codes, classes)
    for j in range(toy.NUM_CODES):
        other = codes.clone()
        other[0, j] = (other[0, j] + 1) % toy.CODEBOOK_SIZE
        changed = (model(other, classes) - before).abs().amax(-1)[0]
        assert (changed[: j + 1] == 0).all()
        assert (changed[j + 1 :] > 0).all()


@torch.no_grad()
def test_reversed_order_predicts_from_the_last_code_to_the_first():
    """Codes enter `loss` and leave the sampler in the tokenizer's order; each keeps its position in the image."""
    forward, model = toy.generator(), toy.generator(code_order="reversed")
    model.load_state_dict(forward.state_dict())
    torch.testing.assert_close(model.rope[1:], forward.rope[1:].flip(0))
    assert (model.rope[0] == 0).all()
    codes, classes = torch.randint(0, toy.CODEBOOK_SIZE, (3, toy.NUM_CODES)), torch.tensor([0, 3, 1])
    state, nats = model.start(classes), 0
    for t in reversed(range(toy.NUM_CODES)):
        logits = model.step(state, None if t == toy.NUM_CODES - 1 else codes[:, t + 1])
        nats = nats + torch.nn.functional.cross_entropy(logits, codes[:, t]) / toy.NUM_CODES
    torch.testing.assert_close(model.loss(codes, classes)[0], nats)
    assert abs(nats - forward.loss(codes, classes)[0]) > 1e-3
    # At temperature 0 each code drawn is the most likely one, given the codes after it.
    settings = SamplingSettings(temperature=0.0)
    drawn = sample_codes(model, classes, image_noise(0, range(3), model.num_codes), settings)
    assert model.loss(drawn, classes)[1] == 1
    with pytest.raises(ValueError, match="code_order 'random' is not one of"):
        toy.generator(code_order="random")


def test_class_dropout_uses_the_no_class_row():
    model = toy.generator(class_label_dropout=1.0, dropout=0.0, attn_drop=0.0, tok_dropout=0.0)
    codes = torch.randint(0, toy.CODEBOOK_SIZE, (2, toy.NUM_CODES))
    dropped = model.train()(codes, torch.tensor([0, 1]))
    without = model.eval()(codes, torch.tensor([model.num_classes] * 2))
    torch.testing.assert_close(dropped, without)


def test_activation_checkpointing_changes_no_gradient():
    grads = []
    for use_checkpoint in (False, True):
        model = toy.generator(use_checkpoint=use_checkpoint).train()
        torch.manual_seed(1)
        codes = torch.randint(0, toy.CODEBOOK_SIZE, (2, toy.NUM_CODES))
        model.loss(codes, torch.tensor([0, 1]))[0].backward()
        grads.append(model.embeddings.weight.grad)
    torch.testing.assert_close(*grads)


def test_initial_loss_is_that_of_a_uniform_guess():
    torch.manual_seed(0)
    model = AliTokGenerator(
        GeneratorConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_seq_len=7, codebook_size=50)
    )
    loss, _ = model.loss(torch.randint(0, 50, (2, 7)), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(np.log(50), abs=1e-5)
