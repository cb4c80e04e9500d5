"""A training's folder keeps the tokenizer that its generator was trained with."""

import torch

from modeling.build import load_tokenizer
from modeling.configs import read_tokenizer_config
from sampling.pretrained_folder import TOKENIZER_FILE, keep_tokenizer
from tests.support import toy
from utils.weights import export_weights, read_state_dict


def test_the_tokenizer_is_linked_or_converted_and_replaced(tmp_path):
    first, second = toy.tokenizer().state_dict(), toy.tokenizer(init_std=0.5).state_dict()
    published, own = export_weights(tmp_path / "first", first)
    kept = tmp_path / "run" / TOKENIZER_FILE
    keep_tokenizer(own, kept.parent)
    assert kept.samefile(own)  # no second copy on the same file system
    keep_tokenizer(own, kept.parent)
    assert kept.samefile(own)
    keep_tokenizer(published, kept.parent)
    assert all(torch.equal(value, first[name]) for name, value in read_state_dict(kept).items())
    keep_tokenizer(export_weights(tmp_path / "second", second)[1], kept.parent)
    assert all(torch.equal(value, second[name]) for name, value in read_state_dict(kept).items())
    assert [path.name for path in kept.parent.iterdir()] == [TOKENIZER_FILE]


def test_a_missing_tokenizer_is_no_error(tmp_path):
    keep_tokenizer(tmp_path / "none.safetensors", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_trained_tokenizer_does_not_change_what_was_kept(tmp_path):
    """An export replaces its file, so a link to the older file keeps the older weights."""
    old, new = toy.tokenizer().state_dict(), toy.tokenizer(init_std=0.5).state_dict()
    source = export_weights(tmp_path / "tokenizer", old)[1]
    keep_tokenizer(source, tmp_path / "run")
    export_weights(tmp_path / "tokenizer", new)
    kept = read_state_dict(tmp_path / "run" / TOKENIZER_FILE)
    assert all(torch.equal(value, old[name]) for name, value in kept.items())


def test_the_folder_of_a_generator_with_its_tokenizer_names_the_tokenizer(pretrained, tmp_path):
    expected = read_state_dict(pretrained / "hub" / TOKENIZER_FILE)
    keep_tokenizer(pretrained / "hub", tmp_path)
    kept = read_state_dict(tmp_path / TOKENIZER_FILE)
    loaded = load_tokenizer(read_tokenizer_config(pretrained / "hub"), pretrained / "hub").state_dict()
    for state in (kept, loaded):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], value) for key, value in expected.items())
