"""Stop a training after the running step on SIGTERM or SIGINT, agreed on by all ranks."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor

GRACE = 5.0  # seconds that data may take to come after a signal
SIGNALS = (signal.SIGTERM, signal.SIGINT)  # the first one counts if ranks receive different ones


class StoppedWaiting(BaseException):
    """A signal asked to stop, and the data for the next step do not come. No Exception: decoders' errors are caught."""


class StopRequest:
    """`with StopRequest(accelerator) as stop: ... if stop.requested(): save and leave`.

    The ranks agree in the reduction that each step needs anyway (training/guard.py), so that no further collective
    and no further wait for the device is needed.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.signal: int | None = None  # what this process received, or agreed on with the others
        self._agreed = False
        self._waiting = False

    def __enter__(self) -> "StopRequest":
        self._previous = {s: signal.signal(s, self._receive) for s in SIGNALS}
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

    def flags(self, dtype: torch.dtype) -> list[Tensor]:
        """A 1 for the signal that this process received, else 0; a scalar for each of SIGNALS.

        Filled on the device: a copy from the host would wait for it.
        """
        received, device = self.signal, self.accelerator.device
        return [torch.full((), float(received == number), dtype=dtype, device=device) for number in SIGNALS]

    def agree(self, sums: list[float]) -> None:
        """sums: of the flags of all ranks. A signal that came after them is kept for the next step."""
        agreed = next((number for number, count in zip(SIGNALS, sums, strict=True) if count), None)
        if agreed is not None:
            self.signal, self._agreed = agreed, True

    def requested(self) -> bool:
        """Whether any rank had received a signal when the last step was reduced; the same on all ranks."""
        return self.signal is not None if self.accelerator.num_processes == 1 else self._agreed

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or 0)
