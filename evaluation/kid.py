"""Kernel Inception Distance (Binkowski et al. 2018, arXiv:1801.01401)."""

import numpy as np
import torch
from torch import Tensor

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
SUBSET_SEED = 2020


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

    Every call draws the same subsets. A set smaller than `subset_size` is used whole.
    """
    rng = np.random.default_rng(SUBSET_SEED)
    r, s = (torch.as_tensor(x).double() for x in (reference, samples))
    size = min(subset_size, len(r), len(s))
    values = torch.stack(
        [
            squared_mmd(*(x[torch.from_numpy(rng.choice(len(x), size, replace=False)).to(x.device)] for x in (r, s)))
            for _ in range(num_subsets)
        ]
    )
    return float(values.mean()), float(values.std())
