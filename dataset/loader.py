"""The loader that both trainings read from."""

from typing import Any

from accelerate import Accelerator
from torch.utils.data import Dataset

from dataset.data_order import ShuffledBatches
from utils.workers import Loader


def micro_batch_loader(
    dataset: Dataset, accelerator: Accelerator, training: Any, num_workers: int, *, seen: int, num_steps: int
) -> Loader:
    """This rank's micro-batches of the next `num_steps` steps.

    dataset: makes a whole batch from (indices, uniforms, sample numbers). training: with per_gpu_batch_size,
    gradient_accumulation_steps and seed. seen: samples that all ranks have seen before.
    """
    batches = ShuffledBatches(
        len(dataset),
        training.per_gpu_batch_size,
        seed=training.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        seen=seen,
        num_batches=num_steps * training.gradient_accumulation_steps,
    )
    return Loader(
        dataset,
        sampler=batches,
        batch_size=None,  # the dataset makes a whole batch at a time
        num_workers=num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )


def describe_batches(dataset: Any, batches: list[Any]) -> str:
    """Which images some micro-batches hold, for a message."""
    indices = [i for batch in batches for i in batch.indices.tolist()]
    return f"its images were {dataset.describe(indices)}"
