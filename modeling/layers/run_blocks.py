"""A stack of transformer blocks, with or without keeping what lies inside them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *arguments: Tensor, recompute: bool = False) -> Tensor:
    """x through the blocks one after another, each called as block(x, *arguments).

    `recompute` keeps each block's input alone and runs the block a second time in the backward.
    """
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, *arguments, use_reentrant=False)
        else:
            x = block(x, *arguments)
    return x
