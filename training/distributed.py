"""What both trainings do with accelerate: set up, seed each step, clip and step safely."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object, set_seed
from torch import Tensor, nn

from training.fsdp import full
from utils.cpu import tune_for_cpu
from utils.errors import UserError

PRECISIONS = ("no", "bf16", "fp16")
SHOWN = 200  # characters of what ranks do not agree on
PATIENCE = timedelta(hours=1)  # with ranks that list files, download weights or write to a slow disk


def build_accelerator(training: Any) -> Accelerator:
    """Accelerator for `training.mixed_precision`, on the GPU if there is one, else on the CPU."""
    if training.mixed_precision == "False":  # what YAML makes of an unquoted no
        training.mixed_precision = "no"
    if training.mixed_precision not in PRECISIONS:
        raise UserError(f"training.mixed_precision is '{training.mixed_precision}'; choose of {PRECISIONS}")
    if training.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError("training.mixed_precision=fp16 needs a GPU; choose bf16 or no")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = training.enable_tf32
    accelerator = Accelerator(
        mixed_precision=training.mixed_precision,
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[
            # The gradients live in the communication buckets, not beside them; buffers are constants, or
            # computed alike on all ranks.
            DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )
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
    """Steps the optimizer unless loss or gradient is not finite; gives up after too many in a row."""

    def __init__(self, accelerator: Accelerator, max_grad_norm: float | None, max_bad_steps: int):
        self.accelerator = accelerator
        self.max_grad_norm = max_grad_norm if max_grad_norm is not None else float("inf")
        self.max_bad_steps = max_bad_steps
        self.skipped = 0
        self.in_a_row = 0

    def step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Tensor,
        *,
        step: int,
        describe: Callable[[], str] = str,
        before_update: Callable[[], None] = lambda: None,
    ) -> float:
        """Clip and step; returns the gradient norm before clipping.

        loss: this rank's, of all micro-batches. describe: words for this rank's batch in the error.
        before_update: called on good steps alone, just before the optimizer's step.
        All ranks take the same decision. Raises UserError after `max_bad_steps` bad ones in a row.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        norm = full(self.accelerator.clip_grad_norm_(parameters, self.max_grad_norm))
        bad = ~(torch.isfinite(norm) & torch.isfinite(loss.detach())).to(self.accelerator.device)
        if self.accelerator.num_processes > 1:
            bad = self.accelerator.reduce(bad.to(norm.dtype))
        bad, norm = torch.stack([bad.to(norm.dtype), norm.to(bad.device)]).tolist()  # waits for the device, once
        if not bad:
            before_update()
            optimizer.step()
            self.in_a_row = 0
        else:
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.update()  # has seen the overflow when clipping, and lowers its scale
            self.skipped += 1
            self.in_a_row += 1
            self.accelerator.print(f"warning: step {step} skipped, its loss or gradient is not finite")
            if self.in_a_row >= self.max_bad_steps:
                raise UserError(
                    f"{self.in_a_row} steps in a row up to step {step} had no finite loss and gradient; nothing new was"
                    f" saved. Lower the learning rate, or resume from an older checkpoint. The last loss on this rank"
                    f" was {float(loss):g}; {describe()}"
                )
        optimizer.zero_grad(set_to_none=True)
        return norm


def require_agreement(accelerator: Accelerator, facts: dict[str, str], advice: str) -> None:
    """Raise UserError on all ranks unless each fact reads the same on every one of them."""
    if accelerator.num_processes == 1:
        return
    everyone = gather_object([{name: (_digest(text), text[:SHOWN]) for name, text in facts.items()}])
    details = {}
    for name in dict.fromkeys(name for theirs in everyone for name in theirs):
        texts = [theirs.get(name, (b"", "not there")) for theirs in everyone]
        other = next((rank for rank, text in enumerate(texts) if text != texts[0]), None)
        if other is not None:
            details[name] = f"{name}: {texts[0][1]} on rank 0, {texts[other][1]} on rank {other}"
    if details:
        raise UserError(f"the ranks do not agree on {', '.join(details)}. {advice} ({'; '.join(details.values())})")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
