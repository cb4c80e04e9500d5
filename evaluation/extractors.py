"""Which network judges: ADM's Inception, or a classifier in its place."""

import torch
from accelerate import PartialState

from evaluation.classifier import ClassifierExtractor
from evaluation.features import Extractor
from evaluation.inception import InceptionExtractor, inception_weights


def load_extractor(inception: str | None, classifier: str | None, device: torch.device) -> Extractor:
    """The classifier of file `classifier` if one is given, else Inception with the weights `inception`.

    Without a path Inception's are looked for and downloaded, once for all processes of a machine.
    """
    if classifier:
        return ClassifierExtractor(classifier, device)
    with PartialState().local_main_process_first():
        weights = inception_weights(inception)
    return InceptionExtractor(weights, device)
