"""Run a stack of blocks, optionally with activation checkpointing."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *arguments: Tensor, recompute: bool = False) -> Tensor:
    """Pass x through the blocks, each called as block(x, *arguments).

    recompute: keep only each block's input, and run the block a second time in the backward pass.
    """
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, *arguments, use_reentrant=False)
        else:
            x = block(x, *arguments)
    return x
