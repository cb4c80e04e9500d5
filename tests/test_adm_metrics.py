"""The metrics against ADM's evaluator (tests/parity/README.md)."""

import numpy as np
import pytest
import scipy.linalg
import torch

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
