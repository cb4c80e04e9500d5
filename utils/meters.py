"""Averages and rates between two log lines."""

import time

import torch
from torch import Tensor


class Meters:
    """Collects values without waiting for the device, averages them when asked."""

    def __init__(self):
        self._values: dict[str, list[Tensor]] = {}
        self._samples = 0
        self._waited = 0.0
        self._since = time.perf_counter()

    def add(self, samples: int = 0, waited: float = 0.0, **values: Tensor | float) -> None:
        """samples: how many images went by; waited: seconds spent on waiting for data."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(torch.as_tensor(value).detach().float())
        self._samples += samples
        self._waited += waited

    def pop(self) -> dict[str, float]:
        """Means since the last call, `images_per_second` and `data_wait` (share of the time)."""
        result = {name: float(torch.stack(v).mean()) for name, v in self._values.items()}
        elapsed = time.perf_counter() - self._since
        result["images_per_second"] = self._samples / elapsed
        result["data_wait"] = self._waited / elapsed
        self.__init__()
        return result
