"""What a tokenizer is trained to minimise: its own losses, and those that the phase adds on pixels."""

from dataclasses import dataclass

from torch import Tensor, device, nn

from modeling.frozen.imagenet_classifiers import load_classifier
from modeling.frozen.lpips import LPIPS_NETWORKS, load_lpips
from modeling.interfaces import LossTerm, PerceptualPicture, TokenizerOutput
from modeling.layers.layout import convolution_layout
from modeling.layers.precision import at_least_float32
from train_tokenizer.losses import LogitLoss, hinge_generator_loss
from train_tokenizer.phases import Phase, PhaseSchedule
from utils.config import option
from utils.errors import UserError


@dataclass
class LossSettings:
    """`losses`: networks and weights of the losses on pixels. The tokenizer's own are in model.vq_model."""

    perceptual_model: str = option(
        "convnext_small", "classifier of the logit loss: of torchvision, of timm, or small_classifier"
    )
    perceptual_checkpoint: str | None = option(
        None, "its weights; null: torch's hub cache, else a download", path="read"
    )
    lpips_network: str = option("vgg16", "network of LPIPS", choices=LPIPS_NETWORKS)
    lpips_checkpoint: str | None = option(
        None, "its weights; null: torch's hub cache, else a download of VGG16", path="read"
    )
    random_weights: bool = option(False, "untrained perceptual networks, only for tests")
    full_precision: bool = option(False, "compute the losses on pixels and the discriminator in float32, as TiTok")
    discriminator_factor: float = option(0.1, "scales both adversarial losses", min=0)
    discriminator_weight: float = option(0.05, "scales the tokenizer's adversarial loss once more", min=0)
    discriminator_turns: bool = option(
        True, "tokenizer and discriminator take turns, a step each, as AliTok; false: each step updates both, as TiTok"
    )
    lecam_regularization_weight: float = option(0.0, "weight of LeCam in the discriminator's loss", min=0)
    lecam_ema_decay: float = option(0.999, "decay of the running means of LeCam", min=0, max=1)


def _frozen(network: nn.Module, to: device, compile: bool) -> nn.Module:
    """On its device, in the layout of the images that it sees."""
    network = network.to(to, memory_format=convolution_layout(to.type))
    if compile:
        network.compile()
    return network


class TokenizerLoss:
    """Builds the networks of those losses that some phase uses."""

    def __init__(self, settings: LossSettings, schedule: PhaseSchedule, to: device, compile: bool = False):
        """to: the device of the networks; compile: whether to compile them."""
        self.settings = settings
        self.logit_loss = self.lpips = None
        if schedule.uses_perceptual:
            name, checkpoint = settings.perceptual_model, settings.perceptual_checkpoint
            classifier = load_classifier(name, checkpoint, settings.random_weights)
            self.logit_loss = _frozen(LogitLoss(classifier), to, compile)
        if schedule.uses_lpips:
            given = settings.lpips_network, settings.lpips_checkpoint, "losses.lpips_checkpoint"
            self.lpips = _frozen(load_lpips(*given, settings.random_weights), to, compile)

    def __call__(
        self, images: Tensor, output: TokenizerOutput, phase: Phase, discriminator: nn.Module | None
    ) -> dict[str, Tensor]:
        """ "loss", the weighted sum, and its terms by name, before their weights. images: (B, 3, H, W)."""
        terms = output.losses | self._on_pixels(images, output, phase, discriminator)
        total = sum(term.weight * term.value for term in terms.values())
        return {"loss": total, **{name: term.value for name, term in terms.items()}}

    def _on_pixels(
        self, images: Tensor, output: TokenizerOutput, phase: Phase, discriminator: nn.Module | None
    ) -> dict[str, LossTerm]:
        terms: dict[str, LossTerm] = {}
        reconstruction = output.reconstruction
        if reconstruction is None and (phase.perceptual_weight or phase.lpips_weight or phase.gan):
            raise UserError(f"phase '{phase.name}' asks for losses on pixels, but this tokenizer's training makes none")
        for name, (picture, weight) in self._perceptual_pictures(output).items():
            if phase.perceptual_weight:
                value = self.logit_loss(images, picture)
                terms[f"{name}perceptual"] = LossTerm(value, weight * phase.perceptual_weight)
            if phase.lpips_weight:
                value = self.lpips(images, picture).mean()
                terms[f"{name}lpips"] = LossTerm(value, weight * phase.lpips_weight)
        if phase.gan:
            weight = self.settings.discriminator_factor * self.settings.discriminator_weight
            logits = discriminator(at_least_float32(reconstruction))
            terms["adversarial"] = LossTerm(hinge_generator_loss(logits), weight)
        return terms

    @staticmethod
    def _perceptual_pictures(output: TokenizerOutput) -> dict[str, PerceptualPicture]:
        """What the perceptual losses compare with the images, by the start of the loss's name."""
        more = {f"{name}_": picture for name, picture in output.perceptual_pictures.items()}
        return {"": PerceptualPicture(output.reconstruction, 1.0), **more}
