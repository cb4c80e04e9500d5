"""Whether to compile with torch.compile: what a configuration's key `compile` means on this machine."""

from functools import cache

import torch
from torch import Tensor

from utils.errors import first_line, warn

RECOMPILE_LIMIT = 64  # shapes of one function before dynamo gives up on it; by default 8, fewer than some programs use


def compile_or_eager(setting: bool | None, device: torch.device | str) -> bool:
    """Whether functions for `device` are to be compiled; call it before torch.compile.

    setting: the key `compile` of a configuration; None means yes on a GPU and no on a CPU.
    If the compiler does not work here, for example because there is no C compiler or no Python.h, it prints one
    warning and returns False: the program then runs eager functions.
    """
    device = torch.device(device)
    wanted = device.type == "cuda" if setting is None else setting
    if not wanted or not _compiler_works(device.type):
        return False
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    # Dynamo would cut a compiled block into DDP's buckets. Blocks are compiled one by one, and are small buckets.
    torch._dynamo.config.optimize_ddp = False
    return True


def _probe(x: Tensor) -> Tensor:
    return 2 * x + 1


@cache
def _compiler_works(device_type: str) -> bool:
    """Compile a small function for the device and run it. Only that shows all that is needed: Triton, a C compiler,
    Python.h, a folder for the results."""
    try:
        with torch._inductor.config.patch(fx_graph_cache=False):  # its hit would need no compiler
            torch.compile(_probe)(torch.ones(8, device=device_type))
    except Exception as error:  # of dynamo, of inductor, of Triton, of the C compiler
        warn(f"warning: nothing is compiled, which is slower: torch.compile does not work here ({_cause(error)})")
        return False
    return True


def _cause(error: BaseException) -> str:
    """The first line that says most: dynamo wraps the compiler's own error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
