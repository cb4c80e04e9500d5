"""One program at a time in an output folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

LOCK_FILE = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two programs in one folder would overwrite and remove each other's files.

    It ends with the process, whatever ends that, and its forked workers do not hold it. Network file
    systems carry it to other machines; one that knows no locks makes this do nothing.
    Raises UserError if another program holds it, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error})") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # either, says POSIX
            raise UserError(f"another run is at work in {folder}") from None
        except OSError:
            pass
        yield
