"""Weights to start from: all of a tokenizer, a generator with the same or with other classes."""

import pytest
import torch

from modeling.interfaces import Generator
from modeling.start import start_generator, start_tokenizer
from tests.support import toy
from tests.support.toy.maskgit import masked_generator
from tests.support.toy.rar import random_codes, rar_generator
from utils.errors import UserError
from utils.weights import export_weights

MODELS = {
    "alitok": toy.generator,
    "rar": rar_generator,
    "ViT": lambda **changes: masked_generator("ViT", **changes),
    "UViT": lambda **changes: masked_generator("UViT", **changes),
}
NEW_CLASSES = 9


def losses(model: Generator, class_id: int) -> float:
    """The validation loss of some codes with one class."""
    codes = random_codes(6)
    noise = torch.rand(6, model.loss_noise, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.loss(codes, torch.full((6,), class_id), None, noise).value.item()


@pytest.mark.parametrize("family", MODELS)
def test_new_classes_start_as_no_class(family, tmp_path):
    """Every other weight is that of the file, so the loss of each new class is that of "no class"."""
    source = MODELS[family]()
    file = export_weights(tmp_path, source.state_dict())[1]
    model = MODELS[family](condition_num_classes=NEW_CLASSES)
    start_generator(model, file, new_classes=True)
    expected = losses(source, toy.NUM_CLASSES)
    assert abs(losses(source, 0) - expected) > 1e-3
    for class_id in (0, 5, NEW_CLASSES):
        assert losses(model, class_id) == pytest.approx(expected, rel=1e-6)
    own, given = model.state_dict(), source.state_dict()
    for key in own.keys() - {*model.class_tables}:
        assert torch.equal(own[key], given[key]), key


@pytest.mark.parametrize("family", MODELS)
def test_the_same_classes_keep_their_rows(family, tmp_path):
    source = MODELS[family]()
    file = export_weights(tmp_path, source.state_dict())[1]
    model = MODELS[family]()
    torch.nn.init.zeros_(next(model.parameters()))
    start_generator(model, file)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def test_other_numbers_of_classes_must_be_asked_for(tmp_path):
    file = export_weights(tmp_path, {f"module.{k}": v for k, v in toy.generator().state_dict().items()})[1]
    model = toy.generator(condition_num_classes=NEW_CLASSES)
    with pytest.raises(UserError, match=r"has 4 classes, model\.generator 9: set experiment\.new_classes=true"):
        start_generator(model, file)
    start_generator(model, file, new_classes=True)  # the names without "module."


def test_other_sizes_are_refused(tmp_path):
    file = export_weights(tmp_path, toy.generator().state_dict())[1]
    model = toy.generator(condition_num_classes=NEW_CLASSES, hidden_size=64)
    with pytest.raises(UserError, match="does not match the configuration; shapes differ"):
        start_generator(model, file, new_classes=True)


def test_a_tokenizer_with_its_decoder(tmp_path):
    source, model = toy.tokenizer(), toy.tokenizer()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    file = export_weights(tmp_path, source.state_dict())[1]
    same = {}
    for decoder in (False, True):
        start_tokenizer(model, file, decoder)
        own, given = model.state_dict(), source.state_dict()
        same[decoder] = {key for key in own if torch.equal(own[key], given[key])}
    assert any(key.startswith("encoder.") for key in same[False])
    assert not any(key.startswith("decoder.") and key.endswith("weight") for key in same[False])
    assert same[True] == source.state_dict().keys()
    with pytest.raises(UserError, match=r"a stage-1 AliTok with a prefix head .*decoder\.prefix_head=false"):
        start_tokenizer(model, export_weights(tmp_path, toy.tokenizer(1).state_dict())[1], decoder=True)
