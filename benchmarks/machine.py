"""The machine of a benchmark, and time and memory on it."""

import argparse
import gc
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from training.peak_flops import synchronize
from utils.cpu import tune_for_cpu
from utils.device import use_cpu

ROOT = Path(__file__).resolve().parents[1]
DRIVER = Path("/sys/module/nvidia/version")

_clock = time.perf_counter


def use_cpu_time() -> None:
    """Measure the processor's time from now on, which other programs on the machine change less. For one thread:
    of several threads it is the sum, with what they spend waiting for each other."""
    global _clock
    torch.set_num_threads(1)
    _clock = time.process_time


def this_device() -> torch.device:
    """The GPU if there is one, else the CPU. Raises UserError for a GPU that torch cannot use."""
    return torch.device("cpu" if use_cpu() else "cuda")


def announce(args: argparse.Namespace) -> torch.device:
    """Print device, torch version and arguments. Returns the GPU if there is one, else the CPU, tuned."""
    device = this_device()
    if device.type == "cpu":
        tune_for_cpu()
    print(f"{device_name()}, torch {torch.__version__}, {vars(args)}", flush=True)
    return device


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name()


def describe_machine() -> dict[str, Any]:
    """What a figure depends on besides the code, and the commit of the code. None: not known, or there is none."""
    on_gpu = torch.cuda.is_available()
    return {
        "device": device_name(),
        "gpus": torch.cuda.device_count(),
        "gpu_memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if on_gpu else None,
        "driver": DRIVER.read_text().strip() if on_gpu and DRIVER.is_file() else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def _cpu_name() -> str:
    """The processor's model, where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} CPU"


def _commit() -> str | None:
    """The commit of this checkout, with "+" if files differ from it; None outside git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds until the device has finished `work`, and the result of `work`."""
    synchronize(device)
    start = _clock()
    result = work()
    synchronize(device)
    return _clock() - start, result


def reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_gib() -> float | None:
    """Most GiB that tensors held on the GPU since `reset_peak_memory`; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def free_memory() -> None:
    """Free what is no longer referred to: prepared models are reference cycles."""
    gc.collect()
    torch.cuda.empty_cache()
