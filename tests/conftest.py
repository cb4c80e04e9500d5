import os
import sys
from pathlib import Path

# Before anything imports torch: tests are about numbers, and run on the CPU wherever they run.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
if "PYTEST_XDIST_WORKER" in os.environ:  # the other cores are other workers'
    os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytest

PARITY = Path(__file__).parent / "parity"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def parity():
    """parity("ar_b") -> the arrays of tests/parity/ar_b.npz."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(PARITY / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return load


def assert_close(actual, expected, tolerance: float = 1e-4) -> None:
    """max |a - b| <= tolerance * max |b|, the agreement that the fixtures' README states."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()
