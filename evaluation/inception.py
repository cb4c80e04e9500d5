"""ADM's feature network: the 2015 TensorFlow Inception-v3, through torch-fidelity."""

from pathlib import Path

import torch
from torch import Tensor

from evaluation.features import Features
from utils.pretrained import find_weights, get_weights
from utils.weights import read_state_dict

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
SPATIAL_CHANNELS = 7  # of mixed_6/conv, the first ones: ADM's choice for sFID


def inception_weights(path: str | None, download: bool = True) -> Path | None:
    """`path`, else the working directory, weights/ or torch's hub cache, else a download or None."""
    find = get_weights if download else find_weights
    return find("ADM's Inception", WEIGHTS_URL, "--inception", path, places=(".", "weights"))


class InceptionExtractor:
    """Pool features (2048), spatial features (2023) and logits without bias (1008)."""

    name = "inception-v3-2015-12-05"
    num_features = 2048

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu"):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        read_state_dict(weights)  # refuses damaged files and pickled code, which torch-fidelity would run
        self.device = device
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
        ).to(device)
        self._spatial: Tensor | None = None
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, _module, _inputs, output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """images: (B, H, W, 3) uint8."""
        pool, logits = self.network(images.to(self.device).permute(0, 3, 1, 2).contiguous())
        return Features(pool.cpu(), self._spatial.cpu(), logits.cpu())
