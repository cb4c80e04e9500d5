"""The rotary table against its formula."""

import numpy as np

from modeling.layers.rope import rotary_table


def test_rotary_table():
    a, g, width = 17, 16, 48
    table = rotary_table(a, g, width)
    assert table.shape == (1 + a + g * g, width // 2, 2)
    assert (table[0] == 0).all()
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    np.testing.assert_allclose(table[1 + 5, :, 0], np.cos(5 * frequencies), atol=1e-6)
    half = 10000.0 ** (-np.arange(0, width // 2, 2) / (width // 2))
    row, column = 3, 11
    angles = np.concatenate([(a + row) * half, (a + column) * half])
    np.testing.assert_allclose(table[1 + a + row * g + column, :, 1], np.sin(angles), atol=1e-5)
