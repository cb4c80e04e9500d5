"""The generator's rotary table: 1-D for prefix codes, 2-D for image codes, nothing for the class.

Rotary embedding: Su et al., "RoFormer" (arXiv:2104.09864).
"""

import torch
from torch import Tensor

BASE = 10000.0


def _frequencies(dim: int) -> Tensor:
    """1 / BASE^(2i / dim) for i = 0 .. dim/2 - 1, float32 (dim / 2,)."""
    return 1.0 / BASE ** (torch.arange(0, dim, 2)[: dim // 2].float() / dim)


def rotary_table(num_prefix: int, grid_size: int, head_width: int) -> Tensor:
    """(cos, sin) of every position and channel pair.

    Returns (1 + num_prefix + grid_size^2, head_width / 2, 2), float32.
    The first row, the class token's, is zero, cosine too: its query and key vanish, so that every
    position attends to it with score 0. A quirk that published weights rely on.
    Prefix codes count from 0; rows and columns of the image codes count on from `num_prefix`.
    """
    if head_width % 4:
        raise ValueError(f"head width {head_width} is not a multiple of 4, as 2-D rotary needs")
    prefix = torch.outer(torch.arange(num_prefix).float(), _frequencies(head_width))
    side = torch.outer(torch.arange(num_prefix, num_prefix + grid_size).float(), _frequencies(head_width // 2))
    rows = side[:, None].expand(-1, grid_size, -1)
    columns = side[None].expand(grid_size, -1, -1)
    image = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    angles = torch.cat([prefix, image])
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([torch.zeros_like(table[:1]), table])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate adjacent channel pairs: (a, b) -> (a cos - b sin, a sin + b cos).

    x: (B, heads, L, head_width); table: (L, head_width / 2, 2). Same shape and dtype as x.
    """
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)
