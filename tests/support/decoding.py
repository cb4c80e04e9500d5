"""Decode with a toy generator, position by position."""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor

from sampling.autoregressive import AutoregressiveDecoder
from sampling.settings import SamplingSettings


def draw_codes(generator, class_ids: Tensor, noise: Tensor, settings: SamplingSettings, **options) -> Tensor:
    """One batch of codes (B, T)."""
    return AutoregressiveDecoder(generator, settings, **options)(class_ids, noise)


@torch.no_grad()
def cached_logits(generator, codes: Tensor, class_ids: Tensor, forward: Callable | None = None) -> Iterator[Tensor]:
    """Logits (B, K) of each of the codes (B, n), which are given in the order drawn, through a cache."""
    cache = generator.new_cache(class_ids)
    for position in range(codes.shape[1]):
        last = codes[:, max(position - 1, 0) : position]
        yield (forward or generator)(last, class_ids, cache)[:, -1].float()


def first_codes(generator, class_ids: Tensor, settings: SamplingSettings, count: int) -> Tensor:
    """The first `count` codes (B, count) that the decoder draws, in the order drawn; every number of noise is 0.5."""
    decoder = AutoregressiveDecoder(generator, settings)
    noise = torch.full((len(class_ids), decoder.num_codes), 0.5, dtype=torch.float64)
    codes = next(islice(decoder.stream(class_ids, noise), count - 1, None))
    return codes[:, :count]
