"""The phases of a tokenizer stage: what is trained how, as a function of the step alone."""

from collections.abc import Sequence
from itertools import accumulate

from training.lr_schedule import SHAPES, anneal
from utils.errors import UserError
from utils.schema import Phase


class PhaseSchedule:
    """Phases one after another, with a linear warm-up over the first steps of the stage."""

    def __init__(self, phases: Sequence[Phase], warmup_steps: int):
        if not phases:
            raise UserError("the configuration has no phases: list at least one under 'phases'")
        for phase in phases:
            if phase.shape not in SHAPES:
                raise UserError(f"phase '{phase.name}': shape '{phase.shape}' is not one of {SHAPES}")
            if phase.steps <= 0:
                raise UserError(f"phase '{phase.name}': steps is {phase.steps}, must be positive")
        self.phases = list(phases)
        self.warmup_steps = warmup_steps
        self.total_steps = sum(phase.steps for phase in phases)

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase that `step` (counted from 0) belongs to, and the steps done in it before."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        return self.phases[-1], self.phases[-1].steps

    def learning_rate(self, step: int) -> float:
        """Rate of `step`: the phase's course times the stage's warm-up, which never repeats."""
        phase, done = self.at(step)
        end = phase.learning_rate if phase.end_lr is None else phase.end_lr
        rate = anneal(done / phase.steps, phase.learning_rate, end, phase.shape)
        return rate * min(1.0, (step + 1) / max(self.warmup_steps, 1))

    def ends(self) -> list[int]:
        """Steps done at the end of each phase."""
        return list(accumulate(phase.steps for phase in self.phases))

    def uses(self, *, perceptual: bool = False, lpips: bool = False, gan: bool = False) -> bool:
        """Whether any phase uses one of the named losses, so that it must be built."""
        return any(
            (perceptual and p.perceptual_weight > 0) or (lpips and p.lpips_weight > 0) or (gan and p.gan)
            for p in self.phases
        )
