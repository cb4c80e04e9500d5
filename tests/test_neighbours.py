"""Near points found through rounded products are those of exact distances."""

import pytest
import torch

from evaluation import neighbours


@pytest.fixture(params=[True, False], ids=["int8", "float32"])
def generator(request, monkeypatch):
    """Of the rounding's random numbers."""
    if request.param and not neighbours.multiplies_int8():
        pytest.skip("this CPU has no products of 8-bit integers")
    monkeypatch.setattr(neighbours, "multiplies_int8", lambda: request.param)
    monkeypatch.setitem(neighbours.BLOCK, "cpu", 60)
    return torch.Generator().manual_seed(0)


def points(n: int, seed: int) -> torch.Tensor:
    """Of few dimensions within many, with norms that differ widely, copies, and a lump of copies."""
    torch.manual_seed(seed)
    x = torch.randn(n, 6) @ torch.randn(6, 96, generator=torch.Generator().manual_seed(0)) + 0.1 * torch.randn(n, 96)
    x *= torch.rand(n, 1).square() * 3
    x[5] = x[n - 3]
    x[7] = 0
    x[10 : n : n // 7] = x[0]
    return x


def squared(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.double()[:, None] - y.double()[None]).square().sum(-1)


def test_radii(generator):
    x = points(500, 1)
    distances = squared(x, x).fill_diagonal_(torch.inf)
    radii = torch.cat(neighbours.squared_radii(neighbours.in_blocks(x, x.mean(0), generator), 3))
    torch.testing.assert_close(radii.double(), distances.sort(1).values[:, 2], rtol=1e-5, atol=1e-9)


def test_membership(generator):
    x, y = points(430, 1), points(350, 2)
    blocks = [neighbours.in_blocks(z, x.mean(0), generator) for z in (x, y)]
    radii = [neighbours.squared_radii(b, 3) for b in blocks]
    in_x, in_y = neighbours.inside(blocks[0], radii[0], blocks[1], radii[1])
    distances = squared(x, y)
    of_x, of_y = (torch.cat(r).double() for r in radii)
    assert torch.equal(in_x, (distances <= of_x[:, None]).any(0))
    assert torch.equal(in_y, (distances <= of_y).any(1))
    assert 0.05 < in_x.float().mean() < 0.95 and 0.05 < in_y.float().mean() < 0.95


def test_rounded_products_do_not_overestimate_distances(generator):
    """With flat points, points of one large coordinate, whose other ones are less than a step, and the origin."""
    torch.manual_seed(0)
    flat, spiked = torch.randn(600, 256), 0.1 * torch.rand(600, 256)
    spiked[:, 3] = 30
    flat[0] = spiked[0] = 0
    for x, y in ((flat, spiked), (spiked, flat), (flat.abs(), flat.abs().flip(0))):
        a, b = (neighbours.Points.of(z, generator) for z in (x, y))
        half, found = squared(x, y) / 2, neighbours._half_distances(a, b)
        allowed = 1e-5 * (half + a.half_squares[:, None] + b.half_squares)
        assert (found <= half + allowed).all()
        slack = neighbours.DEVIATION * (a.steps[:, None] * b.norms + a.norms[:, None] * b.steps)
        assert (found >= half - 2 * slack - allowed).all()


def test_few_pairs_are_left_open(generator, monkeypatch):
    """Else it would be slow: of 600 x 600 pairs hardly more than those within reach, by the first products alone."""
    torch.manual_seed(0)
    a, b = (neighbours.Points.of(torch.randn(600, 512), generator) for _ in range(2))
    distances = squared(a.exact, b.exact)
    reach = distances.flatten().kthvalue(300).values.float() * (1 + 1e-5)
    calls, products = [], neighbours._half_distances
    monkeypatch.setattr(neighbours, "_half_distances", lambda *points: calls.append(1) or products(*points))
    found = neighbours.near_pairs(a, b, reach.expand(600), reach.expand(600))
    assert len(calls) == 1
    assert 300 <= len(found[2]) < 1200
    assert int((found[2] <= reach).sum()) == 300


def test_copies_need_no_comparison(generator, monkeypatch):
    x = torch.randn(1, 96).expand(180, 96).contiguous()
    pairs, exact = [], neighbours._exact
    monkeypatch.setattr(neighbours, "_exact", lambda a, b, i, j: pairs.append(len(i)) or exact(a, b, i, j))
    radii = neighbours.squared_radii(neighbours.in_blocks(x, torch.zeros(96), generator), 3)
    assert not torch.cat(radii).any()
    assert sum(pairs) == 0


def test_collapsed_points_are_settled_by_few_pairs(generator, monkeypatch):
    """All y lie in nearly all balls of x: one pair tells that, not the 30,000 others."""
    x, y = points(430, 1), 0.01 * points(70, 2)
    blocks = [neighbours.in_blocks(z, x.mean(0), generator) for z in (x, y)]
    radii = [torch.full((len(b),), float(x.square().sum(1).max()) * 4) for b in blocks[0]]
    pairs, exact = [], neighbours._exact
    monkeypatch.setattr(neighbours, "_exact", lambda a, b, i, j: pairs.append(len(i)) or exact(a, b, i, j))
    in_x, in_y = neighbours.inside(blocks[0], radii, blocks[1], [torch.zeros(len(b)) for b in blocks[1]])
    assert in_x.all()
    assert torch.equal(in_y, (squared(x, y) == 0).any(1))
    assert sum(pairs) < 3000
