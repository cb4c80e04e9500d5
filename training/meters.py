"""Averages and rates between two log lines."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor


class StepStats:
    """Collects values without waiting for the device, and averages them on request."""

    def __init__(self, latest: tuple[str, ...] = ()):
        """latest: metrics reported as the latest value, not averaged."""
        self._latest = latest
        self._reset()

    def _reset(self) -> None:
        self._values: dict[str, list[Tensor]] = {}
        self._samples = 0
        self._waited = 0.0
        self._paused = 0.0
        self._since = time.perf_counter()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the time inside this block, such as a validation, out of the rates."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def add(self, samples: int = 0, waited: float = 0.0, **values: Tensor | float) -> None:
        """samples: images of this step; waited: seconds spent waiting for data."""
        for name, value in values.items():
            if name in self._latest:
                self._values[name] = []
            self._values.setdefault(name, []).append(torch.as_tensor(value, dtype=torch.float64).detach())
        self._samples += samples
        self._waited += waited

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over all ranks since the last call; all ranks must have added the same names.

        Non-finite values, those of skipped steps, are left out.
        Adds `images_per_second` and `data_wait`, the fraction of time spent waiting for data.
        """
        elapsed = time.perf_counter() - self._since - self._paused
        names, sums = list(self._values), []
        for values in self._values.values():
            stacked = torch.stack(values).to(accelerator.device)
            finite = stacked.isfinite()
            sums.append(torch.stack([stacked.where(finite, 0.0).sum(), finite.sum()]))
        sums.append(torch.tensor([self._waited / elapsed, 1.0], device=accelerator.device))
        reduced = accelerator.reduce(torch.stack(sums)).tolist()
        result = {
            name: total / count for name, (total, count) in zip([*names, "data_wait"], reduced, strict=True) if count
        }
        result["images_per_second"] = self._samples / elapsed
        self._reset()
        return result
