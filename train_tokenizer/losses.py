"""Losses of tokenizer training. Images are (B, 3, H, W) in [0, 1] throughout."""

from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.transforms import functional as TF

from utils.errors import UserError
from utils.weights import load_strict, read_state_dict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLASSIFIER_SIZE = 224


def prefix_loss_ratio(num_prefix_tokens: int, num_image_tokens: int, prefix_weight: float) -> float:
    """Weight of the prefix image's error: `prefix_weight` x A / N, its share of all patches."""
    return prefix_weight * num_prefix_tokens / num_image_tokens


def _pretrained_state(name: str, checkpoint: str | None, key: str) -> dict[str, Tensor]:
    """Weights of a torchvision classifier: from `checkpoint`, torch's hub cache, or a download."""
    try:
        weights = torchvision.models.get_model_weights(name)
    except ValueError as error:
        raise UserError(f"losses.perceptual_model '{name}' is no classifier of torchvision") from error
    if checkpoint:
        return read_state_dict(checkpoint)
    best = weights.IMAGENET1K_V1
    try:
        return dict(best.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / best.url.rsplit("/", 1)[-1]
        raise UserError(
            f"weights of {name} could not be downloaded ({error}). Get {best.url} elsewhere and put it to"
            f" {cached}, or set {key} to its path"
        ) from error


class LogitLoss(nn.Module):
    """MSE between the logits of an ImageNet classifier on both images."""

    def __init__(self, name: str, checkpoint: str | None):
        super().__init__()
        state = _pretrained_state(name, checkpoint, "losses.perceptual_checkpoint")
        with torch.device("meta"):  # no random weights, only to overwrite them
            self.classifier = torchvision.models.get_model(name, weights=None)
        load_strict(self.classifier, state, checkpoint or name)
        self.eval().requires_grad_(False)

    def _logits(self, images: Tensor) -> Tensor:
        images = F.interpolate(
            images, (CLASSIFIER_SIZE, CLASSIFIER_SIZE), mode="bilinear", align_corners=False, antialias=True
        )
        return self.classifier(TF.normalize(images, IMAGENET_MEAN, IMAGENET_STD))

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        with torch.no_grad():
            target = self._logits(images)
        return F.mse_loss(self._logits(reconstruction).float(), target.float())


class LPIPSLoss(nn.Module):
    """LPIPS with VGG16 (Zhang et al. 2018); the `lpips` package carries the linear layers."""

    def __init__(self, checkpoint: str | None):
        super().__init__()
        import lpips

        state = _pretrained_state("vgg16", checkpoint, "losses.lpips_checkpoint")
        with torch.device("meta"):  # no random weights, only to overwrite them
            vgg = torchvision.models.vgg16(weights=None)
        load_strict(vgg, state, checkpoint or "vgg16", prefixes=("features.",))
        self.metric = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        for index in range(1, 6):  # the package cuts VGG's layers into five slices, numbered on
            for position, layer in getattr(self.metric.net, f"slice{index}").named_children():
                layer.load_state_dict(vgg.features[int(position)].state_dict())
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        return self.metric(images * 2 - 1, reconstruction * 2 - 1).float().mean()


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    return -fake_logits.float().mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    real = F.relu(1 - real_logits.float()).mean()
    fake = F.relu(1 + fake_logits.float()).mean()
    return 0.5 * (real + fake)
