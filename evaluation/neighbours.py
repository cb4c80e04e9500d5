"""Which points lie near which others, exactly, with nearly all of the work in products of low precision.

For each pair of points a product in bfloat16 and a bound of its error tell that they are further apart
than matters; the few pairs that this leaves open are computed in float32. That pays on CPUs with
bfloat16 instructions (docs/benchmarks.md); elsewhere float32 products take its place.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from modeling.precision import full_float32
from utils.cpu import can_pack

# Points whose distances to as many others are held at a time, and single pairs at a time: few enough
# for a CPU's caches, many enough for a GPU.
BLOCK = {"cpu": 1000, "cuda": 8192}
PAIRS = {"cpu": 64, "cuda": 16384}
MOST_OPEN = 0.05  # of all pairs, after which rounded products are of no use
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-23}


@dataclass(frozen=True)
class Points:
    """Some points, and what bounds the error of their rounded copies' products."""

    exact: Tensor  # (n, d) float32
    rounded: Tensor  # (n, d)
    half_squares: Tensor  # (n,) |x|^2 / 2
    norm: float  # the largest |x|
    error: float  # the largest |x - rounded x|

    @staticmethod
    def of(x: Tensor) -> "Points":
        low = x.device.type == "cpu" and can_pack(torch.bfloat16)
        rounded = x.bfloat16() if low else x
        error = float((x - rounded.float()).norm(dim=1).max()) if low else 0.0
        return Points(x, rounded, x.square().sum(1) / 2, float(x.norm(dim=1).max()), error)

    def __len__(self) -> int:
        return len(self.exact)


def in_blocks(x: Tensor) -> list[Points]:
    """x: (n, d) float32, best centred: errors grow with the points' norms."""
    return [Points.of(part) for part in x.tensor_split(-(-len(x) // BLOCK[x.device.type]))]


def _near(a: Points, b: Points, reach_a: Tensor, reach_b: Tensor, rounded: bool) -> Tensor:
    """(n, m) bool: pairs that may be within reach of each other, as far as their products tell."""
    with full_float32():
        products = a.rounded @ b.rounded.T if rounded else a.exact @ b.exact.T
    # |x.y - x'.y'| <= |x - x'| |y| + |x'| |y - y'|, and the product is itself rounded: each of its d
    # additions in float32, and the sum to its dtype. So are the squares that it is compared with.
    additions = a.exact.shape[1] * ROUNDING[torch.float32]
    error_a, error_b = (a.error, b.error) if rounded else (0.0, 0.0)
    slack = error_a * b.norm + (a.norm + error_a) * error_b
    slack += (ROUNDING[products.dtype] + additions) * (a.norm + error_a) * (b.norm + error_b)
    slack += additions * (a.norm**2 + b.norm**2) / 2
    # |x - y|^2 <= reach is x.y - |y|^2 / 2 >= (|x|^2 - reach) / 2.
    near = (products - b.half_squares) >= (a.half_squares - reach_a / 2 - slack)[:, None]
    near |= (products - a.half_squares[:, None]) >= b.half_squares - reach_b / 2 - slack
    return near


def near_pairs(a: Points, b: Points, reach_a: Tensor, reach_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs whose squared distance is at most `reach_a` of the one or `reach_b` of the other, and maybe some more.

    reach_a: (n,), reach_b: (m,). Returns indices into a (k,) and into b (k,), and squared distances (k,).
    """
    near = _near(a, b, reach_a, reach_b, rounded=True)
    if near.sum() > MOST_OPEN * near.numel():  # points closer together than rounding can tell apart
        near = _near(a, b, reach_a, reach_b, rounded=False)
    i, j = near.nonzero(as_tuple=True)
    distances = []
    size = PAIRS[i.device.type]
    for p, q in zip(i.split(size), j.split(size), strict=True):
        difference = a.exact[p].sub_(b.exact[q])
        distances.append(torch.linalg.vecdot(difference, difference))
    return i, j, torch.cat(distances) if distances else a.exact.new_zeros(0)


def _smallest(rows: Tensor, values: Tensor, best: Tensor) -> Tensor:
    """The smallest of `best` (n, k) and of the `values` (m,) that belong to each of the rows (m,), sorted."""
    order = values.argsort()
    order = order[rows[order].argsort(stable=True)]
    rows, values = rows[order], values[order]
    first = torch.searchsorted(rows, rows)  # where this row's values begin
    place = torch.arange(len(rows), device=rows.device) - first
    kept = place < best.shape[1]
    found = torch.full_like(best, torch.inf)
    found[rows[kept], place[kept]] = values[kept]
    return torch.cat([best, found], dim=1).sort(dim=1).values[:, : best.shape[1]]


def squared_radii(blocks: list[Points], k: int) -> list[Tensor]:
    """Squared distance of each point to its k-th nearest other point, block by block; at least k + 1 points."""
    best: list[Tensor] = []
    for block in blocks:
        x, half = block.exact, block.half_squares
        with full_float32():
            distances = torch.addmm(half, x, x.T, alpha=-1).add_(half[:, None])
        distances.fill_diagonal_(torch.inf)
        bound = distances.new_full((len(block),), torch.inf)
        if len(block) > k:  # rounding may have chosen others than the nearest, which bound them all the same
            chosen = distances.topk(k, dim=1, largest=False).indices.T
            bound = torch.stack([(x - x[column]).square().sum(1) for column in chosen]).amax(0)
        p, q, distances = near_pairs(block, block, bound, bound)
        others = p != q
        best.append(_smallest(p[others], distances[others], x.new_full((len(block), k), torch.inf)))
    for i, j in combinations(range(len(blocks)), 2):
        # Nothing is nearer than 0: a point that has k copies of itself needs no more.
        reach = [torch.where(best[b][:, -1] > 0, best[b][:, -1], -torch.inf) for b in (i, j)]
        p, q, distances = near_pairs(blocks[i], blocks[j], *reach)
        best[i] = _smallest(p, distances, best[i])
        best[j] = _smallest(q, distances, best[j])
    return [b[:, -1] for b in best]


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
            p, q, distances = near_pairs(a, b, radii[i], other_radii[j])
            hit[j][q[distances <= radii[i][p]]] = True
            hit_centres[i][p[distances <= other_radii[j][q]]] = True
    return torch.cat(hit), torch.cat(hit_centres)
