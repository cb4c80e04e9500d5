"""Random numbers that belong to an image, and draws from logits with them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TINY = 1e-20  # the smallest argument of a logarithm


def image_noise(seed: int, image_ids: Sequence[int], shape: int | tuple[int, ...]) -> Tensor:
    """Uniform numbers in [0, 1) for each image: float64 (images, *shape).

    Counter-based (Philox keyed by seed and image), so image i has the same numbers in any batch,
    on any rank, before and after an interruption.
    """
    rows = [np.random.Generator(np.random.Philox(key=[seed, i])).random(shape) for i in image_ids]
    return torch.from_numpy(np.stack(rows))


def keep_likely(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Set logits to -inf, except the `top_k` largest and the fewest that are together `top_p` likely.

    logits: (B, K). The most likely one always stays (nucleus sampling: arXiv:1904.09751).
    """
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.double().softmax(-1)
        superfluous = probabilities.cumsum(-1) - probabilities >= top_p
        logits = logits.masked_fill(superfluous.scatter(-1, order, superfluous), -torch.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One draw per row from softmax(logits) by inversion of the cumulative distribution.

    logits: (B, K); uniform: (B,) in [0, 1). Returns codes (B,) int64.
    """
    # float64: in float32 the sum of thousands of small terms would shift every boundary.
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel numbers -log(-log u), finite for u in [0, 1)."""
    return -(-uniform.clamp(min=TINY).log()).clamp(min=TINY).log()
