"""Set up one of several processes, for scripts that do not train: torchrun's environment, GPU or CPU."""

from datetime import timedelta

import torch
from accelerate import PartialState

from utils.cpu import tune_for_cpu
from utils.environment import joining_processes, require_known_environment
from utils.errors import UserError

BARRIER_TIMEOUT = timedelta(hours=6)  # each process works by itself, and waits for the slowest at the end


def init_process(device: str | None = None) -> PartialState:
    """Join the other processes, if any. device: "cuda" or "cpu"; by default a GPU if there is one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no GPU here")
    require_known_environment()
    with joining_processes():
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=BARRIER_TIMEOUT)
    if state.device.type == "cpu":
        tune_for_cpu()
    return state
