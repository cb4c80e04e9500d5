"""Near points found through rounded products are those of exact distances."""

import pytest
import torch

from evaluation import neighbours


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def rounded(request, monkeypatch):
    monkeypatch.setattr(neighbours, "can_pack", lambda dtype: request.param)
    monkeypatch.setitem(neighbours.BLOCK, "cpu", 60)


def points(n: int, seed: int) -> torch.Tensor:
    """Of few dimensions within many, with norms that differ widely, copies, and a lump of copies."""
    torch.manual_seed(seed)
    x = torch.randn(n, 6) @ torch.randn(6, 96, generator=torch.Generator().manual_seed(0)) + 0.1 * torch.randn(n, 96)
    x *= torch.rand(n, 1).square() * 3
    x[5] = x[n - 3]
    x[10 : n : n // 7] = x[0]
    return x


def squared(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.double()[:, None] - y.double()[None]).square().sum(-1)


def test_radii(rounded):
    x = points(500, 1)
    distances = squared(x, x).fill_diagonal_(torch.inf)
    radii = torch.cat(neighbours.squared_radii(neighbours.in_blocks(x), 3))
    torch.testing.assert_close(radii.double(), distances.sort(1).values[:, 2], rtol=1e-5, atol=1e-9)


def test_membership(rounded):
    x, y = points(430, 1), points(350, 2)
    blocks = [neighbours.in_blocks(z) for z in (x, y)]
    radii = [neighbours.squared_radii(b, 3) for b in blocks]
    in_x, in_y = neighbours.inside(blocks[0], radii[0], blocks[1], radii[1])
    distances = squared(x, y)
    of_x, of_y = (torch.cat(r).double() for r in radii)
    assert torch.equal(in_x, (distances <= of_x[:, None]).any(0))
    assert torch.equal(in_y, (distances <= of_y).any(1))
    assert 0.05 < in_x.float().mean() < 0.95 and 0.05 < in_y.float().mean() < 0.95


def test_few_pairs_are_left_open(rounded):
    """Else it would be slow: of 60 x 60 pairs hardly more than those within reach."""
    torch.manual_seed(0)
    a, b = (neighbours.Points.of(torch.randn(60, 512)) for _ in range(2))
    distances = squared(a.exact, b.exact)
    reach = distances.flatten().kthvalue(100).values.float() * (1 + 1e-5)
    found = neighbours.near_pairs(a, b, reach.expand(60), reach.expand(60))
    assert 100 <= len(found[2]) < 400
    assert int((found[2] <= reach).sum()) == 100
