"""Drawing codes from a generator, the same codes for the same image whatever the batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from modeling.guidance import guidance_scale
from modeling.interfaces import Generator


def image_noise(seed: int, image_ids: Sequence[int], num_steps: int) -> Tensor:
    """One uniform number in [0, 1) per image and step: float64 (images, steps).

    Counter-based (Philox keyed by seed and image), so image i draws the same numbers in any batch,
    on any rank, before and after an interruption.
    """
    rows = [np.random.Generator(np.random.Philox(key=[seed, i])).random(num_steps) for i in image_ids]
    return torch.from_numpy(np.stack(rows))


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One draw per row from softmax(logits) by inversion of the cumulative distribution.

    logits: (B, K); uniform: (B,) in [0, 1). Returns codes (B,) int64.
    """
    # float64: in float32 the sum of thousands of small terms would shift every boundary.
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)


@torch.no_grad()  # not inference_mode: sharded weights are gathered into tensors that training uses, too
def sample_codes(
    generator: Generator,
    class_ids: Tensor,
    noise: Tensor,
    *,
    scale: float,
    power: float,
    temperature: float = 1.0,
) -> Tensor:
    """Sample with classifier-free guidance.

    class_ids: (B,) in [0, num_classes); noise: (B, T) uniform, see `image_noise`;
    scale 0 means no guidance. Returns codes (B, T) int64 in the tokenizer's order.
    Raises ValueError for class ids out of range, which would be other rows of the embedding table.
    """
    if not 0 <= int(class_ids.min()) <= int(class_ids.max()) < generator.num_classes:
        raise ValueError(f"class ids must be in [0, {generator.num_classes}), not {class_ids.tolist()}")
    rows = len(class_ids)
    guided = scale != 0
    if guided:
        no_class = torch.full_like(class_ids, generator.num_classes)
        class_ids = torch.cat([class_ids, no_class])
    noise = noise.to(class_ids.device)
    state = generator.start(class_ids)
    codes = torch.empty(rows, generator.num_codes, dtype=torch.int64, device=class_ids.device)
    last = None
    for t in range(generator.num_codes):
        logits = generator.step(state, last)
        if guided:
            conditional, unconditional = logits.split(rows)
            s = guidance_scale(t, generator.num_codes, scale, power)
            logits = unconditional + s * (conditional - unconditional)
        codes[:, t] = draw(logits / temperature, noise[:, t])
        last = torch.cat([codes[:, t]] * 2) if guided else codes[:, t]
    return generator.finish(codes)
