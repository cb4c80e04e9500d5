"""Kernel Inception Distance (Binkowski et al., arXiv:1801.01401)."""

import numpy as np
import torch
from torch import Tensor

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
SEED = 2020


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / d + 1)^3, the paper's polynomial kernel."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of the squared maximum mean discrepancy. x: (n, d), y: (m, d)."""
    n, m = len(x), len(y)
    kxx, kyy, kxy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within = (kxx.sum() - kxx.trace()) / (n * (n - 1)) + (kyy.sum() - kyy.trace()) / (m * (m - 1))
    return within - 2 * kxy.mean()


def kernel_distance(
    reference: np.ndarray | Tensor,
    samples: np.ndarray | Tensor,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
) -> tuple[float, float]:
    """Mean and standard deviation of `squared_mmd` over random subsets of pool features (n, d).

    The subsets are the same in every call. With fewer images than `subset_size`, all are taken.
    """
    rng = np.random.default_rng(SEED)
    r, s = (torch.as_tensor(x).double() for x in (reference, samples))
    size = min(subset_size, len(r), len(s))
    values = [
        squared_mmd(*(x[torch.from_numpy(rng.choice(len(x), size, replace=False)).to(x.device)] for x in (r, s)))
        for _ in range(num_subsets)
    ]
    values = torch.stack(values)
    return float(values.mean()), float(values.std())
