"""The metrics against ADM's evaluator (tests/parity/README.md)."""

import numpy as np
import pytest
import scipy.linalg
import torch

from evaluation import neighbours
from evaluation.adm_metrics import Statistics, frechet_distance, inception_score, precision_recall, statistics
from tests.parity.deterministic import normal


def activations(kind: str, n: int, scale: float, shift: float):
    g = normal(f"adm-{kind}-latent", (n, 12)) * np.float32(scale) + np.float32(shift)
    pool = np.abs(
        g @ normal("adm-pool-basis", (12, 2048)) * np.float32(0.2)
        + normal(f"adm-{kind}-pool-noise", (n, 2048)) * np.float32(0.02)
    )
    spatial = g @ normal("adm-spatial-basis", (12, 2023)) * np.float32(0.1) + normal(
        f"adm-{kind}-spatial-noise", (n, 2023)
    ) * np.float32(0.05)
    return pool, spatial


@pytest.fixture(scope="module")
def arrays():
    return activations("reference", 2600, 1, 0), activations("sample", 2400, 0.9, 0.25)


def test_frechet_distances(arrays, parity):
    expected = parity("adm_metrics")
    (pool_r, spatial_r), (pool_s, spatial_s) = arrays
    fid = frechet_distance(statistics(pool_r), statistics(pool_s))
    sfid = frechet_distance(statistics(spatial_r), statistics(spatial_s))
    assert fid == pytest.approx(float(expected["fid"]), rel=1e-6)
    assert sfid == pytest.approx(float(expected["sfid"]), rel=1e-6)


def test_inception_score(arrays, parity):
    expected = parity("adm_metrics")
    logits = arrays[1][0] @ (normal("adm-softmax", (2048, 1008)) * np.float32(0.05))
    assert inception_score(logits) == pytest.approx(float(expected["inception_score"]), rel=1e-5)
    assert inception_score(logits, 800) == pytest.approx(float(expected["inception_score_split_800"]), rel=1e-5)


def test_precision_and_recall(arrays, parity):
    expected = parity("adm_metrics")
    precision, recall = precision_recall(arrays[0][0], arrays[1][0])
    assert abs(precision - float(expected["precision"])) <= 3 / 2400
    assert abs(recall - float(expected["recall"])) <= 5 / 2600


def test_frechet_distance_equals_the_matrix_square_root():
    rng = np.random.default_rng(0)
    a, b = (statistics(rng.standard_normal((40, 12)) @ rng.standard_normal((12, 12))) for _ in range(2))
    root = scipy.linalg.sqrtm((a.sigma @ b.sigma).numpy()).real
    direct = (a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace() - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(float(direct), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_shifted_sets_is_the_squared_shift():
    sigma = torch.eye(5).double()
    a, b = Statistics(torch.zeros(5).double(), sigma), Statistics(torch.full((5,), 2.0).double(), sigma)
    assert frechet_distance(a, b) == pytest.approx(20.0)


def test_frechet_distance_with_fewer_images_than_features():
    """A singular covariance has no Cholesky factor."""
    rng = np.random.default_rng(0)
    a, b = (statistics(rng.standard_normal((n, 12)) + shift) for n, shift in ((6, 0), (8, 1)))
    assert torch.linalg.matrix_rank(a.sigma) < 12
    root = scipy.linalg.sqrtm(
        (a.sigma + 1e-10 * torch.eye(12)).numpy() @ (b.sigma + 1e-10 * torch.eye(12)).numpy()
    ).real
    direct = (a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace() - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(float(direct), abs=1e-3)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


def test_precision_and_recall_across_blocks(monkeypatch):
    """Blocks of any size give the definition's numbers."""
    rng = np.random.default_rng(0)
    r, s = rng.standard_normal((47, 5)), rng.standard_normal((38, 5)) * 1.3
    r, s = (x.astype(np.float16).astype(np.float64) for x in (r, s))

    def squared(u, v):
        return ((u[:, None] - v[None]) ** 2).sum(-1)

    radius_r, radius_s = np.sort(squared(r, r), 1)[:, 3], np.sort(squared(s, s), 1)[:, 3]
    expected = (squared(r, s) <= radius_r[:, None]).any(0).mean(), (squared(r, s) <= radius_s).any(1).mean()
    for size in (3, 10, 5000):
        monkeypatch.setitem(neighbours.BLOCK, "cpu", size)
        assert precision_recall(r, s) == pytest.approx(expected, abs=1e-6)
