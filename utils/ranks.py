"""Whether this process is one of several."""

import torch.distributed as dist


def several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
