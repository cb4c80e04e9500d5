"""The rotary table against its formula."""

import numpy as np
import pytest
import torch

from modeling.interfaces import CodeLayout
from modeling.layers.rope import rotary_table, rotate, rotation_factors


def test_rotary_table():
    a, g, width = 17, 16, 48
    table = rotary_table(CodeLayout(4096, a + g * g, a, (g, g)), width)
    assert table.shape == (1 + a + g * g, width // 2, 2)
    assert (table[0] == 0).all()
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    np.testing.assert_allclose(table[1 + 5, :, 0], np.cos(5 * frequencies), atol=1e-6)
    half = 10000.0 ** (-np.arange(0, width // 2, 2) / (width // 2))
    row, column = 3, 11
    angles = np.concatenate([(a + row) * half, (a + column) * half])
    np.testing.assert_allclose(table[1 + a + row * g + column, :, 1], np.sin(angles), atol=1e-5)


def test_codes_on_a_line_have_one_dimension():
    """64 codes of a 1-D tokenizer are not an 8 x 8 grid."""
    width = 24
    table = rotary_table(CodeLayout(4096, 64), width)
    assert table.shape == (65, width // 2, 2)
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    np.testing.assert_allclose(table[1:, :, 0], np.cos(np.outer(np.arange(64), frequencies)), atol=1e-5)
    grid = rotary_table(CodeLayout(4096, 64, 0, (8, 8)), width)
    assert not np.allclose(grid, table)
    with pytest.raises(ValueError, match="head width 22 is not a multiple of 4"):
        rotary_table(CodeLayout(4096, 64, 0, (8, 8)), 22)


def test_rows_and_columns_may_differ():
    table = rotary_table(CodeLayout(16, 6, 0, (2, 3)), 8)
    place = 1 + 1 * 3 + 2  # row 1, column 2
    half = 10000.0 ** (-np.arange(0, 4, 2) / 4)
    np.testing.assert_allclose(table[place, :, 1], np.sin(np.concatenate([1 * half, 2 * half])), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_its_formula_bit_for_bit(dtype):
    a, g, width = 5, 4, 24
    table = rotary_table(CodeLayout(64, a + g * g, a, (g, g)), width)
    x = torch.randn(2, len(table), 3, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    first, second = x.float()[..., ::2], x.float()[..., 1::2]
    cos, sin = table[:, None].unbind(-1)
    expected = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).to(dtype)
    rotated = rotate(x, rotation_factors(table))
    assert rotated.dtype == dtype
    assert torch.equal(rotated, expected)
