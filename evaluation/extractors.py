"""Which network judges: ADM's Inception, or a classifier in its place."""

from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from evaluation.features import Extractor, Features
from evaluation.inception import InceptionExtractor, inception_weights
from modeling.frozen.small_classifier import read_classifier


class ClassifierExtractor:
    """Features from a classifier file written by `evaluation/train_classifier.py`."""

    def __init__(self, path: str | Path, device: torch.device | str = "cpu"):
        self.network, self.info = read_classifier(path)
        self.network.to(device)
        self.num_features = self.network.head.in_features
        self.num_classes = self.network.head.out_features
        self.device = device
        self.name = f"classifier ({100 * self.info['val_accuracy']:.1f} % on its validation split)"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """images: (B, H, W, 3) uint8."""
        x = images.to(self.device).permute(0, 3, 1, 2).float() / 255
        return Features(*(t.cpu() for t in self.network.features(x)))


def load_extractor(inception: str | None, classifier: str | None, device: torch.device) -> Extractor:
    """The classifier of file `classifier` if one is given, else Inception with the weights `inception`.

    Without a path Inception's are looked for and downloaded, once for all processes of a machine.
    """
    if classifier:
        return ClassifierExtractor(classifier, device)
    with PartialState().local_main_process_first():
        weights = inception_weights(inception)
    return InceptionExtractor(weights, device)
