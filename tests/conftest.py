import os
import sys
from pathlib import Path

# Before torch is imported: every test runs on the CPU, so that its numbers are the same on every machine.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has one core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytest

from sampling.pipeline import save_pretrained
from tests.support import toy
from tests.support.parity import PARITY
from utils.weights import export_weights


@pytest.fixture(scope="session")
def parity():
    """parity("ar_b") -> the arrays of tests/parity/ar_b.npz."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(PARITY / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def images(tmp_path) -> Path:
    """tmp_path/images: 12 images per class in train/ and in val/."""
    return toy.write_images(tmp_path / "images")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> Path:
    """A folder of toy weights, to read only.

    hub/ as `save_pretrained` writes it; generator/ and tokenizer/ with exported weights; ar.yaml.
    """
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = toy.tokenizer(init_std=0.3)  # large enough for images that differ
    save_pretrained(folder / "hub", tokenizer, toy.generator())
    export_weights(folder / "generator", toy.generator().state_dict())
    export_weights(folder / "tokenizer", tokenizer.state_dict())
    toy.write_ar_config(folder / "ar.yaml")
    return folder
