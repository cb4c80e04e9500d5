"""Settings that make PyTorch fast on a CPU. Results change only by rounding."""

import ctypes
import os

import torch

# glibc's mallopt parameters (malloc.h)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc refuses more
NEVER_TRIM = 2**31 - 1


def tune_for_cpu() -> None:
    """Keep freed memory in the process, use all cores, and treat denormal numbers as zero.

    By default glibc returns every large tensor to the system, and the next step faults its pages in
    again. Where page faults are slow, that takes a quarter of a small model's training time.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_flush_denormal(True)
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)
    except (OSError, AttributeError):
        pass  # another C library: nothing to tune
