"""LPIPS with VGG16 (Zhang et al. 2018, arXiv:1801.03924), as a loss and as a metric."""

import warnings
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from modeling.layers.layout import for_convolutions
from utils.weights import load_strict, read_state_dict

VGG16 = torchvision.models.VGG16_Weights.IMAGENET1K_V1


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
