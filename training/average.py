"""The moving average of the weights."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from utils.config import option

WARMUP_OFFSET = 9  # of 1d-tokenizer's averages


@dataclass
class AverageSettings:
    """Part of `training`."""

    use_ema: bool = option(False, "keep a moving average of the weights, validate and export that")
    ema_decay: float = option(0.999, "decay of the moving average", min=0, max=1)
    ema_warmup: bool = option(False, "lower decay at first: n / (n + 9) at update n, as TiTok")


def decay_of_update(number: int, settings: AverageSettings) -> float:
    """Decay of the average in the update with that number, counted from 1."""
    if not settings.ema_warmup:
        return settings.ema_decay
    return 0.0 if number == 1 else min(number / (number + WARMUP_OFFSET), settings.ema_decay)


class WeightAverage:
    """The averaged weights are in `module`."""

    def __init__(self, model: nn.Module, settings: AverageSettings):
        from timm.utils import ModelEmaV3  # imported late: it takes a second

        self.settings = settings
        self._average: Any = ModelEmaV3(model)

    @property
    def module(self) -> nn.Module:
        return self._average.module

    def update(self, model: nn.Module, number: int) -> None:
        """Move the average towards the weights of `model` after their update with that number, counted from 1."""
        self._average.decay = decay_of_update(number, self.settings)
        self._average.update(model)


def make_average(model: nn.Module, settings: AverageSettings) -> WeightAverage | None:
    return WeightAverage(model, settings) if settings.use_ema else None
