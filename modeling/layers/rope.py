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


def rotation_factors(table: Tensor) -> Tensor:
    """What `rotate` multiplies a channel and its partner by, (L, 2, head_width), from a table (L, head_width / 2, 2).

    The second factor of the first channel of each pair has its sign changed.
    """
    cos, sin = table.unbind(-1)
    return torch.stack([torch.stack(pair, dim=-1).flatten(-2) for pair in ((cos, cos), (-sin, sin))], dim=1)


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Rotate adjacent channel pairs: (a, b) -> (a cos - b sin, b cos + a sin).

    x: (B, L, heads, head_width); factors: (L, 2, head_width). Same shape and dtype as x.
    Each element reads its partner. Without a compiler that takes less time than stacked pairs (docs/benchmarks.md).
    """
    own, partners = factors[:, None].unbind(2)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (x.float() * own + swapped.float() * partners).type_as(x)
