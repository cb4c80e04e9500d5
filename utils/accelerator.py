"""What both trainings do with accelerate: set up, seed each step, clip and step safely."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from utils.cpu import tune_for_cpu
from utils.errors import UserError

PRECISIONS = ("no", "bf16", "fp16")
MAX_BAD_STEPS = 20  # in a row, before a training gives up


def build_accelerator(training: Any) -> Accelerator:
    """Accelerator for `training.mixed_precision`, on the GPU if there is one, else on the CPU."""
    if training.mixed_precision == "False":  # what YAML makes of an unquoted no
        training.mixed_precision = "no"
    if training.mixed_precision not in PRECISIONS:
        raise UserError(f"training.mixed_precision is '{training.mixed_precision}'; choose of {PRECISIONS}")
    if training.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError("training.mixed_precision=fp16 needs a GPU; choose bf16 or no")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = training.enable_tf32
    accelerator = Accelerator(mixed_precision=training.mixed_precision, cpu=not torch.cuda.is_available())
    if accelerator.device.type == "cpu":
        tune_for_cpu()
    set_seed(training.seed)  # the same initial weights on every rank
    return accelerator


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make the random numbers of a step a function of (seed, step, rank).

    Dropout then needs no saved random state to be the same after a resume.
    """
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % 2**63)


def synchronized(accelerator: Accelerator, model: nn.Module, last: bool) -> AbstractContextManager:
    """Average gradients over ranks with the last micro-batch of a step only."""
    return nullcontext() if last else accelerator.no_sync(model)


class NonFiniteGuard:
    """Steps the optimizer unless the gradient is not finite; gives up after too many in a row."""

    def __init__(self, accelerator: Accelerator, max_grad_norm: float | None):
        self.accelerator = accelerator
        self.max_grad_norm = max_grad_norm if max_grad_norm is not None else float("inf")
        self.skipped = 0
        self.in_a_row = 0

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Clip and step; returns the gradient norm before clipping.

        Gradients are averaged over ranks before, so all ranks take the same decision.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        norm = float(self.accelerator.clip_grad_norm_(parameters, self.max_grad_norm))
        if norm == norm and norm != float("inf"):
            optimizer.step()
            self.in_a_row = 0
        elif self.accelerator.scaler is not None:
            optimizer.step()  # the scaler sees the overflow, skips, and lowers its scale
        else:
            self.skipped += 1
            self.in_a_row += 1
            self.accelerator.print(f"warning: step {step} skipped, its gradient is not finite")
            if self.in_a_row >= MAX_BAD_STEPS:
                raise UserError(
                    f"{self.in_a_row} steps in a row up to step {step} had no finite gradient; nothing new was"
                    " saved. Lower the learning rate, or resume from an older checkpoint"
                )
        optimizer.zero_grad(set_to_none=True)
        return norm
