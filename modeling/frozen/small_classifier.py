"""A small convolutional classifier that is trained on the data itself and can replace Inception in the metrics."""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from utils.atomic import atomic_path
from utils.errors import UserError
from utils.weights import load_strict, read_state_dict

SMALL_CLASSIFIER = "small_classifier"  # its name in settings
SPATIAL_CHANNELS = 7  # ADM's number for sFID


class Classifier(nn.Module):
    """Three stride-2 stages with batch norm, global average pooling, a linear layer."""

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        stages, last = [], 3
        for width in widths:
            stages.append(
                nn.Sequential(
                    nn.Conv2d(last, width, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                )
            )
            last = width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(last, num_classes)

    def maps(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W) in [0, 1] -> the features of each stage, (B, channels, rows, columns)."""
        x, maps = images * 2 - 1, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images: (B, 3, H, W) in [0, 1] -> pool (B, d), spatial (B, s), logits (B, classes)."""
        maps = self.maps(images)
        pool = maps[-1].mean((2, 3))
        spatial = maps[-2][:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return pool, spatial, self.head(pool)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)[2]


def load_small_classifier(checkpoint: str | Path | None, key: str, random_weights: bool) -> tuple[Classifier, int]:
    """The network of a loss, in evaluation mode, and the side of the images that it has learned.

    key: the setting that names the file, for errors. random_weights: for tests only. Raises UserError.
    """
    if random_weights:
        return Classifier(num_classes=10).eval(), 32
    if not checkpoint:
        raise UserError(f"{SMALL_CLASSIFIER} needs {key}, a file of python -m evaluation.train_classifier")
    network, info = read_classifier(checkpoint)
    if "img_size" not in info:
        raise UserError(f"{checkpoint} holds no image size: train the classifier again")
    return network, info["img_size"]


def read_classifier(path: str | Path) -> tuple[Classifier, dict[str, Any]]:
    """Network in evaluation mode and its num_classes, img_size and val_accuracy, from a file that
    `evaluation/train_classifier.py` wrote. Raises UserError."""
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            info = json.loads(file.metadata()["classifier"])
        network = Classifier(info["num_classes"])
    except (OSError, RuntimeError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a file of evaluation/train_classifier.py ({error})") from error
    load_strict(network, read_state_dict(path), path)
    return network.eval(), info


def save_classifier(path: str | Path, network: Classifier, img_size: int, val_accuracy: float) -> None:
    info = {"num_classes": network.head.out_features, "img_size": img_size, "val_accuracy": val_accuracy}
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with atomic_path(path) as part:
        safetensors.torch.save_file(state, part, metadata={"classifier": json.dumps(info)})
