"""The models satisfy the interfaces."""

from modeling.interfaces import Generator, Tokenizer
from tests.support import toy


def test_interfaces_are_met():
    assert isinstance(toy.tokenizer(), Tokenizer)
    assert isinstance(toy.generator(), Generator)
