"""RAR's next logits as a plain sampler computes them, to compare with; `reference_sampler.plain_sample` draws.

Every position embeds the whole prefix and looks up both position tables and the conditions of all positions
again, to use the last one; each block computes its modulations, and keys and values grow by concatenation.
Weights and distributions are the same (tests/benchmarks/test_references.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.reference_sampler import Cache
from modeling.rar.generator import RARGenerator


@torch.no_grad()
def plain_logits(model: RARGenerator, codes: Tensor, class_ids: Tensor, cache: Cache, mask: Tensor) -> Tensor:
    """Logits (B, K) after codes (B, n) with the cache of the positions before, which grows by one, at first by two."""
    rows, n = codes.shape
    start, classes = model.cls_token.expand(rows, -1, -1), model.embed_classes(class_ids)[:, None]
    places = torch.arange(n + 2, device=codes.device)
    x = torch.cat([start, classes, model.embeddings(codes)], dim=1) + model.pos_embed[:, places]
    x = torch.cat([x[:, :1], x[:, 1:] + model.target_aware_pos_embed[:, places[1:] + 1]], dim=1)
    condition = classes + model.timesteps_embeddings[:, places]
    new = 1 if n else 2
    x, condition = x[:, -new:], condition[:, -new:]
    for i, block in enumerate(model.blocks):
        modulation = block.adaLN_modulation(condition)
        q, k, v = block.before_attention(x, modulation)
        if cache[i] is not None:
            k, v = torch.cat([cache[i][0], k], dim=2), torch.cat([cache[i][1], v], dim=2)
        cache[i] = (k, v)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[n + 2 - new : n + 2, : n + 2])
        x = block.after_attention(x, attended, modulation)
    return model.lm_head(model.adaln_before_head(x, condition))[:, -1]
