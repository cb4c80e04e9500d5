from pathlib import Path

import numpy as np
import pytest
import torch

from modeling.frozen.small_classifier import Classifier, save_classifier
from tests.support.inception import random_state, tensorflow_graph


@pytest.fixture(scope="package")
def files(tmp_path_factory) -> Path:
    """A folder with c.safetensors (classifier), reference.npz (150 images) and samples.npz (140 images)."""
    folder = tmp_path_factory.mktemp("evaluation")
    torch.manual_seed(0)
    save_classifier(folder / "c.safetensors", Classifier(4), 4, 0.5)
    rng = np.random.default_rng(0)
    np.savez(folder / "reference.npz", arr_0=rng.integers(0, 256, (150, 16, 16, 3), dtype=np.uint8))
    np.savez_compressed(folder / "samples.npz", arr_0=rng.integers(0, 200, (140, 16, 16, 3), dtype=np.uint8))
    return folder


@pytest.fixture(scope="session")
def inception_files(tmp_path_factory) -> Path:
    """A folder with the same random weights as inception.pth and as classify_image_graph_def.pb."""
    folder = tmp_path_factory.mktemp("inception")
    state = random_state()
    torch.save(state, folder / "inception.pth")
    (folder / "classify_image_graph_def.pb").write_bytes(tensorflow_graph(state))
    return folder
