"""tqdm's progress bar on a terminal; plain lines, a few dozen for any length of work, where output goes to a file."""

import sys
import time
from collections.abc import Iterable
from typing import Any

import tqdm as tqdm_package

FIRST_LINE = 30  # seconds without a line
GROWTH = 1.1  # each line comes after 1.1 times as long as the one before


class tqdm(tqdm_package.tqdm):
    """A progress bar with the arguments and methods of tqdm's.

    A file gets no carriage returns, no bars, and a line only now and then: for 30 seconds none, then at times that
    grow further apart, and one at the end.
    """

    def __init__(self, iterable: Iterable | None = None, desc: str | None = None, **options: Any):
        self.lines = not getattr(options.get("file") or sys.stderr, "isatty", lambda: False)()
        self.next_line, self.started = float(FIRST_LINE), time.monotonic()
        super().__init__(iterable, desc, **{"dynamic_ncols": True, "mininterval": 1.0, **options})

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if not self.lines:
            return super().display(msg, pos)
        elapsed = time.monotonic() - self.started
        if msg is None and elapsed >= self.next_line:
            self.next_line = max(elapsed * GROWTH, elapsed + FIRST_LINE)
            self._write_line()
        return False

    def clear(self, nolock: bool = False) -> None:
        if not self.lines:
            super().clear(nolock)

    def close(self) -> None:
        if self.lines and not self.disable:
            if self.leave and self.n:
                self._write_line(last=True)
            self.leave = False  # else tqdm ends with an empty line
        super().close()

    def _write_line(self, last: bool = False) -> None:
        facts = self.format_dict
        total, elapsed = facts["total"], facts["elapsed"]
        of_total, share = (f" of {self._number(total)}", f" ({self.n / total:.0%})") if total else ("", "")
        unit = {"it": "", "B": "B"}.get(self.unit, f" {self.unit}s")
        words = [f"{self._number(self.n)}{of_total}{unit}{share} in {self.format_interval(elapsed)}"]
        rate = facts["rate"] or (self.n / elapsed if elapsed else 0.0)
        if total and rate and self.n < total and not last:
            words.append(f"{self.format_interval((total - self.n) / rate)} left")
        words += [self.postfix] if self.postfix else []
        self.fp.write((f"{self.desc.removesuffix(': ')}: " if self.desc else "") + ", ".join(words) + "\n")
        self.fp.flush()

    def _number(self, value: float) -> str:
        return self.format_sizeof(value) if self.unit_scale else str(value)


def of_processes(title: str, num_processes: int) -> str:
    """The title of a bar that shows the first process's work."""
    return title if num_processes == 1 else f"{title}, process 1 of {num_processes}"
