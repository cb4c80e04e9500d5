"""Sampling as a plain script writes it, for comparison.

Every position embeds the whole prefix again, keys and values grow by concatenation, attention adds
a mask, everything is float32, and `torch.multinomial` draws the codes. Weights and distributions are
the same (tests/benchmarks/test_references.py).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.alitok.generator import AliTokGenerator
from sampling.guidance import guidance_scale

Cache = list[tuple[Tensor, Tensor] | None]


@torch.no_grad()
def plain_logits(model: AliTokGenerator, codes: Tensor, class_ids: Tensor, cache: Cache, mask: Tensor) -> Tensor:
    """Logits (B, K) after codes (B, n) with the cache of the first n positions, which grows by one."""
    n = codes.shape[1]
    x = torch.cat([model.embed_classes(class_ids)[:, None], model.embeddings(codes)], dim=1)[:, -1:]
    rope = model.rope[n : n + 1]
    for i, block in enumerate(model.blocks):
        q, k, v = block.before_attention(x, rope)
        if cache[i] is not None:
            k, v = torch.cat([cache[i][0], k], dim=2), torch.cat([cache[i][1], v], dim=2)
        cache[i] = (k, v)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[n : n + 1, : n + 1])
        x = x + block.attn.proj(attended.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return model.output(model.norm(x))[:, 0]


@torch.no_grad()
def plain_sample(
    logits_after: Callable, model: Any, class_ids: Tensor, scale: float, power: float, positions: int
) -> Tensor:
    """The first `positions` codes of each class (B, positions), with guidance by doubled batches.

    logits_after: `plain_logits`, or what another family has in its place.
    """
    length, rows = model.layout.num_codes, len(class_ids)
    mask = torch.full((length + 2, length + 2), float("-inf"), device=class_ids.device).triu(1)
    codes = torch.empty(rows, 0, dtype=torch.int64, device=class_ids.device)
    classes = torch.cat([class_ids, torch.full_like(class_ids, model.num_classes)])
    cache: Cache = [None] * len(model.blocks)
    for t in range(positions):
        conditional, unconditional = logits_after(model, torch.cat([codes, codes]), classes, cache, mask).chunk(2)
        logits = unconditional + guidance_scale(t, length, scale, power) * (conditional - unconditional)
        codes = torch.cat([codes, torch.multinomial(logits.softmax(-1), 1)], dim=1)
    return codes
