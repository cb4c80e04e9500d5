"""Processes that load data: one loader for all programs, and what its faults mean."""

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from utils.errors import UserError, first_line

ADVICE = "Use fewer workers (num_workers; 0: none) or smaller batches"


class Loader(DataLoader):
    """torch's loader, with workers that leave stop signals to the main process.

    If workers cannot start it raises UserError. If they die later, `utils.errors.entry_point` says so in one line.
    """

    def __init__(self, *arguments: Any, num_workers: int = 0, **options: Any):
        """As torch's, without `worker_init_fn`."""
        options |= {"worker_init_fn": _ignore_stop_signals} if num_workers else {}
        super().__init__(*arguments, num_workers=num_workers, **options)
        if num_workers:
            self.collate_fn = partial(_collate_and_share, self.collate_fn)

    def __iter__(self) -> Iterator:
        if self.num_workers:
            atexit.register(_kill_workers)
        try:
            return super().__iter__()
        except OSError as error:  # semaphores are files in /dev/shm, too
            _MultiProcessingDataLoaderIter._shutdown = True  # the half-built one has nothing to shut down
            raise UserError(f"data workers cannot start ({first_line(error)}): is /dev/shm full? {ADVICE}") from error


def _collate_and_share(collate: Callable, samples: Any) -> Any:
    """Move a batch to shared memory in the worker's own thread, whose errors reach the main process.

    Otherwise the thread of its queue moves the batch: if that fails, the main process waits for it forever.
    """
    batch = collate(samples)
    try:
        _share(batch)
    except RuntimeError as error:
        raise RuntimeError(f"no shared memory: {error}") from error
    return batch


def _share(batch: Any) -> None:
    if isinstance(batch, Tensor):
        batch.share_memory_()
    elif isinstance(batch, tuple | list):
        for part in batch:
            _share(part)


def _ignore_stop_signals(_worker_id: int) -> None:
    """Launchers signal the whole process group, but the last step still needs data."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _kill_workers() -> None:
    """Python's own exit would send them SIGTERM, which they ignore, and wait for them forever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report their death
    for worker in multiprocessing.active_children():
        worker.kill()
