"""Classifiers for the logit loss: ImageNet classifiers of torchvision and timm, or one trained on the data itself."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn

from modeling.frozen.small_classifier import SMALL_CLASSIFIER, load_small_classifier
from utils.errors import UserError, first_line, nearest
from utils.pretrained import get_weights
from utils.weights import load_strict, read_state_dict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TORCHVISION_SIZE = 224
CHECKPOINT_KEY = "losses.perceptual_checkpoint"


@dataclass(frozen=True)
class ImageClassifier:
    """A network from normalised images (B, 3, S, S) to logits (B, classes)."""

    network: nn.Module
    input_size: int = TORCHVISION_SIZE
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def load_classifier(name: str, checkpoint: str | None, random_weights: bool = False) -> ImageClassifier:
    """Load `name`: "small_classifier", or a model name of torchvision, else of timm, with ImageNet weights.

    ImageNet weights come from `checkpoint`, the libraries' caches or a download. Weights of "small_classifier" come
    from `checkpoint`, a file that evaluation/train_classifier.py wrote. `random_weights` is for tests only.
    Raises UserError that says which file to put where.
    """
    if name == SMALL_CLASSIFIER:
        network, size = load_small_classifier(checkpoint, CHECKPOINT_KEY, random_weights)
        return ImageClassifier(network, size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    if name in torchvision.models.list_models(module=torchvision.models):
        return _from_torchvision(name, checkpoint, random_weights)
    import timm  # imported late: it takes a second

    if timm.is_model(name.partition(".")[0]):
        return _from_timm(name, checkpoint, random_weights)
    known = [SMALL_CLASSIFIER, *torchvision.models.list_models(module=torchvision.models), *timm.list_models()]
    raise UserError(
        f"losses.perceptual_model '{name}' is neither {SMALL_CLASSIFIER} nor a classifier of torchvision or timm"
        f"{nearest(name, known)}"
    )


def _load(network: nn.Module, checkpoint: str | Path) -> None:
    load_strict(network, read_state_dict(checkpoint), checkpoint)


def _from_torchvision(name: str, checkpoint: str | None, random_weights: bool) -> ImageClassifier:
    if random_weights:
        return ImageClassifier(torchvision.models.get_model(name))
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    path = get_weights(name, weights.url, CHECKPOINT_KEY, checkpoint)
    with torch.device("meta"):  # skip the initialisation of weights that are overwritten
        network = torchvision.models.get_model(name)
    _load(network, path)
    return ImageClassifier(network)


def _from_timm(name: str, checkpoint: str | None, random_weights: bool) -> ImageClassifier:
    import timm

    try:
        network = timm.create_model(name, pretrained=not (checkpoint or random_weights))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no weights of timm's {name}: {first_line(error)}. Download them into the Hugging Face cache (HF_HOME) on"
            f" a machine with network access, or set {CHECKPOINT_KEY} to a file"
        ) from error
    if checkpoint:
        _load(network, checkpoint)
    data = timm.data.resolve_model_data_config(network)
    return ImageClassifier(network, data["input_size"][-1], data["mean"], data["std"])
