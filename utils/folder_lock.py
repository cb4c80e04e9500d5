"""Lock an output folder, so that one program at a time writes to it."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.errors import UserError

LOCK_FILE = ".lock"
POLL_SECONDS = 0.5


@contextmanager
def exclusive_lock(folder: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold the folder's lock for the duration of the block.

    The lock ends with the process, however the process ends. Forked workers do not hold it. Network file
    systems share it with other machines, and may take a while to notice that a machine died. On a file
    system without locks this does nothing.
    timeout: seconds to wait for another program to release the lock.
    Raises UserError if another program still holds it, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error})") from error
    with file:
        deadline = time.monotonic() + timeout
        if not _try_lock(file) and timeout:
            print(f"another run holds the lock of {folder}; waiting up to {timeout:g} s for it", flush=True)
        while not _try_lock(file):
            if time.monotonic() >= deadline:
                raise UserError(f"another run is at work in {folder}")
            time.sleep(POLL_SECONDS)
        yield


def _try_lock(file: IO) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        return False
    except OSError:
        pass  # this file system has no locks
    return True
