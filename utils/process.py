"""Several processes: set up one of them, for scripts that do not train; share what the first one finds."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import PartialState

from utils.cpu import tune_for_cpu
from utils.device import use_cpu
from utils.environment import joining_processes, require_known_environment
from utils.errors import UserError
from utils.ranks import several_ranks

Value = TypeVar("Value")
BARRIER_TIMEOUT = timedelta(hours=6)  # each process works by itself, and waits for the slowest at the end


def from_first_process(compute: Callable[[], Value]) -> Value:
    """What `compute` returns on the first process, or the UserError it raises, on all processes, which all call this.

    Without several processes it is the same as compute().
    """
    if not several_ranks():
        return compute()
    outcome: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            outcome = [compute()]
        except UserError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], UserError):
        raise outcome[0]
    return outcome[0]


def init_process(device: str | None = None) -> PartialState:
    """Join the other processes, if any. device: "cuda" or "cpu"; by default a GPU if there is one (`use_cpu`)."""
    cpu = use_cpu(device)
    require_known_environment()
    with joining_processes():
        state = PartialState(cpu=cpu, timeout=BARRIER_TIMEOUT)
    if state.device.type == "cpu":
        tune_for_cpu()
    return state
