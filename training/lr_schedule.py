"""Learning rates as functions of the optimizer steps done, so that a checkpoint needs no scheduler state."""

import math
from dataclasses import dataclass

from omegaconf import II

from utils.config import option

SHAPES = ("constant", "linear", "cosine")


@dataclass
class CosineParams:
    """Settings of `warmup_cosine`."""

    learning_rate: float | None = option(II("optimizer.params.learning_rate"), "follows the optimizer's", min=0)
    warmup_steps: int = option(62500, "steps of linear warm-up from 0", min=0)
    end_lr: float = option(1e-5, "learning rate at the end", min=0)


def anneal(progress: float, start: float, end: float, shape: str) -> float:
    """From `start` at progress 0 to `end` at progress 1."""
    if shape == "constant":
        return start
    fraction = 1 - progress if shape == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return end + (start - end) * fraction


def warmup_cosine(step: int, *, base: float, end: float, warmup_steps: int, total_steps: int) -> float:
    """The schedule of 1d-tokenizer: base * n / warm-up, then a half cosine to `end`.

    `step` is the number of updates done; the first update has rate 0.
    """
    if step < warmup_steps:
        return base * step / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return anneal(min(progress, 1.0), base, end, "cosine")
