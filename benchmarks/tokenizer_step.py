"""Operations and peak memory of a tokenizer's training step, counted without a GPU and without data."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training_memory import BYTES_PER_WEIGHT, AliveTensors, StepMemory, on_pretended_cuda, pretended_cuda
from modeling.build import build_trainable_tokenizer
from modeling.interfaces import LossTerm, PerceptualPicture, TokenizerOutput
from modeling.start import freeze_codes
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.discriminator import Discriminator
from train_tokenizer.loss import TokenizerLoss
from train_tokenizer.losses import hinge_discriminator_loss
from train_tokenizer.phases import Phase, PhaseSchedule

COUNTED_BATCH = 2  # images; operations are divided by it


class TokenizerStep:
    """The networks of a stage on the meta device, which has shapes and no data."""

    def __init__(self, config: TokenizerConfig):
        self.config = config
        schedule = PhaseSchedule(config.phases, config.lr_scheduler.params.warmup_steps, config.lr_scheduler.params)
        with torch.device("meta"):
            self.tokenizer = build_trainable_tokenizer(config.model.vq_model).train()
            self.loss = TokenizerLoss(replace(config.losses, random_weights=True), schedule, torch.device("meta"))
            self.discriminator = Discriminator() if schedule.uses_gan else None
        if config.training.freeze_encoder:
            freeze_codes(self.tokenizer)

    def images(self, count: int, device: str) -> Tensor:
        side = self.tokenizer.image_size
        return torch.empty(count, 3, side, side, device=device)

    def flops(self, phase: Phase) -> float:
        """Operations of an average step of a phase, forward and backward, for each image of its batch."""
        forward, _ = self._forward  # counted here, and not inside the losses
        total = self._tokenizer_flops + count_flops(lambda: self._losses_on_pixels(phase).backward())
        if phase.gan:
            total += forward + count_flops(lambda: self._discriminator_loss().backward())
        # While the GAN is on, the two take turns, a step each, or share each step.
        turns = phase.gan and self.config.losses.discriminator_turns
        return total / COUNTED_BATCH / (2 if turns else 1)

    @cached_property
    def _tokenizer_flops(self) -> int:
        """Of the tokenizer itself, forward and backward."""

        def step() -> None:
            output = self.tokenizer(self.images(COUNTED_BATCH, "meta"))
            pictures = [output.reconstruction, *(more.picture for more in output.perceptual_pictures.values())]
            sum([term.value for term in output.losses.values()] + [picture.sum() for picture in pictures]).backward()

        return count_flops(step)

    @cached_property
    def _forward(self) -> tuple[int, dict[str, PerceptualPicture]]:
        """Operations of a forward pass, and its pictures for perceptual losses only."""
        outputs: list[TokenizerOutput] = []
        with torch.no_grad():
            operations = count_flops(lambda: outputs.append(self.tokenizer(self.images(COUNTED_BATCH, "meta"))))
        return operations, outputs[0].perceptual_pictures

    def _losses_on_pixels(self, phase: Phase, count: int = COUNTED_BATCH, device: str = "meta") -> Tensor:
        """The phase's losses on pictures that need a gradient."""
        more = self._forward[1]
        real, fake = (self.images(count, device) for _ in range(2))
        fake.requires_grad_()
        pictures = {name: picture._replace(picture=fake) for name, picture in more.items()}
        output = TokenizerOutput({"pixels": LossTerm(fake.sum(), 1.0)}, fake, pictures)
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        return self.loss(real, output, phase, self.discriminator)["loss"]

    def _discriminator_loss(self) -> Tensor:
        logits = self.discriminator.requires_grad_(True)(self.images(2 * COUNTED_BATCH, "meta"))
        return hinge_discriminator_loss(*logits.chunk(2))

    def encoding_flops(self) -> float:
        """Operations of encoding one image."""
        return count_flops(lambda: self.tokenizer.encode(self.images(COUNTED_BATCH, "meta"))) / COUNTED_BATCH

    def weights(self) -> list[nn.Parameter]:
        return [*self.tokenizer.parameters(), *(self.discriminator.parameters() if self.discriminator else ())]

    def memory(self, batch_size: int) -> StepMemory:
        """Of a micro-batch in the phase that needs most. Afterwards the object counts nothing else.

        What backward makes on top is bounded by twice the largest tensor of the forward pass.
        """
        trained = sum(p.numel() for p in self.weights() if p.requires_grad)
        frozen = sum(p.numel() for p in self.weights()) - trained
        networks = [self.loss.logit_loss, self.loss.lpips]
        frozen += sum(p.numel() for network in networks if network is not None for p in network.parameters())
        average = sum(p.numel() for p in self.tokenizer.parameters()) * self.config.training.use_ema
        state = BYTES_PER_WEIGHT * trained + 4 * (frozen + average)
        _ = self._forward  # before the networks move
        with pretended_cuda(self.config.training.mixed_precision):
            for network in (self.tokenizer, self.discriminator, *networks):
                if network is not None:
                    on_pretended_cuda(network)
            with LargestTensor() as tensors:
                output = self.tokenizer(self.images(batch_size, "cuda"))
                kept, largest = tensors.alive(), tensors.largest
            del output
            on_pixels = []
            for phase in self.config.phases:
                with LargestTensor() as tensors:
                    loss = self._losses_on_pixels(phase, batch_size, "cuda")
                    on_pixels.append(tensors.alive())
                del loss
                largest = max(largest, tensors.largest)
        return StepMemory(state, kept + max(on_pixels), 2 * largest)


def count_flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


class LargestTensor(AliveTensors):
    """Also remembers the bytes of the largest tensor made."""

    largest = 0

    def made(self, size: int) -> None:
        self.largest = max(self.largest, size)
