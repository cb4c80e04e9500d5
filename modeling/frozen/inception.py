"""ADM's feature network: the 2015 TensorFlow Inception-v3, built by torch-fidelity."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.weights import require_finite

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
SPATIAL_CHANNELS = 7  # the first channels of mixed_6/conv: ADM's choice for sFID


class Inception(nn.Module):
    """Resizes to 299 x 299 by TensorFlow 1's bilinear rule, as the original graph does."""

    pool_width = 2048

    def __init__(self, state: Mapping[str, Tensor], source: str | Path):
        """state: torch-fidelity's state dict, read from the file `source`. Raises UserError if it does not fit."""
        super().__init__()
        require_finite(state, source)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        file = io.BytesIO()  # torch-fidelity only accepts a file, and would unpickle anything from a path
        torch.save(dict(state), file)
        file.seek(0)
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=file
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{source} holds no weights of ADM's Inception ({reason})") from error
        self._spatial: Tensor | None = None
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, _module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images: (B, 3, H, W) uint8 -> pool (B, 2048), spatial (B, 2023), logits without bias (B, 1008)."""
        pool, logits = self.network(images)
        return pool, self._spatial, logits
