"""One program at a time in an output folder."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.errors import UserError

LOCK_FILE = ".lock"
POLL = 0.5  # seconds


@contextmanager
def alone(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the folder's lock: two programs in one folder would overwrite and remove each other's files.

    It ends with the process, whatever ends that, and its forked workers do not hold it. Network file
    systems carry it to other machines, and may take a while to notice that one of them died; a file
    system that knows no locks makes this do nothing.
    patience: seconds to wait for another program's lock.
    Raises UserError if another program holds it, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error})") from error
    with file:
        until = time.monotonic() + patience
        while not _locked(file):
            if time.monotonic() >= until:
                raise UserError(f"another run is at work in {folder}")
            if patience:
                print(f"another run holds the lock of {folder}; waiting {patience:g} s for it", flush=True)
                patience = 0
            time.sleep(POLL)
        yield


def _locked(file: IO) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # either, says POSIX
        return False
    except OSError:
        pass  # no locks here
    return True
