"""Stop a training after the running step on SIGTERM or SIGINT, agreed on by all ranks."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

GRACE = 5.0  # seconds that data may take to come after a signal


class StoppedWaiting(BaseException):
    """A signal asked to stop, and the data for the next step do not come. No Exception: decoders' errors are caught."""


class StopRequest:
    """`with StopRequest(accelerator) as stop: ... if stop.requested(): save and leave`."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.signal: int | None = None
        self._waiting = False

    def __enter__(self) -> "StopRequest":
        self._previous = {s: signal.signal(s, self._receive) for s in (signal.SIGTERM, signal.SIGINT)}
        self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._stop_waiting)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C ends the process now
        self.signal = number
        if self._waiting:
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    def _stop_waiting(self, _number: int, _frame) -> None:
        if self._waiting:
            raise StoppedWaiting

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Raise StoppedWaiting if the block still runs GRACE seconds after a signal."""
        self._waiting = True
        if self.signal is not None:
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        try:
            yield
        finally:
            self._waiting = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def requested(self) -> bool:
        """Whether any rank received a signal; every rank calls this at every step."""
        if self.accelerator.num_processes == 1:
            return self.signal is not None
        flag = torch.tensor([self.signal or 0], device=self.accelerator.device)
        agreed = int(self.accelerator.gather(flag).max())
        # A signal that arrived after the gather is kept for the next call, when all ranks will see it.
        self.signal = agreed or self.signal
        return agreed > 0

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or 0)
