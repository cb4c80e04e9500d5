"""Set up one of several processes, for scripts that do not train: torchrun's environment, GPU or CPU."""

from datetime import timedelta

from accelerate import PartialState

from utils.cpu import tune_for_cpu
from utils.device import use_cpu
from utils.environment import joining_processes, require_known_environment

BARRIER_TIMEOUT = timedelta(hours=6)  # each process works by itself, and waits for the slowest at the end


def init_process(device: str | None = None) -> PartialState:
    """Join the other processes, if any. device: "cuda" or "cpu"; by default a GPU if there is one (`use_cpu`)."""
    cpu = use_cpu(device)
    require_known_environment()
    with joining_processes():
        state = PartialState(cpu=cpu, timeout=BARRIER_TIMEOUT)
    if state.device.type == "cpu":
        tune_for_cpu()
    return state
