"""FID (Heusel et al. 2017, arXiv:1706.08500) of feature arrays; sFID (Nash et al. 2021) is FID of spatial features."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from utils.errors import UserError
from utils.npz import read_arrays

ROWS_IN_FLOAT64 = 8192
# Names of mean and covariance in ADM's reference files, by kind of features.
STORED_ARRAYS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and covariance (d, d) of features, float64."""

    mu: Tensor
    sigma: Tensor

    @staticmethod
    def from_features(features: np.ndarray | Tensor) -> "Statistics":
        """features: (n, d), n >= 2. The covariance is unbiased: divided by n - 1."""
        parts = torch.as_tensor(features).split(ROWS_IN_FLOAT64)
        running = RunningStatistics(parts[0].shape[1], parts[0].device, origin=parts[0].double().mean(0))
        for part in parts:
            running.add(part)
        return running.statistics()

    def to(self, device: torch.device) -> "Statistics":
        return Statistics(self.mu.to(device), self.sigma.to(device))


class RunningStatistics:
    """Statistics of features that are added batch by batch, on one or several processes.

    origin: (d,), subtracted before accumulating; choose it near the mean to avoid cancellation. Default: 0.
    """

    def __init__(self, num_features: int, device: torch.device | str = "cpu", origin: Tensor | None = None):
        self._count, self._sum, self._outer = (
            torch.zeros(shape, dtype=torch.float64, device=device)
            for shape in ((), (num_features,), (num_features, num_features))
        )
        self._origin = torch.zeros_like(self._sum) if origin is None else origin

    def add(self, features: np.ndarray | Tensor) -> None:
        """features: (n, d)."""
        x = torch.as_tensor(features, device=self._sum.device) - self._origin  # float64, like the origin
        self._count += len(x)
        self._sum += x.sum(0)
        self._outer += _gram(x)

    def reduced(self, reduce: Callable[[Tensor], Tensor]) -> "RunningStatistics":
        """The statistics over all processes, which share one origin; `reduce` sums a tensor over processes."""
        result = RunningStatistics(len(self._sum), self._sum.device, self._origin)
        result._count, result._sum, result._outer = (reduce(x) for x in (self._count, self._sum, self._outer))
        return result

    def statistics(self) -> Statistics:
        mu = self._sum / self._count
        return Statistics(mu + self._origin, (self._outer - self._count * torch.outer(mu, mu)) / (self._count - 1))


def _gram(x: Tensor) -> Tensor:
    """x^T x, float64."""
    if x.device.type == "cpu":  # numpy exploits the symmetry of the result: half the work
        return torch.from_numpy(np.dot(x.numpy().T, x.numpy()))
    return x.T @ x


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|mu_a - mu_b|^2 + tr(A) + tr(B) - 2 tr((A B)^1/2).

    With A = R R^T, tr((A B)^1/2) is the sum of the roots of the eigenvalues of R^T B R. That matrix is
    symmetric, so this is faster and more stable than a general matrix square root.
    """
    root, failed = torch.linalg.cholesky_ex(a.sigma)
    if failed:  # A is singular: fewer images than features
        values, vectors = torch.linalg.eigh(a.sigma)
        root = vectors * values.clamp_min(0).sqrt()
    product = root.T @ b.sigma @ root
    cross = _eigenvalues((product + product.T) / 2).clamp_min(0).sqrt().sum()
    distance = (a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace() - 2 * cross
    return float(distance)


def _eigenvalues(symmetric: Tensor) -> Tensor:
    if symmetric.device.type == "cpu":  # faster than torch's, and twice as fast on the first call
        return torch.from_numpy(scipy.linalg.eigvalsh(symmetric.numpy()))
    return torch.linalg.eigvalsh(symmetric)


def read_statistics(path: str | Path) -> dict[str, Statistics]:
    """Statistics by kind of features ("pool", "spatial") from a reference file; empty if it holds none."""
    arrays = read_arrays(path, tuple(name for names in STORED_ARRAYS.values() for name in names))
    found = {kind: [arrays[n] for n in names] for kind, names in STORED_ARRAYS.items() if arrays.keys() >= set(names)}
    for name, array in arrays.items():
        if array.shape != array.shape[:1] * (2 if name.startswith("sigma") else 1):
            raise UserError(f"{path}: {name} has the shape {array.shape}; mu is (d,) and sigma (d, d)")
        if not np.isfinite(array).all():
            raise UserError(f"{path}: the stored statistics hold NaN or infinity in {name}")
    return {kind: Statistics(*(torch.from_numpy(x).double() for x in pair)) for kind, pair in found.items()}
