import numpy as np
import pytest

from evaluation.evaluate_samples import SampleEvaluation
from evaluation.extractors import ClassifierExtractor
from tests.support import toy
from tests.support.launch import run


@pytest.mark.slow
def test_a_reference_file_with_statistics(files, tmp_path):
    """Made from an .npz file, it gives the numbers of that file; made from a folder, it holds the folder's crops."""
    command = ("-m", "evaluation.make_reference", "--classifier", files / "c.safetensors")
    run(*command, "--npz", files / "reference.npz", "--output", tmp_path / "ref.npz")
    with np.load(tmp_path / "ref.npz", allow_pickle=False) as arrays:
        assert arrays["sigma"].shape == (128, 128)
        assert arrays["mu_s"].ndim == 1
        assert len(arrays["arr_0"]) == 150
    extractor = ClassifierExtractor(files / "c.safetensors")
    references = (files / "reference.npz", tmp_path / "ref.npz")
    one, two = (SampleEvaluation(r, files / "samples.npz").run(extractor, 64) for r in references)
    assert one == pytest.approx(two, rel=1e-5)
    images = toy.write_images(tmp_path / "images", per_class=3)
    run(*command, "--data_path", images, "--img_size", 16, "--max_images", 5, "--output", tmp_path / "folder.npz")
    with np.load(tmp_path / "folder.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (5, 16, 16, 3)
        assert len(arrays["arr_1"]) == 5
        assert "mu" in arrays
