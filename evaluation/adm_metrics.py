"""FID, sFID, Inception Score, precision and recall as ADM's evaluator defines them.

Functions of feature arrays; nothing here knows of images or networks. Sources: Heusel et al. 2017
(FID), Nash et al. 2021 (sFID), Salimans et al. 2016 (IS), Kynkaanniemi et al. 2019 (precision and
recall), and the choices of OpenAI's guided-diffusion evaluator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluation.neighbours import in_blocks, inside, squared_radii

INCEPTION_SCORE_SPLIT = 5000
NEIGHBOUR = 3


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and covariance (d, d) of features, float64."""

    mu: Tensor
    sigma: Tensor


def statistics(features: np.ndarray | Tensor) -> Statistics:
    """features: (n, d), n >= 2. The covariance is the unbiased one, over n - 1."""
    x = torch.as_tensor(features).double()
    mu = x.mean(0)
    return Statistics(mu, _gram(x - mu) / (len(x) - 1))


def _gram(x: Tensor) -> Tensor:
    """x^T x, float64."""
    if x.device.type == "cpu":  # numpy's product knows that the result is symmetric: half the work
        return torch.from_numpy(np.dot(x.numpy().T, x.numpy()))
    return x.T @ x


class RunningStatistics:
    """Statistics of features that come batch by batch, and from several processes."""

    def __init__(self, num_features: int, device: torch.device | str = "cpu"):
        self._count, self._sum, self._outer = (
            torch.zeros(shape, dtype=torch.float64, device=device)
            for shape in ((), (num_features,), (num_features, num_features))
        )

    def add(self, features: np.ndarray | Tensor) -> None:
        """features: (n, d)."""
        x = torch.as_tensor(features, device=self._sum.device).double()
        self._count += len(x)
        self._sum += x.sum(0)
        self._outer += _gram(x)

    def reduced(self, reduce: Callable[[Tensor], Tensor]) -> "RunningStatistics":
        """The statistics of all processes; `reduce` sums a tensor over them."""
        result = RunningStatistics(len(self._sum), self._sum.device)
        result._count, result._sum, result._outer = (reduce(x) for x in (self._count, self._sum, self._outer))
        return result

    def statistics(self) -> Statistics:
        mu = self._sum / self._count
        return Statistics(mu, (self._outer - self._count * torch.outer(mu, mu)) / (self._count - 1))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|mu_a - mu_b|^2 + tr(A) + tr(B) - 2 tr((A B)^1/2).

    tr((A B)^1/2) is the sum of the roots of the eigenvalues of R^T B R with A = R R^T, a symmetric
    matrix: faster and steadier than a general matrix square root, and the same number.
    """
    root, failed = torch.linalg.cholesky_ex(a.sigma)
    if failed:  # a singular A, of fewer images than features
        values, vectors = torch.linalg.eigh(a.sigma)
        root = vectors * values.clamp_min(0).sqrt()
    product = root.T @ b.sigma @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    distance = (a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace() - 2 * cross
    return float(distance)


def inception_score(logits: np.ndarray | Tensor, split_size: int = INCEPTION_SCORE_SPLIT) -> float:
    """exp(mean KL(p(y|x) || p(y))) of each split, averaged; the last split may be short.

    logits: (n, classes), without the classifier's bias.
    """
    scores = []
    for part in torch.as_tensor(logits).split(split_size):
        log_p = part.double().log_softmax(1)
        p = log_p.exp()
        marginal = p.mean(0, keepdim=True)
        scores.append(float((p * (log_p - marginal.log())).sum(1).mean().exp()))
    return float(np.mean(scores))


def precision_recall(reference: np.ndarray | Tensor, samples: np.ndarray | Tensor) -> tuple[float, float]:
    """Share of samples inside any reference ball, share of references inside any sample ball.

    Both (n, d) pool features. As in ADM the features are rounded to float16; distances are those of
    float32 differences, which moves a few borderline points (at most 4 of 2400 in the parity fixture).
    """
    if min(len(reference), len(samples)) <= NEIGHBOUR:
        raise ValueError(f"precision and recall need more than {NEIGHBOUR} images on either side")
    r, s = (torch.as_tensor(x).half().float() for x in (reference, samples))
    # Distances do not change with the origin, but the norms that bound the errors of products do.
    radii_r, radii_s = (squared_radii(in_blocks(x - x.mean(0)), NEIGHBOUR) for x in (r, s))
    centre = r.mean(0)
    inside_s, inside_r = inside(in_blocks(r - centre), radii_r, in_blocks(s - centre), radii_s)
    return float(inside_s.float().mean()), float(inside_r.float().mean())
