"""Set up accelerate, seed each step, and check that the ranks agree."""

import hashlib
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast, gather_object, set_seed
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from utils.config import option
from utils.cpu import tune_for_cpu
from utils.device import use_cpu
from utils.environment import joining_processes, require_known_environment
from utils.errors import UserError

MAX_CHARACTERS_IN_ERROR = 200  # of each conflicting value
COLLECTIVE_TIMEOUT = timedelta(hours=1)  # a rank may list files or download weights while the others wait
PRECISIONS = ("no", "bf16", "fp16")
MAX_DRIFT = 1e-3  # of a tensor that ranks update by themselves, relative to its largest value


@dataclass
class ProcessSettings:
    """Part of `training`."""

    mixed_precision: str = option("bf16", "precision of autocast", choices=PRECISIONS)
    enable_tf32: bool = option(True, "TensorFloat-32 for products that stay float32")
    seed: int = option(42, "seed of weights, data order, dropout", min=0, below=2**32)


class ConstantBuffers(DistributedDataParallelKwargs):
    """DDP without broadcasts of buffers before each forward; the argument has another name from torch 2.14 on."""

    def to_kwargs(self) -> dict[str, Any]:
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return super().to_kwargs() | {name: False}


def build_accelerator(settings: ProcessSettings) -> Accelerator:
    """Accelerator for `training.mixed_precision`, on a GPU if there is one, else on the CPU (`use_cpu`)."""
    cpu = use_cpu()
    if settings.mixed_precision == "fp16" and cpu:
        raise UserError("training.mixed_precision=fp16 needs a GPU; choose bf16 or no")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.enable_tf32
    require_known_environment(settings.mixed_precision)
    with joining_processes():
        accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            cpu=cpu,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT)],
        )
    # Gradients are views of the communication buckets. Buffers are constants, or every rank computes the same ones.
    accelerator.ddp_handler = ConstantBuffers(gradient_as_bucket_view=True)  # accelerate refuses it as an argument
    if accelerator.device.type == "cpu":
        tune_for_cpu()
    set_seed(settings.seed)  # the same initial weights on every rank
    return accelerator


def autocast_dtype(mixed_precision: str) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision, torch.float32)


def without_wait(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to the device; from pinned memory, because other copies wait for the device."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make torch's random numbers a function of (seed, step, rank), so that a resumed run needs no saved state."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % 2**63)


def accumulate(
    accelerator: Accelerator, model: nn.Module, batches: list[Any], forward: Callable[[Any], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Backward passes of the micro-batches of a step; gradients are averaged over ranks with the last one.

    model: the module that `forward` runs, wrapped by DDP or FSDP if there are several ranks.
    forward(batch): scalars by name; "loss" is minimised. Returns the scalars' means.
    """
    means: dict[str, Tensor] = {}
    for number, batch in enumerate(batches, 1):
        with _synchronized(accelerator, model, last=number == len(batches)):
            values = forward(batch)
            accelerator.backward(values["loss"] / len(batches))
        for name, value in values.items():
            means[name] = means.get(name, 0) + value.detach() / len(batches)
    return means


def _synchronized(accelerator: Accelerator, model: nn.Module, last: bool) -> AbstractContextManager:
    for part in (model, *model.children()):
        if isinstance(part, FSDPModule):
            part.set_requires_gradient_sync(last)
    return nullcontext() if last else accelerator.no_sync(model)


def require_agreement(accelerator: Accelerator, facts: dict[str, str], advice: str) -> None:
    """Raise UserError on all ranks unless each fact reads the same on every rank."""
    if accelerator.num_processes == 1:
        return
    ours = {
        name: (hashlib.sha256(text.encode(errors="surrogateescape")).digest(), text[:MAX_CHARACTERS_IN_ERROR])
        for name, text in facts.items()
    }
    everyone = gather_object([ours])
    details = {}
    for name in _in_order(name for theirs in everyone for name in theirs):
        texts = [theirs.get(name, (b"", "missing")) for theirs in everyone]
        other = next((rank for rank, text in enumerate(texts) if text != texts[0]), None)
        if other is not None:
            details[name] = f"{name}: {texts[0][1]} on rank 0, {texts[other][1]} on rank {other}"
    if details:
        raise UserError(f"the ranks do not agree on {', '.join(details)}. {advice} ({'; '.join(details.values())})")


def require_equal(accelerator: Accelerator, tensor: Tensor, name: str, advice: str) -> None:
    """Raise UserError on all ranks if a tensor differs from the first rank's by more than rounding.

    GPUs of different models round differently, and after many steps the values are not equal bit for bit.
    """
    if accelerator.num_processes == 1:
        return
    ours = tensor.detach().float()
    first = broadcast(ours.clone())
    difference = (ours - first).abs().max() / first.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    worst = float(accelerator.gather(difference.nan_to_num(nan=float("inf"))[None]).max())
    if worst > MAX_DRIFT:
        raise UserError(f"the ranks do not agree on {name}: it differs by {worst:.1e} of its largest value. {advice}")


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
