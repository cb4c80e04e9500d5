"""Layouts of codes, and registries of families."""

import pytest

from modeling.interfaces import GENERATORS, TOKENIZERS, CodeLayout
from utils.errors import UserError


def test_a_layout_is_a_prefix_and_a_grid():
    assert CodeLayout(4096, 273, 17, (16, 16)).num_codes == 273
    assert CodeLayout(4096, 64).grid is None
    with pytest.raises(ValueError, match="64 codes are not 17 and a grid"):
        CodeLayout(4096, 64, 17, (8, 8))


def test_families_are_found_by_name():
    assert TOKENIZERS.settings_class("alitok").__name__ == "AliTokConfig"
    assert GENERATORS.part_class("alitok").decoding == "autoregressive"
    with pytest.raises(UserError, match=r"unknown generator 'alitk'; did you mean 'alitok'\? \(known: alitok, maskgit"):
        GENERATORS.part_class("alitk")
