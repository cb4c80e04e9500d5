"""ADM's feature network: the 2015 TensorFlow Inception-v3, through torch-fidelity."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from evaluation.features import Features
from evaluation.inception_graph import read_inception_graph
from modeling.layers.precision import full_float32
from utils.errors import UserError
from utils.pretrained import find_weights, get_weights
from utils.weights import read_state_dict

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
GRAPH = "classify_image_graph_def.pb"
PLACES = (".", "weights")
SPATIAL_CHANNELS = 7  # of mixed_6/conv, the first ones: ADM's choice for sFID


def inception_weights(path: str | None, download: bool = True) -> Path | None:
    """`path`, else the working directory, weights/ or torch's hub cache, else a download or None.

    In the first two places TensorFlow's own file will do as well.
    """
    arguments = ("ADM's Inception", WEIGHTS_URL, "--inception", path)
    found = find_weights(*arguments, places=PLACES)
    graph = next((file for file in (Path(p) / GRAPH for p in PLACES) if file.is_file()), None)
    if found or graph or not download:
        return found or graph
    return get_weights(*arguments, places=PLACES)


class InceptionExtractor:
    """Pool features (2048), spatial features (2023) and logits without bias (1008)."""

    name = "inception-v3-2015-12-05"
    num_features = 2048
    num_classes = None

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu"):
        """weights: torch-fidelity's .pth, or TensorFlow's classify_image_graph_def.pb. Raises UserError."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        is_graph = Path(weights).suffix == ".pb"
        # Refuses damaged files and pickled code, which torch-fidelity would run.
        state = read_inception_graph(weights) if is_graph else read_state_dict(weights)
        self.device = device
        with tempfile.NamedTemporaryFile(suffix=".pth") as copy:  # a file is the only way in
            torch.save(state, copy)
            copy.flush()
            try:
                self.network = FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=copy.name
                ).to(device)
            except RuntimeError as error:
                first = " ".join(str(error).split())[:200]
                raise UserError(f"{weights} holds no weights of ADM's Inception ({first})") from error
        self._spatial: Tensor | None = None
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, _module, _inputs, output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    @torch.no_grad()
    @full_float32()
    def __call__(self, images: Tensor) -> Features:
        """images: (B, H, W, 3) uint8."""
        pool, logits = self.network(images.to(self.device).permute(0, 3, 1, 2).contiguous())
        return Features(pool.cpu(), self._spatial.cpu(), logits.cpu())
