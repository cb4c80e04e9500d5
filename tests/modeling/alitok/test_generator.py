"""What must hold of the generator whatever its weights."""

import numpy as np
import pytest
import torch

from modeling.alitok.generator import AliTokGenerator, GeneratorConfig
from modeling.interfaces import CodeLayout
from sampling.noise import image_noise
from sampling.settings import SamplingSettings
from tests.support import toy
from tests.support.decoding import cached_logits, draw_codes


@torch.no_grad()
def test_cached_decoding_equals_the_full_forward():
    model = toy.generator()
    codes = torch.randint(0, toy.CODEBOOK_SIZE, (3, toy.NUM_CODES))
    classes = torch.tensor([0, 3, model.num_classes])
    full = model(codes[:, :-1], classes)
    for t, logits in enumerate(cached_logits(model, codes, classes)):
        torch.testing.assert_close(logits, full[:, t], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_is_filled_in_one_pass_or_code_by_code():
    model, codes, classes = toy.generator(), torch.randint(0, toy.CODEBOOK_SIZE, (2, 5)), torch.tensor([0, 1])
    one_by_one = list(cached_logits(model, codes, classes))
    cache = model.new_cache(classes)
    together = model(codes[:, :3], classes, cache)
    torch.testing.assert_close(together, torch.stack(one_by_one[:4], dim=1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(codes[:, 3:4], classes, cache)[:, 0], one_by_one[4], atol=1e-5, rtol=1e-5)


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


def places_in(order: str) -> list[int]:
    """The places of the codes in the order drawn."""
    if order == "shuffled":
        return toy.generator(code_order=order).order.tolist()
    return list(range(toy.NUM_CODES))[:: -1 if order == "reversed" else 1]


def test_shuffled_order_is_one_permutation():
    places = places_in("shuffled")
    assert sorted(places) == list(range(toy.NUM_CODES)) and places == places_in("shuffled")
    assert places == [4, 0, 5, 3, 2, 6, 1]  # no file holds it: another order would break trained weights


@torch.no_grad()
@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_other_orders_predict_each_code_from_those_before_it(order):
    """Codes enter `loss` and leave the sampler in the tokenizer's order; each keeps its position in the image."""
    forward, model, places = toy.generator(), toy.generator(code_order=order), places_in(order)
    model.load_state_dict(forward.state_dict())
    torch.testing.assert_close(model.rope[1:], forward.rope[1:][places])
    assert (model.rope[0] == 0).all()
    codes, classes = torch.randint(0, toy.CODEBOOK_SIZE, (3, toy.NUM_CODES)), torch.tensor([0, 3, 1])
    nats = 0
    for t, logits in zip(places, cached_logits(model, codes[:, places], classes), strict=True):
        nats = nats + torch.nn.functional.cross_entropy(logits, codes[:, t]) / toy.NUM_CODES
    torch.testing.assert_close(model.loss(codes, classes).value, nats)
    assert abs(nats - forward.loss(codes, classes).value) > 1e-3
    # At temperature 0 each code drawn is the most likely one, given the codes after it.
    settings = SamplingSettings(temperature=0.0)
    drawn = draw_codes(model, classes, image_noise(0, range(3), toy.NUM_CODES), settings)
    assert model.loss(drawn, classes).accuracy == 1


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
        model.loss(codes, torch.tensor([0, 1])).value.backward()
        grads.append(model.embeddings.weight.grad)
    torch.testing.assert_close(*grads)


def test_initial_loss_is_that_of_a_uniform_guess():
    torch.manual_seed(0)
    config = GeneratorConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    model = AliTokGenerator(config, CodeLayout(50, 7, 3, (2, 2)))
    loss = model.loss(torch.randint(0, 50, (2, 7)), torch.tensor([0, 1])).value
    assert loss.item() == pytest.approx(np.log(50), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("order", ["raster", "reversed", "shuffled"])
def test_hits_are_in_the_tokenizers_order(order):
    model = toy.generator(code_order=order)
    codes, classes = torch.randint(0, toy.CODEBOOK_SIZE, (99, toy.NUM_CODES)), torch.arange(99) % toy.NUM_CLASSES
    places = places_in(order)
    guesses = torch.empty_like(codes)
    guesses[:, places] = model(codes[:, places[:-1]], classes).argmax(-1)
    loss = model.loss(codes, classes)
    assert torch.equal(loss.hits, (guesses == codes).float())
    assert 0 < loss.accuracy == loss.hits.mean() < 1
