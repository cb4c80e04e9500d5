"""What the tokenizer is trained to minimise: the sum of losses that a phase asks for."""

import torch.nn.functional as F
from torch import Tensor, device, nn

from modeling.alitok.tokenizer import AliTok, TokenizerOutput
from modeling.frozen.imagenet_classifiers import load_classifier
from modeling.frozen.lpips import LPIPS, VGG16
from train_tokenizer.losses import LogitLoss, hinge_generator_loss, prefix_loss_ratio
from train_tokenizer.phases import PhaseSchedule
from utils.pretrained import get_weights
from utils.schema import Losses, Phase


class Objective:
    """Builds the networks of the losses that some phase uses, and none besides."""

    def __init__(self, config: Losses, schedule: PhaseSchedule, tokenizer: AliTok, to: device):
        self.config = config
        self.tokenizer = tokenizer
        self.prefix_ratio = prefix_loss_ratio(tokenizer.num_prefix_tokens, tokenizer.grid_size**2, config.prefix_weight)
        self.logit_loss = self.lpips = None
        if schedule.uses(perceptual=True):
            classifier = load_classifier(config.perceptual_model, config.perceptual_checkpoint, config.random_weights)
            self.logit_loss = LogitLoss(classifier).to(to)
        if schedule.uses(lpips=True):
            weights = None
            if not config.random_weights:
                weights = get_weights("VGG16", VGG16.url, "losses.lpips_checkpoint", config.lpips_checkpoint)
            self.lpips = LPIPS(weights).to(to)

    def __call__(
        self, images: Tensor, output: TokenizerOutput, phase: Phase, discriminator: nn.Module | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of the reconstructions of images (B, 3, H, W), and its parts by name, before weights."""
        reconstruction = output.reconstruction
        parts = {"reconstruction": F.mse_loss(reconstruction, images)}
        total = parts["reconstruction"]

        def add(name: str, value: Tensor, weight: float) -> None:
            nonlocal total
            parts[name] = value
            total = total + weight * value

        if output.prefix_image is not None:
            target = self.tokenizer.prefix_target(images)
            add("prefix", F.mse_loss(output.prefix_image, target), self.prefix_ratio)
        if output.quantizer_loss.requires_grad:  # not where encoder and codebook are frozen
            add("quantizer", output.quantizer_loss, self.config.quantizer_weight)
        if phase.perceptual_weight:
            add("perceptual", self.logit_loss(images, reconstruction), phase.perceptual_weight)
        if phase.lpips_weight:
            add("lpips", self.lpips(images, reconstruction).mean(), phase.lpips_weight)
        if phase.gan:
            weight = self.config.discriminator_factor * self.config.discriminator_weight
            add("adversarial", hinge_generator_loss(discriminator(reconstruction)), weight)
        return total, {"loss": total, **parts}
