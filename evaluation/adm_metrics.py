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

INCEPTION_SCORE_SPLIT = 5000
NEIGHBOUR = 3
BLOCK = 5000  # rows of a distance matrix held at a time


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


def _squared_distances(u: Tensor, v: Tensor) -> Tensor:
    """max(|u|^2 - 2 u.v + |v|^2, 0), (n, m) float32."""
    distances = (u @ v.T).mul_(-2)
    return distances.add_(u.square().sum(1, keepdim=True)).add_(v.square().sum(1)).clamp_min_(0)


def _radii(x: Tensor) -> Tensor:
    """Squared distance of each point to its 3rd nearest other point, (n,)."""
    blocks = x.split(BLOCK)
    # Itself and the three nearest others of each point, so far.
    nearest = [x.new_full((len(block), NEIGHBOUR + 1), torch.inf) for block in blocks]

    def update(i: int, distances: Tensor) -> None:
        candidates = torch.cat([nearest[i], distances], dim=1)
        nearest[i] = candidates.topk(NEIGHBOUR + 1, dim=1, largest=False).values

    for i, block in enumerate(blocks):
        for j in range(i, len(blocks)):  # distances are symmetric: each pair of blocks serves both
            distances = _squared_distances(block, blocks[j])
            update(i, distances)
            if i != j:
                update(j, distances.T.contiguous())
    return torch.cat([n[:, -1] for n in nearest])


def precision_recall(reference: np.ndarray | Tensor, samples: np.ndarray | Tensor) -> tuple[float, float]:
    """Share of samples inside any reference ball, share of references inside any sample ball.

    Both (n, d) pool features. As in ADM the features are rounded to float16; distances are taken
    in float32, which moves a few borderline points (at most 4 of 2400 in the parity fixture).
    """
    if min(len(reference), len(samples)) <= NEIGHBOUR:
        raise ValueError(f"precision and recall need more than {NEIGHBOUR} images on either side")
    r, s = (torch.as_tensor(x).half().float() for x in (reference, samples))
    radii_r, radii_s = _radii(r), _radii(s)
    inside_s, inside_r = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for x in (s, r))
    for i in range(0, len(r), BLOCK):
        for j in range(0, len(s), BLOCK):
            a, b = slice(i, i + BLOCK), slice(j, j + BLOCK)
            distances = _squared_distances(r[a], s[b])
            inside_s[b] |= (distances <= radii_r[a, None]).any(0)
            inside_r[a] |= (distances <= radii_s[b]).any(1)
    return float(inside_s.float().mean()), float(inside_r.float().mean())
