import numpy as np
import pytest
import scipy.linalg
import torch

from evaluation.fid import RunningStatistics, Statistics, frechet_distance, read_statistics
from tests.support.adm import reference_activations, sample_activations

statistics = Statistics.from_features


@pytest.mark.parametrize(("name", "kind"), [("fid", 0), ("sfid", 1)])
def test_frechet_distances_are_adms(parity, name, kind):
    distance = frechet_distance(statistics(reference_activations()[kind]), statistics(sample_activations()[kind]))
    assert distance == pytest.approx(float(parity("adm_metrics")[name]), rel=1e-6)


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


def test_running_statistics_equal_numpys():
    torch.manual_seed(0)
    features = torch.randn(300, 7) @ torch.randn(7, 7) + 50
    running = RunningStatistics(7)
    for batch in features.split(32):
        running.add(batch)
    for found in (running.statistics(), statistics(features)):
        np.testing.assert_allclose(found.mu, features.double().mean(0), rtol=1e-9)
        np.testing.assert_allclose(found.sigma, np.cov(features.double(), rowvar=False), rtol=1e-7, atol=1e-7)


def test_stored_statistics_are_read_only_if_complete(tmp_path):
    arrays = {"mu": np.arange(3.0), "sigma": np.eye(3), "mu_s": np.arange(2.0), "sigma_s": np.eye(2)}
    np.savez(tmp_path / "r.npz", **arrays)
    found = read_statistics(tmp_path / "r.npz")
    assert found["pool"].mu.tolist() == [0, 1, 2]
    assert found["spatial"].sigma.shape == (2, 2)
    del arrays["sigma_s"]
    np.savez(tmp_path / "r.npz", **arrays)
    assert read_statistics(tmp_path / "r.npz").keys() == {"pool"}
