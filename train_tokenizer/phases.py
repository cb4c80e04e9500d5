"""The phases of a tokenizer stage: losses and learning rate as functions of the step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from omegaconf import MISSING

from training.lr_schedule import SHAPES, CosineParams, anneal, warmup_cosine
from utils.config import option
from utils.errors import UserError


@dataclass
class Phase:
    """An entry of `phases`."""

    name: str = option(MISSING, "for the log")
    steps: int = option(MISSING, "length in optimizer steps", min=1)
    learning_rate: float | None = option(None, "at the start; needed with lr_scheduler phases", min=0)
    end_lr: float | None = option(None, "learning rate at the end; null: learning_rate", min=0)
    shape: str = option("cosine", "course of the learning rate between them", choices=SHAPES)
    perceptual_weight: float = option(0.0, "weight of the classifier's logit loss", min=0)
    lpips_weight: float = option(0.0, "weight of LPIPS", min=0)
    gan: bool = option(False, "train against the discriminator")
    clustering: bool = option(False, "codebook clustering, which moves unused codes to live latents")


class PhaseSchedule:
    """Phases one after another.

    The learning rate is that of the phases, with a linear warm-up over the first steps of the stage; or, with
    `cosine`, that of 1d-tokenizer: one warm-up and one half cosine over the whole stage.
    """

    def __init__(self, phases: Sequence[Phase], warmup_steps: int, cosine: CosineParams | None = None):
        if not phases:
            raise UserError("the configuration has no phases: list at least one under 'phases'")
        without_rate = [phase.name for phase in phases if phase.learning_rate is None]
        if without_rate and cosine is None:
            raise UserError(f"phase '{without_rate[0]}' has no learning_rate (or set lr_scheduler.scheduler=cosine)")
        self.phases = list(phases)
        self.warmup_steps = warmup_steps
        self.cosine = cosine
        self.total_steps = sum(phase.steps for phase in phases)

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase that `step` (counted from 0) belongs to, and the steps of that phase done before."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        return self.phases[-1], self.phases[-1].steps

    def number(self, step: int) -> int:
        """Of the phase of the update after `step` steps, from 1."""
        return self.phases.index(self.at(step)[0]) + 1

    def describe(self, step: int) -> str:
        phase, done = self.at(step)
        return (
            f"phase {self.number(step)} of {len(self.phases)}, '{phase.name}', step {done} of {phase.steps}: perceptual"
            f" {phase.perceptual_weight:g}, LPIPS {phase.lpips_weight:g}, GAN {'on' if phase.gan else 'off'},"
            f" clustering {'on' if phase.clustering else 'off'}"
        )

    def learning_rate(self, step: int) -> float:
        """For the update after `step` steps. With phases: the rate of the phase times the stage's warm-up, which
        does not repeat in later phases."""
        if self.cosine is not None:
            return self._cosine(step, self.cosine.learning_rate, self.total_steps)
        phase, done = self.at(step)
        end = phase.learning_rate if phase.end_lr is None else phase.end_lr
        rate = anneal(done / phase.steps, phase.learning_rate, end, phase.shape)
        return rate * min(1.0, (step + 1) / max(self.warmup_steps, 1))

    def discriminator_rate(self, step: int, base: float) -> float:
        """`base`, constant with phases; with `cosine` a schedule of its own over the phases with the GAN."""
        if self.cosine is None:
            return base
        starts = [end - phase.steps for phase, end in zip(self.phases, self.ends(), strict=True)]
        gan = [(start, phase.steps) for phase, start in zip(self.phases, starts, strict=True) if phase.gan]
        done = sum(min(max(step - start, 0), steps) for start, steps in gan)
        return self._cosine(done, base, sum(steps for _, steps in gan))

    def _cosine(self, done: int, base: float, total: int) -> float:
        end = self.cosine.end_lr
        return warmup_cosine(done, base=base, end=end, warmup_steps=self.warmup_steps, total_steps=total)

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
