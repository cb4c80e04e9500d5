"""AdamW and its settings."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.config import option, section


@dataclass
class AdamWParams:
    beta1: float = option(0.9, "decay of the gradient's average", min=0, below=1)
    beta2: float = option(0.999, "decay of the squared gradient's average", min=0, below=1)
    weight_decay: float = option(0.01, "decoupled weight decay", min=0)


@dataclass
class OptimizerSettings:
    name: str = option("adamw", "the only one", choices=("adamw",))
    params: AdamWParams = section(AdamWParams)


def parameter_groups(
    model: Any, weight_decay: float, decays: Callable[[str, Tensor], bool] | None = None
) -> list[dict[str, Any]]:
    """The parameters that learn in at most two groups: those with weight decay, and the others.

    decays(name, parameter): whether weight decay applies; by default the model's own method of that name.
    """
    decays = decays or model.decays
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[decays(name, parameter)].append(parameter)
    decay = {True: weight_decay, False: 0.0}
    return [{"params": groups[key], "weight_decay": decay[key]} for key in (True, False) if groups[key]]


def make_adamw(groups: Iterable[Any], params: AdamWParams, learning_rate: float) -> torch.optim.AdamW:
    """groups: parameters, or parameter groups that may set their own weight decay."""
    betas = (params.beta1, params.beta2)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, weight_decay=params.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
