"""Random numbers that a generator's loss takes."""

import torch
from torch import Tensor

from sampling.noise import image_noise

LOSS_STREAM = 2**32  # keeps the loss's random numbers apart from those of sampling, which have the seed as key


def loss_noise(seed: int, sample_numbers: Tensor, numbers_per_sample: int) -> Tensor:
    """Uniform numbers for a loss, (b, numbers_per_sample) float64, a function of seed and sample number."""
    if not numbers_per_sample:
        return torch.empty(len(sample_numbers), 0, dtype=torch.float64)
    return image_noise(LOSS_STREAM + seed, sample_numbers.tolist(), numbers_per_sample)
