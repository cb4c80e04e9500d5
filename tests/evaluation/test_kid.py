import numpy as np
import pytest
import torch

from evaluation.kid import kernel_distance, squared_mmd


def test_kid_is_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 8)), rng.standard_normal((25, 8)) + 0.5

    def k(a, b):
        return (a @ b / 8 + 1) ** 3

    within_x = np.mean([k(x[i], x[j]) for i in range(30) for j in range(30) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(25) for j in range(25) if i != j])
    expected = within_x + within_y - 2 * np.mean([k(a, b) for a in x for b in y])
    assert float(squared_mmd(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(expected)
    mean, std = kernel_distance(x, y, num_subsets=200, subset_size=20)
    assert std > 0
    assert mean == pytest.approx(expected, abs=4 * std / 200**0.5 + 1e-3)


def test_kid_is_unbiased():
    """About 0 for equal distributions."""
    rng = np.random.default_rng(0)
    mean, std = kernel_distance(rng.standard_normal((4000, 8)), rng.standard_normal((4000, 8)))
    assert abs(mean) < std
