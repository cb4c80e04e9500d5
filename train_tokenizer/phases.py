"""The phases of a tokenizer stage: losses and learning rate as functions of the step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from omegaconf import MISSING

from training.lr_schedule import SHAPES, anneal
from utils.config import option
from utils.errors import UserError


@dataclass
class Phase:
    """An entry of `phases`."""

    name: str = option(MISSING, "for the log")
    steps: int = option(MISSING, "length in optimizer steps", min=1)
    learning_rate: float = option(MISSING, "learning rate at the start", min=0)
    end_lr: float | None = option(None, "learning rate at the end; null: learning_rate", min=0)
    shape: str = option("cosine", "course of the learning rate between them", choices=SHAPES)
    perceptual_weight: float = option(0.0, "weight of the classifier's logit loss", min=0)
    lpips_weight: float = option(0.0, "weight of LPIPS", min=0)
    gan: bool = option(False, "train against the discriminator; both take turns, a step each")
    clustering: bool = option(False, "codebook clustering, which moves unused codes to live latents")


class PhaseSchedule:
    """Phases one after another, with a linear warm-up over the first steps of the stage."""

    def __init__(self, phases: Sequence[Phase], warmup_steps: int):
        if not phases:
            raise UserError("the configuration has no phases: list at least one under 'phases'")
        self.phases = list(phases)
        self.warmup_steps = warmup_steps
        self.total_steps = sum(phase.steps for phase in phases)

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase that `step` (counted from 0) belongs to, and the steps of that phase done before."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        return self.phases[-1], self.phases[-1].steps

    def learning_rate(self, step: int) -> float:
        """The phase's rate times the stage's warm-up, which does not repeat in later phases."""
        phase, done = self.at(step)
        end = phase.learning_rate if phase.end_lr is None else phase.end_lr
        rate = anneal(done / phase.steps, phase.learning_rate, end, phase.shape)
        return rate * min(1.0, (step + 1) / max(self.warmup_steps, 1))

    def ends(self) -> list[int]:
        """Steps done at the end of each phase."""
        return list(accumulate(phase.steps for phase in self.phases))

    @property
    def uses_perceptual(self) -> bool:
        return any(phase.perceptual_weight > 0 for phase in self.phases)

    @property
    def uses_lpips(self) -> bool:
        return any(phase.lpips_weight > 0 for phase in self.phases)

    @property
    def uses_gan(self) -> bool:
        return any(phase.gan for phase in self.phases)
