"""Stop a training after the running step on SIGTERM or SIGINT, agreed on by all ranks."""

import atexit
import multiprocessing
import signal

import torch
from accelerate import Accelerator


def _kill_data_workers() -> None:
    """Python's own exit would send them SIGTERM, which they ignore, and wait for them forever."""
    for worker in multiprocessing.active_children():
        worker.kill()


class StopRequest:
    """`with StopRequest(accelerator) as stop: ... if stop.requested(): save and leave`."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.signal: int | None = None

    def __enter__(self) -> "StopRequest":
        atexit.register(_kill_data_workers)
        self._previous = {s: signal.signal(s, self._receive) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C ends the process now
        self.signal = number

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
