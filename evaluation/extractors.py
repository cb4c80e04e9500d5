"""Feature extractors: ADM's Inception, or a classifier trained on the data itself."""

from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from evaluation.convert_inception import read_inception_graph
from evaluation.features import Extractor, Features
from modeling.frozen.inception import WEIGHTS_URL, Inception
from modeling.frozen.small_classifier import read_classifier
from modeling.layers.precision import full_float32
from utils.pretrained import find_weights, get_weights
from utils.weights import read_state_dict

TENSORFLOW_GRAPH = "classify_image_graph_def.pb"
FOLDERS = (".", "weights")


def inception_weights(path: str | None, download: bool = True) -> Path | None:
    """`path`, else torch-fidelity's file in the working directory, weights/ or torch's hub cache.

    Else TensorFlow's file in the first two folders, else a download, or None without `download`.
    """
    arguments = ("ADM's Inception", WEIGHTS_URL, "--inception", path)
    found = find_weights(*arguments, folders=FOLDERS)
    graph = next((file for file in (Path(folder) / TENSORFLOW_GRAPH for folder in FOLDERS) if file.is_file()), None)
    if found or graph or not download:
        return found or graph
    return get_weights(*arguments, folders=FOLDERS)


class InceptionExtractor:
    """Pool features (2048), spatial features (2023) and logits without bias (1008)."""

    name = "inception-v3-2015-12-05"
    num_features = Inception.pool_width
    num_classes = None

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu"):
        """weights: torch-fidelity's .pth, or TensorFlow's classify_image_graph_def.pb. Raises UserError."""
        read = read_inception_graph if Path(weights).suffix == ".pb" else read_state_dict
        self.network = Inception(read(weights), weights).to(device)
        self.device = device

    @torch.no_grad()
    @full_float32()
    def __call__(self, images: Tensor) -> Features:
        """images: (B, H, W, 3) uint8."""
        return Features(*(x.cpu() for x in self.network(images.to(self.device).permute(0, 3, 1, 2).contiguous())))


class ClassifierExtractor:
    """Features of a classifier file that `evaluation/train_classifier.py` wrote."""

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
    """The classifier of the file `classifier` if given, else Inception with the weights of the file `inception`.

    Without either path Inception's weights are searched for and downloaded, once per machine.
    """
    if classifier:
        return ClassifierExtractor(classifier, device)
    with PartialState().local_main_process_first():
        weights = inception_weights(inception)
    return InceptionExtractor(weights, device)
