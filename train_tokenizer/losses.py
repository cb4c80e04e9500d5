"""Losses on pixels. Images are (B, 3, H, W) in [0, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.frozen.imagenet_classifiers import ImageClassifier
from modeling.layers.layout import for_convolutions
from modeling.layers.precision import at_least_float32


class LogitLoss(nn.Module):
    """MSE between the logits of an ImageNet classifier on both images."""

    def __init__(self, classifier: ImageClassifier):
        super().__init__()
        self.classifier = classifier.network.eval().requires_grad_(False)
        self.size = [classifier.input_size] * 2
        # Buffers: torchvision's normalize would copy the constants to the device at each call, and wait.
        for name in ("mean", "std"):
            value = torch.tensor(getattr(classifier, name))[:, None, None]
            self.register_buffer(name, value, persistent=False)

    def _logits(self, images: Tensor) -> Tensor:
        images = F.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=True)
        images = (images - self.mean) / self.std
        return self.classifier(for_convolutions(images))

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        with torch.no_grad():
            target = self._logits(images)
        return F.mse_loss(at_least_float32(self._logits(reconstruction)), at_least_float32(target))


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    return -at_least_float32(fake_logits).mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    real = F.relu(1 - at_least_float32(real_logits)).mean()
    fake = F.relu(1 + at_least_float32(fake_logits)).mean()
    return 0.5 * (real + fake)
