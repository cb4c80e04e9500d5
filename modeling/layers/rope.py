"""Rotary position tables (Su et al., "RoFormer", arXiv:2104.09864) for the codes of a `CodeLayout`."""

import torch
from torch import Tensor

from modeling.interfaces import CodeLayout

BASE = 10000.0


def _frequencies(dim: int) -> Tensor:
    """1 / BASE^(2i / dim) for i = 0 .. dim/2 - 1, float32 (dim / 2,)."""
    return 1.0 / BASE ** (torch.arange(0, dim, 2)[: dim // 2].float() / dim)


def rotary_table(layout: CodeLayout, head_width: int) -> Tensor:
    """(cos, sin) of every position and channel pair: (1 + num_codes, head_width / 2, 2), float32.

    The first row, the class token's, is zero, cosine too: its query and key vanish, so every position
    attends to it with score 0. Published weights rely on this quirk.
    Codes on a line (the prefix, or all codes without a grid) have 1-D positions from 0. On the grid one half
    of the channel pairs turns by row, the other by column, and both count from `num_prefix`.
    Raises ValueError if the head width cannot be split that way.
    """
    on_line = layout.num_codes if layout.grid is None else layout.num_prefix
    angles = torch.outer(torch.arange(on_line).float(), _frequencies(head_width))
    if layout.grid is not None:
        if head_width % 4:
            raise ValueError(f"head width {head_width} is not a multiple of 4, which 2-D rotary needs")
        rows, columns = (
            torch.outer(torch.arange(on_line, on_line + side).float(), _frequencies(head_width // 2))
            for side in layout.grid
        )
        shape = (*layout.grid, head_width // 4)
        grid = torch.cat([rows[:, None].expand(shape), columns[None].expand(shape)], dim=-1)
        angles = torch.cat([angles, grid.flatten(0, 1)])
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([torch.zeros_like(table[:1]), table])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate adjacent channel pairs: (a, b) -> (a cos - b sin, a sin + b cos).

    x: (B, heads, L, head_width); table: (L, head_width / 2, 2). Same shape and dtype as x.
    """
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)
