"""FID, sFID, Inception Score, precision and recall as ADM's evaluator defines them.

Functions of feature arrays; nothing here knows of images or networks. Sources: Heusel et al. 2017
(FID), Nash et al. 2021 (sFID), Salimans et al. 2016 (IS), Kynkaanniemi et al. 2019 (precision and
recall), and the choices of OpenAI's guided-diffusion evaluator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from evaluation.neighbours import in_blocks, inside, squared_radii

INCEPTION_SCORE_SPLIT = 5000
NEIGHBOUR = 3
ROWS = 8192  # of features that are held in float64 at a time


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and covariance (d, d) of features, float64."""

    mu: Tensor
    sigma: Tensor


def statistics(features: np.ndarray | Tensor) -> Statistics:
    """features: (n, d), n >= 2. The covariance is the unbiased one, over n - 1."""
    parts = torch.as_tensor(features).split(ROWS)
    running = RunningStatistics(parts[0].shape[1], parts[0].device, origin=parts[0].double().mean(0))
    for part in parts:
        running.add(part)
    return running.statistics()


def _gram(x: Tensor) -> Tensor:
    """x^T x, float64."""
    if x.device.type == "cpu":  # numpy's product knows that the result is symmetric: half the work
        return torch.from_numpy(np.dot(x.numpy().T, x.numpy()))
    return x.T @ x


class RunningStatistics:
    """Statistics of features that come batch by batch, and from several processes.

    origin: (d,), best near the features' mean, of which the sums of products then keep nothing; 0 if left out.
    """

    def __init__(self, num_features: int, device: torch.device | str = "cpu", origin: Tensor | None = None):
        self._count, self._sum, self._outer = (
            torch.zeros(shape, dtype=torch.float64, device=device)
            for shape in ((), (num_features,), (num_features, num_features))
        )
        self._origin = torch.zeros_like(self._sum) if origin is None else origin

    def add(self, features: np.ndarray | Tensor) -> None:
        """features: (n, d)."""
        x = torch.as_tensor(features, device=self._sum.device) - self._origin  # float64, as the origin is
        self._count += len(x)
        self._sum += x.sum(0)
        self._outer += _gram(x)

    def reduced(self, reduce: Callable[[Tensor], Tensor]) -> "RunningStatistics":
        """The statistics of all processes, of one origin; `reduce` sums a tensor over them."""
        result = RunningStatistics(len(self._sum), self._sum.device, self._origin)
        result._count, result._sum, result._outer = (reduce(x) for x in (self._count, self._sum, self._outer))
        return result

    def statistics(self) -> Statistics:
        mu = self._sum / self._count
        return Statistics(mu + self._origin, (self._outer - self._count * torch.outer(mu, mu)) / (self._count - 1))


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
    cross = _eigenvalues((product + product.T) / 2).clamp_min(0).sqrt().sum()
    distance = (a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace() - 2 * cross
    return float(distance)


def _eigenvalues(x: Tensor) -> Tensor:
    """Of a symmetric x."""
    if x.device.type == "cpu":  # faster than torch's, twice as fast at the first call
        return torch.from_numpy(scipy.linalg.eigvalsh(x.numpy()))
    return torch.linalg.eigvalsh(x)


def inception_score(logits: np.ndarray | Tensor, split_size: int = INCEPTION_SCORE_SPLIT) -> float:
    """exp(mean KL(p(y|x) || p(y))) of each split, averaged; the last split may be short.

    logits: (n, classes), without the classifier's bias.
    """
    scores = []
    for part in torch.as_tensor(logits).split(split_size):
        log_p = part.double().log_softmax(1)
        p = log_p.exp()
        marginal = p.mean(0)
        divergence = torch.linalg.vecdot(p, log_p).mean() - torch.special.xlogy(marginal, marginal).sum()
        scores.append(float(divergence.exp()))
    return float(np.mean(scores))


def precision_recall(reference: np.ndarray | Tensor, samples: np.ndarray | Tensor) -> tuple[float, float]:
    """Share of samples inside any reference ball, share of references inside any sample ball.

    Both (n, d) pool features. As in ADM the features are rounded to float16; distances are those of
    float32 differences, which moves a few borderline points (at most 4 of 2400 in the parity fixture).
    """
    if min(len(reference), len(samples)) <= NEIGHBOUR:
        raise ValueError(f"precision and recall need more than {NEIGHBOUR} images on either side")
    r, s = (torch.as_tensor(x).half() for x in (reference, samples))
    generator = torch.Generator().manual_seed(0)
    # Any origin gives the same distances; near the mean, which some of the points tell well enough, it costs least.
    centre_r, centre_s = (x[:: -(-len(x) // 1000)].float().mean(0) for x in (r, s))
    if (centre_r - centre_s).norm() < (s[:1000].float() - centre_s).norm(dim=1).mean() / 2:
        centre_s = centre_r  # near enough
    blocks_r, blocks_s = in_blocks(r, centre_r, generator), in_blocks(s, centre_s, generator)
    radii_r, radii_s = (squared_radii(blocks, NEIGHBOUR) for blocks in (blocks_r, blocks_s))
    if centre_s is not centre_r:
        blocks_s = in_blocks(s, centre_r, generator)
    inside_s, inside_r = inside(blocks_r, radii_r, blocks_s, radii_s)
    return float(inside_s.float().mean()), float(inside_r.float().mean())
