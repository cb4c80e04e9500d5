"""Precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991) of feature arrays.

The ball of a point reaches to its third nearest neighbour in the same set. Precision is the share of samples
inside the ball of any reference image, recall the share of reference images inside the ball of any sample.
"""

import numpy as np
import torch
from torch import Tensor

from modeling.layers.precision import full_float32

NEIGHBOUR = 3
# Points per block. A block of distances is (BLOCK, BLOCK) float32.
BLOCK = {"cpu": 2000, "cuda": 8192}


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    return x.split(BLOCK[x.device.type])


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """a: (n, d), b: (m, d) -> (n, m), exact up to float32 rounding of |a|^2 + |b|^2."""
    return torch.addmm(b.square().sum(1), a, b.T, alpha=-2).add_(a.square().sum(1, keepdim=True))


def squared_radii(x: Tensor, k: int) -> Tensor:
    """Squared distance (n,) of each point to its k-th nearest other point. x: (n, d), n > k."""
    blocks = _blocks(x)
    nearest = [x.new_full((len(block), k + 1), torch.inf) for block in blocks]  # k others and the point itself

    def merge(i: int, distances: Tensor) -> None:
        nearest[i] = torch.cat([nearest[i], distances], dim=1).topk(k + 1, dim=1, largest=False).values

    for i, block in enumerate(blocks):
        for j in range(i, len(blocks)):
            distances = _squared_distances(block, blocks[j])
            merge(i, distances)
            if i != j:
                merge(j, distances.T)
    return torch.cat(nearest)[:, k]


def members(a: Tensor, radii_a: Tensor, b: Tensor, radii_b: Tensor) -> tuple[Tensor, Tensor]:
    """Which points of a (n, d) lie in a ball of b (m, d), and which of b in a ball of a: bool (n,) and (m,).

    radii_a: (n,), radii_b: (m,), squared.
    """
    a_inside, b_inside = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for x in (a, b))
    for points_a, reach_a, found_a in zip(*map(_blocks, (a, radii_a, a_inside)), strict=True):
        for points_b, reach_b, found_b in zip(*map(_blocks, (b, radii_b, b_inside)), strict=True):
            distances = _squared_distances(points_a, points_b)
            found_a |= (distances <= reach_b).any(1)  # a view: sets a_inside
            found_b |= (distances <= reach_a[:, None]).any(0)
    return a_inside, b_inside


@full_float32()
def precision_recall(reference: np.ndarray | Tensor, samples: np.ndarray | Tensor) -> tuple[float, float]:
    """reference: (n, d) and samples: (m, d) pool features, n, m > NEIGHBOUR -> precision and recall in [0, 1].

    Features are rounded to float16, as in ADM's evaluator. Distances are in float32; ADM's float16 distances
    move a few borderline points (at most 4 of 2400 in the parity fixture).
    """
    r, s = (torch.as_tensor(x).half().float() for x in (reference, samples))
    origin = r.mean(0)  # changes no distance; small norms lose less to rounding
    r, s = r - origin, s - origin
    r_inside, s_inside = members(r, squared_radii(r, NEIGHBOUR), s, squared_radii(s, NEIGHBOUR))
    return float(s_inside.float().mean()), float(r_inside.float().mean())
