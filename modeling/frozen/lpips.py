"""LPIPS (Zhang et al. 2018, arXiv:1801.03924) with VGG16 or with a small classifier, as a loss and as a metric."""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from modeling.frozen.small_classifier import SMALL_CLASSIFIER, Classifier, load_small_classifier
from modeling.layers.layout import for_convolutions
from modeling.layers.precision import at_least_float32
from utils.pretrained import get_weights
from utils.weights import load_strict, read_state_dict

VGG16 = torchvision.models.VGG16_Weights.IMAGENET1K_V1
LPIPS_NETWORKS = ("vgg16", SMALL_CLASSIFIER)


class LPIPS(nn.Module):
    """The metric of the `lpips` package. The package holds the linear layers; VGG16's weights come from a file."""

    def __init__(self, vgg_weights: str | Path | None):
        """vgg_weights: torchvision's VGG16 checkpoint; None leaves random weights, for tests only."""
        super().__init__()
        import lpips

        with warnings.catch_warnings():  # the package passes torchvision a deprecated argument
            warnings.simplefilter("ignore", UserWarning)
            self.metric = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        if vgg_weights is not None:
            with torch.device("meta"):  # skip the initialisation of weights that are overwritten
                vgg = torchvision.models.vgg16(weights=None)
            load_strict(vgg, read_state_dict(vgg_weights), vgg_weights, prefixes=("features.",))
            for index in range(1, 6):  # splits VGG into slice1..slice5; layer names keep VGG's indices
                for position, layer in getattr(self.metric.net, f"slice{index}").named_children():
                    layer.load_state_dict(vgg.features[int(position)].state_dict())
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Both (B, 3, H, W) in [0, 1]. Returns the distance of each pair, (B,)."""
        pair = (for_convolutions(x * 2 - 1) for x in (images, reconstruction))
        return self.metric(*pair).float().flatten()


class ClassifierDistance(nn.Module):
    """LPIPS in the features of `evaluation/train_classifier.py`'s network, with equal weights of all channels.

    The features of each stage have length 1 at each place. Their squared differences are summed over channels,
    averaged over places and summed over stages: formula 1 of the paper with w = 1.
    """

    def __init__(self, network: Classifier):
        super().__init__()
        self.network = network.requires_grad_(False)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Both (B, 3, H, W) in [0, 1]. Returns the distance of each pair, (B,)."""
        pair = (self.network.maps(for_convolutions(x)) for x in (images, reconstruction))
        stages = [[F.normalize(at_least_float32(x), dim=1) for x in maps] for maps in pair]
        return sum((a - b).square().sum(1).mean((1, 2)) for a, b in zip(*stages, strict=True))


def load_lpips(network: str, checkpoint: str | Path | None, key: str, random_weights: bool = False) -> nn.Module:
    """One of LPIPS_NETWORKS, from (B, 3, H, W) in [0, 1], twice, to (B,). Without a file VGG16 is downloaded.

    key: the setting that names the file, for errors. random_weights: for tests only. Raises UserError.
    """
    if network == SMALL_CLASSIFIER:
        return ClassifierDistance(load_small_classifier(checkpoint, key, random_weights)[0])
    return LPIPS(None if random_weights else get_weights("VGG16", VGG16.url, key, checkpoint))
