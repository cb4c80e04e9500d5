"""Lock an output folder, so that one program at a time writes to it."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from utils.errors import UserError

LOCK_FILE = ".lock"
LOCK_TIMEOUT = 120  # seconds; after a machine dies, a network file system holds its locks for about 90
POLL_SECONDS = 0.5
PROBE_BYTES = 4096  # a block of most file systems


@contextmanager
def exclusive_lock(folder: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold the folder's lock for the duration of the block.

    The lock ends with the process, however the process ends. Forked workers do not hold it. Network file
    systems share it with other machines, and may take a while to notice that a machine died. On a file
    system without locks this does nothing.
    timeout: seconds to wait for another program to release the lock.
    Raises UserError if another program still holds it, or the folder is not writable or its disk is full.
    """
    path, deadline, waiting = folder / LOCK_FILE, time.monotonic() + timeout, False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while (file := open_locked(path, fcntl.lockf)) is None:
            if time.monotonic() >= deadline:
                raise UserError(f"another run is at work in {folder}")
            if not waiting:
                print(f"another run holds the lock of {folder}; waiting up to {timeout:g} s for it", flush=True)
            waiting = True
            time.sleep(POLL_SECONDS)
        probe_disk(file)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror or error})") from error
    with file:
        try:
            yield
        finally:
            remove_locked(file, path)


def open_locked(path: Path, lock: Callable) -> IO | None:
    """The file, opened for writing and locked; None if another process holds it.

    lock: lockf, which forked workers do not hold, or flock, which stays when the process closes the file elsewhere.
    """
    while True:
        file = path.open("ab")
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            file.close()
            return None
        except OSError:
            pass  # this file system has no locks
        if _is_at(file, path):
            return file
        file.close()  # its owner has just removed or renamed it


def remove_locked(file: IO, path: Path) -> None:
    """Remove a locked file, unless it was renamed."""
    with suppress(OSError):
        if _is_at(file, path):
            path.unlink()


def _is_at(file: IO, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def probe_disk(file: IO) -> None:
    """Write a block to a locked, empty file and take it back. If the disk is full, remove the file, raise OSError."""
    try:
        if os.write(file.fileno(), bytes(PROBE_BYTES)) < PROBE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
        os.truncate(file.fileno(), 0)
    except OSError:
        remove_locked(file, Path(file.name))
        raise
