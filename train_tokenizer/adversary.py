"""The discriminator's side of the adversarial phases."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from modeling.layers.precision import at_least_float32
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.discriminator import Discriminator
from train_tokenizer.lecam import LeCam
from train_tokenizer.losses import hinge_discriminator_loss
from training.distributed import accumulate
from training.guard import StepGuard
from training.optimizer import make_adamw, parameter_groups, set_learning_rate
from training.preemption import StopRequest
from training.state import TrainState


class Adversary:
    """The discriminator, its optimizer, its loss and its steps."""

    def __init__(
        self,
        config: TokenizerConfig,
        accelerator: Accelerator,
        decays: Callable[[str, Tensor], bool],
        autocast: Callable[[], AbstractContextManager],
        stop: StopRequest,
    ):
        """decays: whether weight decay applies to a parameter; autocast: for the discriminator's forwards;
        stop: for its guard."""
        self.settings, params = config.losses, config.optimizer.params
        self.accelerator, self.autocast = accelerator, autocast
        self.discriminator = Discriminator().to(accelerator.device)
        groups = parameter_groups(self.discriminator, params.weight_decay, decays)
        self.optimizer = make_adamw(groups, params, params.discriminator_learning_rate)
        self.lecam: LeCam | None = None
        if self.settings.lecam_regularization_weight:
            self.lecam = LeCam(self.settings.lecam_ema_decay).to(accelerator.device)
        self.guard = StepGuard(accelerator, config.training, stop)

    def add_to(self, state: TrainState) -> None:
        """Make it part of the checkpoints."""
        state.models["discriminator"] = self.discriminator
        state.optimizers["discriminator_optimizer"] = (self.discriminator, self.optimizer)
        if self.lecam is not None:
            state.models["lecam"] = self.lecam

    def prepare(self) -> None:
        """Share it with the other ranks; after a resume."""
        forward = self.discriminator.forward
        self.model, self.optimizer = self.accelerator.prepare(self.discriminator, self.optimizer)
        if self.settings.full_precision:  # a prepared forward turns autocast on again
            self.discriminator.forward = forward

    def loss(self, images: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Hinge loss on images and their reconstructions, both (B, 3, H, W) in [0, 1], and LeCam's term.

        LeCam's means are over all ranks, so that the loss does not depend on their number; over the images of one
        micro-batch, if a step has several.
        """
        with self.autocast():
            # One forward for both halves: DDP allows one per backward, and no layer mixes images.
            real_logits, fake_logits = self.model(torch.cat([images, fake])).chunk(2)
            loss = self.settings.discriminator_factor * hinge_discriminator_loss(real_logits, fake_logits)
        real, fake = (self._mean_over_ranks(at_least_float32(x).mean()) for x in (real_logits, fake_logits))
        values = {"real_logits": real, "fake_logits": fake}
        if self.lecam is not None:
            values["lecam"] = self.lecam(real, fake)
            loss = loss + self.settings.lecam_regularization_weight * values["lecam"]
        return {"loss": loss, **values}

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        """The mean, with the gradient of this rank's part: averaged over the ranks it is the mean's gradient."""
        return value + (self.accelerator.reduce(value.detach(), reduction="mean") - value.detach())

    def step(
        self, pairs: list[tuple[Tensor, Tensor]], learning_rate: float, step: int, describe: Callable[[], str]
    ) -> tuple[dict[str, Any], bool]:
        """One update on images and their reconstructions, a pair for each micro-batch.

        Returns the values to log and whether the weights were updated. step, describe: for the messages.
        """
        set_learning_rate(self.optimizer, learning_rate)
        self.discriminator.requires_grad_(True)
        means = accumulate(self.accelerator, self.model, pairs, lambda pair: self.loss(*pair))
        loss = means.pop("loss")
        norm, updated = self.guard.update(self.model, self.optimizer, loss, step=step, describe=describe)
        if updated and self.lecam is not None:
            self.lecam.update(means["real_logits"], means["fake_logits"])
        return {"discriminator": loss, "discriminator_grad_norm": norm, **means}, updated
