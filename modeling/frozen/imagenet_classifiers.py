"""Classifiers for the logit loss: torchvision's and timm's of ImageNet by name, or one trained on the data."""

from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn

from modeling.frozen.small_classifier import read_classifier
from utils.errors import UserError, first_line, nearest
from utils.pretrained import get_weights
from utils.weights import load_strict, read_state_dict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TORCHVISION_SIZE = 224
OWN = "small_classifier"  # that of modeling/frozen/small_classifier.py
CHECKPOINT_KEY = "losses.perceptual_checkpoint"


@dataclass(frozen=True)
class ImageClassifier:
    """A network from normalised images (B, 3, S, S) to logits (B, classes)."""

    network: nn.Module
    input_size: int = TORCHVISION_SIZE
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def load_classifier(name: str, checkpoint: str | None, random_weights: bool = False) -> ImageClassifier:
    """A classifier of torchvision, or else of timm, with ImageNet weights, or `small_classifier`.

    The weights come from `checkpoint`, the libraries' caches, or a download; those of
    `small_classifier` from a file of evaluation/train_classifier.py. `random_weights` is for tests
    alone. Raises UserError that says which file to put where.
    """
    if name == OWN:
        return _own(checkpoint)
    if name in torchvision.models.list_models(module=torchvision.models):
        return _from_torchvision(name, checkpoint, random_weights)
    import timm  # a second of every start, for those who need it

    if timm.is_model(name.partition(".")[0]):
        return _from_timm(name, checkpoint, random_weights)
    known = [OWN, *torchvision.models.list_models(module=torchvision.models), *timm.list_models()]
    raise UserError(
        f"losses.perceptual_model '{name}' is neither {OWN} nor a classifier of torchvision or timm"
        f"{nearest(name, known)}"
    )


def _own(checkpoint: str | None) -> ImageClassifier:
    if not checkpoint:
        raise UserError(
            f"losses.perceptual_model={OWN} needs {CHECKPOINT_KEY}: a file of python -m evaluation.train_classifier"
        )
    network, info = read_classifier(checkpoint)
    if "img_size" not in info:
        raise UserError(f"{checkpoint} does not say for which image size it is: train it again")
    return ImageClassifier(network, info["img_size"], mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def _load(network: nn.Module, checkpoint: Any) -> None:
    load_strict(network, read_state_dict(checkpoint), checkpoint)


def _from_torchvision(name: str, checkpoint: str | None, random_weights: bool) -> ImageClassifier:
    if random_weights:
        return ImageClassifier(torchvision.models.get_model(name))
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    path = get_weights(name, weights.url, CHECKPOINT_KEY, checkpoint)
    with torch.device("meta"):  # no random weights, only to overwrite them
        network = torchvision.models.get_model(name)
    _load(network, path)
    return ImageClassifier(network)


def _from_timm(name: str, checkpoint: str | None, random_weights: bool) -> ImageClassifier:
    import timm

    try:
        network = timm.create_model(name, pretrained=not (checkpoint or random_weights))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no weights of timm's {name}: {first_line(error)}. Download them where there is a network into"
            f" the Hugging Face cache (HF_HOME), or name a file with {CHECKPOINT_KEY}"
        ) from error
    if checkpoint:
        _load(network, checkpoint)
    data = timm.data.resolve_model_data_config(network)
    return ImageClassifier(network, data["input_size"][-1], data["mean"], data["std"])
