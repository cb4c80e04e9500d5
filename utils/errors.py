"""Errors for the person at the terminal: one line, exit code 2, no stack trace."""

import functools
import io
import os
import re
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from utils.ranks import leave_group


class UserError(Exception):
    """Something the user can fix. The message says what is wrong, where, and what to do."""


class WriteError(UserError, OSError):
    """A file that cannot be written: a program may take it for an OSError and carry on, or end with the message."""


def warn(text: str) -> None:
    """One line on stderr, of the first process only."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


def nearest(word: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice most like `word`, or an empty string."""
    found = get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for quoting in another message; the error's type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# What a fault of a data worker says -> its cause.
WORKER_FAULTS = {
    "shared memory": "shared memory (/dev/shm) is full. Make it larger (docker: --shm-size)",
    "Too many open files": "too many files are open. Raise `ulimit -n`",
    "killed by signal": "perhaps memory ran out. Free some",
    "exited unexpectedly": "perhaps memory ran out. Free some",
}


def worker_fault(error: Exception) -> str | None:
    """What to do about the death of a data worker; None for any other error."""
    text = str(error)
    cause = next((cause for words, cause in WORKER_FAULTS.items() if words in text), None)
    if "DataLoader worker" not in text or cause is None:
        return None
    lines = [line for line in text.splitlines() if any(words in line for words in WORKER_FAULTS)]
    return f"a data worker failed ({lines[0].strip()}): {cause}, or use fewer workers (num_workers) or smaller batches"


def entry_point(main: Callable[..., None]) -> Callable[..., None]:
    """Turn a `UserError`, and the death of a data worker, into one line on stderr and exit code 2.

    Every process of a launch reports its own error: the fault may be on one machine only.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> None:
        for stream in (sys.stdout, sys.stderr):  # names of files may hold bytes that are no text
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            main(*args, **kwargs)
        except SystemExit:  # all ranks leave together, after a signal
            leave_group()
            raise
        except (UserError, RuntimeError, OSError) as error:
            if not isinstance(error, UserError) and worker_fault(error) is None:
                raise
            rank = os.environ.get("RANK", "0")
            where = f"[rank {rank}] " if rank != "0" else ""
            # An error in a data worker arrives after that worker's stack trace.
            last_line = str(error).strip().splitlines()[-1]
            message = worker_fault(error) or re.sub(rf"^{re.escape(__name__)}\.\w+: ", "", last_line)
            print(f"{where}error: {message}", file=sys.stderr, flush=True)
            # Other ranks may wait in a collective; the launcher ends them when this process fails.
            sys.exit(2)
        leave_group()

    return run
