"""Which codes of an image a completion keeps: a tensor (B, T) with the kept codes, and -1 where one is drawn."""

from collections.abc import Sequence

import torch
from torch import Tensor

from modeling.interfaces import Generator
from utils.errors import UserError


def keep_codes(codes: Tensor, keep: int | Sequence[int], order: Tensor) -> Tensor:
    """codes (B, T) at the kept places and -1 elsewhere.

    keep: how many of the places that come first in `order` (T,), or the places. Raises UserError for others.
    """
    total = len(order)
    if isinstance(keep, int):
        if not 0 <= keep <= total:
            raise UserError(f"{keep} codes cannot be kept: an image has {total}")
        places = order[:keep]
    else:
        if not set(keep) <= set(range(total)):
            raise UserError(f"the places of kept codes must be in [0, {total}), not {list(keep)}")
        places = torch.tensor(keep, dtype=torch.int64)
    kept = torch.full_like(codes, -1)
    kept[:, places] = codes[:, places]
    return kept


def one_row_each(kept: Tensor | None, count: int) -> Tensor | None:
    """Kept codes (1, T) or (count, T) -> (count, T). Raises UserError for another number of rows."""
    if kept is None or len(kept) == count:
        return kept
    if len(kept) != 1:
        raise UserError(f"{len(kept)} images to complete for {count} classes")
    return kept.expand(count, -1)


def check_kept(generator: Generator, class_ids: Tensor, kept: Tensor) -> None:
    """Raise ValueError unless `kept` has the shape (B, T) and codes of the codebook, or -1."""
    shape, size = (len(class_ids), generator.layout.num_codes), generator.layout.codebook_size
    if kept.shape != shape:
        raise ValueError(f"kept codes have the shape {tuple(kept.shape)}, not {shape}")
    if not -1 <= int(kept.min()) <= int(kept.max()) < size:
        raise ValueError(f"kept codes are in [{int(kept.min())}, {int(kept.max())}], not in [0, {size}) or -1")
