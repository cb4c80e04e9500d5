"""Name the machine of a benchmark, and measure time on it."""

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from training.peak_flops import synchronize
from utils.cpu import tune_for_cpu

_clock = time.perf_counter


def use_cpu_time() -> None:
    """Measure the processor's time from now on, which other programs on the machine change less. For one thread:
    of several threads it is the sum, with what they spend waiting for each other."""
    global _clock
    torch.set_num_threads(1)
    _clock = time.process_time


def announce(args: argparse.Namespace) -> torch.device:
    """Print machine, torch version and arguments. Returns the GPU if there is one, else the CPU, tuned."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        tune_for_cpu()
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"{name}, torch {torch.__version__}, {vars(args)}", flush=True)
    return device


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds until the device has finished `work`, and the result of `work`."""
    synchronize(device)
    start = _clock()
    result = work()
    synchronize(device)
    return _clock() - start, result
