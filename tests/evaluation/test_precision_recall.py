import numpy as np
import pytest
import torch

from evaluation import precision_recall as module
from evaluation.precision_recall import members, precision_recall, squared_radii
from tests.support.adm import reference_activations, sample_activations


def squared(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.double()[:, None] - y.double()[None]).square().sum(-1)


def points(n: int, seed: int) -> torch.Tensor:
    """Few dimensions within many, norms that differ widely, copies, and a lump of copies."""
    torch.manual_seed(seed)
    x = torch.randn(n, 6) @ torch.randn(6, 96, generator=torch.Generator().manual_seed(0)) + 0.1 * torch.randn(n, 96)
    x *= torch.rand(n, 1).square() * 3
    x[5] = x[n - 3]
    x[7] = 0
    x[10 : n : n // 7] = x[0]
    return x


def test_precision_and_recall_are_adms(parity):
    expected = parity("adm_metrics")
    precision, recall = precision_recall(reference_activations()[0], sample_activations()[0])
    assert abs(precision - float(expected["precision"])) <= 3 / 2400
    assert abs(recall - float(expected["recall"])) <= 5 / 2600


@pytest.mark.parametrize("size", [3, 10, 5000])
def test_any_block_size_gives_the_definition(monkeypatch, size):
    rng = np.random.default_rng(0)
    r, s = rng.standard_normal((47, 5)), rng.standard_normal((38, 5)) * 1.3
    x, y = (torch.from_numpy(z).half() for z in (r, s))
    radius_x, radius_y = squared(x, x).sort(1).values[:, 3], squared(y, y).sort(1).values[:, 3]
    expected = (
        float((squared(x, y) <= radius_x[:, None]).any(0).double().mean()),
        float((squared(x, y) <= radius_y).any(1).double().mean()),
    )
    monkeypatch.setitem(module.BLOCK, "cpu", size)
    assert precision_recall(r, s) == pytest.approx(expected, abs=1e-6)


def test_radii_reach_the_third_neighbour(monkeypatch):
    monkeypatch.setitem(module.BLOCK, "cpu", 60)
    x = points(500, 1)
    expected = squared(x, x).fill_diagonal_(torch.inf).sort(1).values[:, 2]
    torch.testing.assert_close(squared_radii(x, 3).double(), expected, rtol=1e-5, atol=1e-4)


def test_members_are_those_of_exact_distances(monkeypatch):
    monkeypatch.setitem(module.BLOCK, "cpu", 60)
    x, y = points(430, 1), points(350, 2)
    radii_x, radii_y = (squared_radii(z, 3) for z in (x, y))
    x_inside, y_inside = members(x, radii_x, y, radii_y)
    distances = squared(x, y)
    assert torch.equal(y_inside, (distances <= radii_x.double()[:, None]).any(0))
    assert torch.equal(x_inside, (distances <= radii_y.double()).any(1))
    assert 0.05 < x_inside.float().mean() < 0.95
    assert 0.05 < y_inside.float().mean() < 0.95


def test_nearly_equal_samples_far_from_the_references():
    """Collapsed samples: none of the references is covered, and precision is 0 or 1."""
    torch.manual_seed(0)
    references = torch.randn(200, 64)
    assert precision_recall(references, references.mean(0) + 0.001 * torch.randn(150, 64)) == (1, 0)
    assert precision_recall(references, 50 + 0.001 * torch.randn(150, 64)) == (0, 0)
    assert precision_recall(references, references) == (1, 1)
