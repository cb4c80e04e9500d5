"""What a checkpoint holds."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass
class TrainState:
    """Everything that decides how a resumed training continues.

    Random states are not part of it: random numbers are functions of seed, step and rank or sample.
    """

    models: dict[str, nn.Module]  # "model" is the one being trained; "ema" is its moving average, if there is one
    optimizers: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = field(default_factory=dict)
    step: int = 0  # optimizer steps done, skipped ones included
    samples_seen: int = 0  # by all ranks together
    skipped_steps: int = 0
    ema_updates: int = 0  # of the moving average
    undecodable: set[int] = field(default_factory=set)  # training files, by index
    data: dict[str, Any] = field(default_factory=dict)  # facts about the training data; a resumed run compares them

    @property
    def inference_model(self) -> Any:
        """The averaged weights if there are any."""
        return self.models.get("ema", self.models["model"])

    def advance(self, samples: int) -> None:
        """Count a step over `samples` images of all ranks."""
        self.step += 1
        self.samples_seen += samples

    def counters(self) -> dict[str, Any]:
        """All but models and optimizers, as plain values."""
        return {
            "samples_seen": self.samples_seen,
            "skipped_steps": self.skipped_steps,
            "ema_updates": self.ema_updates,
            "undecodable": sorted(self.undecodable),
            **self.data,
        }

    def load_counters(self, saved: dict[str, Any]) -> None:
        self.step = saved["step"]
        self.samples_seen = saved["samples_seen"]
        self.skipped_steps = saved["skipped_steps"]
        self.ema_updates = saved.get("ema_updates", self.step)  # older checkpoints do not count them
        self.undecodable |= set(saved["undecodable"])
