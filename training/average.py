"""The moving average of the weights."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from utils.config import option


@dataclass
class AverageSettings:
    """Part of `training`."""

    use_ema: bool = option(False, "keep a moving average of the weights, validate and export that")
    ema_decay: float = option(0.999, "decay of the moving average", min=0, max=1)


def make_average(model: nn.Module, settings: AverageSettings) -> Any:
    """timm's ModelEmaV3 of `model`, or None. `update(model)` moves it, `.module` has the averaged weights."""
    if not settings.use_ema:
        return None
    from timm.utils import ModelEmaV3  # imported late: it takes a second

    return ModelEmaV3(model, settings.ema_decay)
