import pytest
import torch

from evaluation.extractors import ClassifierExtractor
from evaluation.features import Features, extract_features
from utils.errors import UserError
from utils.npz import NpzImages


def test_features_that_are_not_finite_are_refused(files):
    extractor = ClassifierExtractor(files / "c.safetensors")
    total = next(NpzImages(files / "samples.npz").batches(140))[70].sum(dtype=int)

    def overflowing(images: torch.Tensor) -> Features:
        features = extractor(images)
        features.spatial[images.flatten(1).sum(1) == total, 3] = torch.inf
        return features

    overflowing.name = "a network"
    with pytest.raises(UserError, match=r"samples.npz: the features of 1 images are NaN or infinite, .* image 70\."):
        extract_features(overflowing, NpzImages(files / "samples.npz"), 64, "samples")
