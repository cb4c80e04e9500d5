"""The group of processes that this one belongs to."""

import torch.distributed as dist


def several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def leave_group() -> None:
    """Call it last. An interpreter that ends inside a group can be aborted, as the group's threads still run."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
