"""Let one process at a time make a file, while the others wait for it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def one_process(target: Path) -> Iterator[None]:
    """Hold a lock on a file; an empty one is made for it. Raises OSError if the folder is not writable."""
    with target.open("ab") as file:
        with suppress(OSError):  # a file system without locks: each process makes the same file
            fcntl.flock(file, fcntl.LOCK_EX)  # not lockf, which lets go when the file is read
        yield
