"""Masked sampling as the published script does it, to compare with.

Every sampling step passes all positions through the model twice, with the class and without it, in float32, and
adds Gumbel noise to the logits of all codes. Distributions are the same (tests/benchmarks/test_references.py).
"""

import torch
from torch import Tensor

from modeling.interfaces import MaskedGenerator
from sampling.masked import MaskedSettings, masked_counts
from sampling.noise import gumbel


@torch.no_grad()
def plain_masked_sample(model: MaskedGenerator, class_ids: Tensor, settings: MaskedSettings) -> Tensor:
    """Codes (B, T) of the classes."""
    rows, length = len(class_ids), model.layout.num_codes
    codes = torch.full((rows, length), -1, device=class_ids.device)
    no_class = torch.full_like(class_ids, model.num_classes)
    for step, masked_after in enumerate(masked_counts(length, settings.num_steps)):
        known = codes >= 0
        conditional, unconditional = model(codes, class_ids), model(codes, no_class)
        logits = conditional + settings.guidance_weight(step) * (conditional - unconditional)
        if settings.softmax_temperature_annealing:
            logits = logits / (0.5 + 0.8 * settings.steps_to_come(step))
        temperature = settings.temperature * settings.steps_to_come(step)
        noisy = logits + temperature * gumbel(torch.rand_like(logits))
        codes = torch.where(known, codes, noisy.argmax(-1))
        confidence = logits.gather(2, codes[..., None])[..., 0]
        confidence = (confidence + temperature * gumbel(torch.rand_like(confidence))).masked_fill(known, torch.inf)
        cut = confidence.sort(dim=1).values[:, masked_after - 1 : masked_after]
        codes = codes.masked_fill(confidence <= cut, -1) if masked_after else codes
    return codes
