"""Which points lie near which others, exactly, with nearly all of the work in cheap products.

For each pair of points a product of rounded numbers and a bound of its error tell that they are further
apart than matters; the few pairs that this leaves open are computed in float32. On CPUs with
instructions for it the numbers are 8-bit integers (docs/benchmarks.md), elsewhere float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from modeling.layers.precision import full_float32
from utils.cpu import multiplies_int8

# Points whose distances to as many others are held at a time, and single pairs at a time: few enough
# for a CPU's caches, many enough for a GPU.
BLOCK = {"cpu": 2000, "cuda": 8192}
PAIRS = {"cpu": 128, "cuda": 16384}
MOST_OPEN = 0.02  # of all pairs, after which products in float32 cost less than the open pairs
LARGEST = 126  # of 127: what is rounded up stays in range
SMALLEST = 1e-30  # largest coordinate that a point at the origin is taken to have
UNIT_ROUNDOFF = 2.0**-24
# Each coordinate of x is rounded up or down at random such that its mean is right. The errors e are
# independent, of mean zero and within intervals of the step s, so that (Hoeffding 1963)
# P(e . y >= t) <= exp(-2 t^2 / (s |y|)^2): 1e-14 for t = 4 s |y|. It matters for pairs within reach only: of
# ten million of these, that one is taken for further apart has a chance of one in a million.
DEVIATION = 4.0


@dataclass(frozen=True)
class Points:
    """Some points, and what their products are computed from."""

    exact: Tensor  # (n, d) float32
    half_squares: Tensor  # (n,) |x|^2 / 2
    norms: Tensor  # (n,) the larger of |x| and |rounded x|
    integers: Tensor | None  # (n, d) int8: rounded x over its step; None: products are of `exact`
    steps: Tensor  # (n,); 0 without integers

    @staticmethod
    def of(x: Tensor, generator: torch.Generator | None = None) -> "Points":
        """x: (n, d) float32, best centred. With a generator of random numbers x is rounded, where that pays."""
        norms = x.norm(dim=1)
        if generator is None or x.device.type != "cpu" or not multiplies_int8():
            return Points(x, norms.square() / 2, norms, None, torch.zeros_like(norms))
        steps = x.abs().amax(1).clamp_min(SMALLEST) / LARGEST
        rounded = torch.rand(x.shape, generator=generator).add_(x / steps[:, None]).floor_()
        rounded_norms = rounded.norm(dim=1) * steps
        return Points(x, norms.square() / 2, torch.maximum(norms, rounded_norms), rounded.to(torch.int8), steps)

    def __len__(self) -> int:
        return len(self.exact)

    def without_rounding(self) -> "Points":
        return Points(self.exact, self.half_squares, self.norms, None, torch.zeros_like(self.steps))


def in_blocks(x: Tensor, centre: Tensor, generator: torch.Generator | None = None) -> list[Points]:
    """x: (n, d), any dtype; centre: (d,) float32, near the points, as errors grow with their distance from it.

    Generator: as for `Points.of`.
    """
    parts = x.tensor_split(-(-len(x) // BLOCK[x.device.type]))
    return [Points.of(part.float() - centre, generator) for part in parts]


def _half_distances(a: Points, b: Points) -> Tensor:
    """(n, m): half the squared distances, or less where they are not known better; but for float32's rounding."""
    if a.integers is not None and b.integers is not None:
        products = torch._int_mm(a.integers, b.integers.T).float()
        # x.y is at most the products of the rounded points and DEVIATION (s |y| + |x| s'), with steps s and s':
        # x'.y' - x.y = (x' - x).y + x'.(y' - y).
        products.add_(DEVIATION * b.norms / b.steps).mul_(a.steps[:, None])
        products.add_(DEVIATION * a.norms[:, None]).mul_(b.steps)
    else:
        with full_float32():
            products = a.exact @ b.exact.T
    return torch.sub(b.half_squares, products, out=products).add_(a.half_squares[:, None])


def _limits(a: Points, b: Points, reach: Tensor) -> Tensor:
    """(n,): `_half_distances` above these are of pairs of `a` and any of `b` that are further apart than a's reach."""
    # Sums in float32, of terms whose sizes are at most 2 |x||y| and both halves of squares together.
    terms = 2 * a.norms * b.norms.max() + a.half_squares + b.half_squares.max()
    return reach / 2 + 2 * a.exact.shape[1] * UNIT_ROUNDOFF * terms


def _not_above(distances: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Both (n, m): where the first are not above the second; indices (k,) and (k,)."""
    if distances.device.type == "cpu":  # many times as fast as torch's
        flat = torch.from_numpy(np.flatnonzero(distances.numpy() <= limits.numpy()))
    else:
        flat = (distances <= limits).flatten().nonzero()[:, 0]
    i = flat.div(distances.shape[1], rounding_mode="floor")
    return i, flat - i * distances.shape[1]


def _exact(a: Points, b: Points, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances (k,) of the pairs with indices i (k,) into a and j (k,) into b."""
    size = PAIRS[i.device.type]
    distances = [  # index_select: on CPUs many times as fast as a.exact[p]
        a.exact.index_select(0, p).sub_(b.exact.index_select(0, q)).square_().sum(1)
        for p, q in zip(i.split(size), j.split(size), strict=True)
    ]
    return torch.cat(distances) if distances else a.exact.new_zeros(0)


def _looks(a: Points, b: Points) -> Iterator[tuple[Points, Points]]:
    """What tells pairs apart: the points as they are, then without rounding, where that leaves too many open."""
    yield a, b
    if a.integers is not None:
        yield a.without_rounding(), b.without_rounding()


def near_pairs(
    a: Points, b: Points, reach_a: Tensor, reach_b: Tensor, distances: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs whose squared distance is at most `reach_a` of the one or `reach_b` of the other, and maybe some more.

    reach_a: (n,), reach_b: (m,). Returns indices into a (k,) and into b (k,), and squared distances (k,). With `b`
    the same as `a`, each pair of different points comes once. `distances`: their `_half_distances`, if known.
    """
    for p, q in _looks(a, b):
        distances = _half_distances(p, q) if distances is None else distances
        i, j = _not_above(distances, torch.maximum(_limits(p, q, reach_a)[:, None], _limits(q, p, reach_b)))
        if len(i) <= MOST_OPEN * distances.numel():  # else they are closer together than rounding can tell apart
            break
        distances = None
    if a is b:
        i, j = i[i < j], j[i < j]
    return i, j, _exact(a, b, i, j)


def _smallest(rows: Tensor, values: Tensor, best: Tensor) -> Tensor:
    """The smallest of `best` (n, k) and of the `values` (m,) that belong to each of the rows (m,), sorted."""
    smaller = values < best[rows, -1]
    rows, values = rows[smaller], values[smaller]
    order = values.argsort()
    order = order[rows[order].argsort(stable=True)]
    rows, values = rows[order], values[order]
    first = torch.searchsorted(rows, rows)  # where this row's values begin
    place = torch.arange(len(rows), device=rows.device) - first
    kept = place < best.shape[1]
    found = torch.full_like(best, torch.inf)
    found[rows[kept], place[kept]] = values[kept]
    return torch.cat([best, found], dim=1).sort(dim=1).values[:, : best.shape[1]]


def _unless_zero(radii: Tensor) -> Tensor:
    """Nothing is nearer than 0: a point that has enough copies of itself needs to be compared with no others."""
    return torch.where(radii > 0, radii, -torch.inf)


def squared_radii(blocks: list[Points], k: int) -> list[Tensor]:
    """Squared distance of each point to its k-th nearest other point, block by block; at least k + 1 points."""
    best: list[Tensor] = []
    for block in blocks:
        x = block.exact
        bound, half = x.new_full((len(block),), torch.inf), _half_distances(block, block).fill_diagonal_(torch.inf)
        if len(block) > k:  # rounding may choose others than the nearest, which are as far or further
            chosen = half.topk(k, dim=1, largest=False).indices.T
            bound = torch.stack([(x - x.index_select(0, column)).square().sum(1) for column in chosen]).amax(0)
        reach = _unless_zero(bound)
        p, q, distances = near_pairs(block, block, reach, reach, half)
        start = torch.where(bound > 0, torch.inf, bound)[:, None].repeat(1, k)
        best.append(_smallest(torch.cat([p, q]), distances.repeat(2), start))
    for i, j in combinations(range(len(blocks)), 2):
        p, q, distances = near_pairs(blocks[i], blocks[j], *(_unless_zero(best[b][:, -1]) for b in (i, j)))
        best[i] = _smallest(p, distances, best[i])
        best[j] = _smallest(q, distances, best[j])
    return [b[:, -1] for b in best]


def _mark_inside(a: Points, b: Points, reach_a: Tensor, reach_b: Tensor, in_b: Tensor, in_a: Tensor) -> None:
    """Mark points of b in `in_b` (m,) that a point of a has within `reach_a`, and the other way round in `in_a` (n,).

    Points that are marked already cost nothing further.
    """

    def mark(i: Tensor, j: Tensor) -> None:
        distances = _exact(a, b, i, j)
        in_b[j[distances <= reach_a[i]]] = True
        in_a[i[distances <= reach_b[j]]] = True

    def open_pairs() -> tuple[Tensor, Tensor]:
        limits = torch.maximum(rows.where(~in_b, -torch.inf), columns.where(~in_a[:, None], -torch.inf))
        return _not_above(distances, limits)

    for p, q in _looks(a, b):
        distances = _half_distances(p, q)
        rows, columns = _limits(p, q, reach_a)[:, None], _limits(q, p, reach_b)
        i, j = open_pairs()
        if len(i) > len(a) + len(b):  # the most promising pair of each point first: it settles most of them
            each_a, each_b = (torch.arange(len(x), device=i.device) for x in (a, b))
            mark((distances - rows).argmin(0), each_b)
            mark(each_a, (distances - columns).argmin(1))
            i, j = open_pairs()
        if len(i) <= MOST_OPEN * distances.numel():
            break
    mark(i, j)


def inside(
    centres: list[Points], radii: list[Tensor], others: list[Points], other_radii: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Which `others` lie in a ball of the centres, and which centres in one of the others': two (n,) of bool.

    radii: squared, (n,) each.
    """
    device = centres[0].exact.device
    hit, hit_centres = (
        [torch.zeros(len(p), dtype=torch.bool, device=device) for p in points] for points in (others, centres)
    )
    for i, a in enumerate(centres):
        for j, b in enumerate(others):
            _mark_inside(a, b, radii[i], other_radii[j], hit[j], hit_centres[i])
    return torch.cat(hit), torch.cat(hit_centres)
