"""Confidence interval of FID over the draw of the samples."""

import torch
from torch import Tensor

from evaluation.fid import Statistics, frechet_distance

RESAMPLING_SEED = 0
CONFIDENCE = 0.95


def fid_interval(reference: Statistics, samples: Tensor, resamplings: int) -> tuple[float, float]:
    """Basic bootstrap interval of FID at 95 %: resample the samples (n, d) with replacement.

    A resampled set holds fewer distinct images, so its FID is too high. The basic interval (Davison and
    Hinkley 1997, ch. 5) reflects the resampled values at the estimate, which removes that shift.
    The reference is taken as exact.
    """
    n = len(samples)
    generator = torch.Generator().manual_seed(RESAMPLING_SEED)
    estimate, values = frechet_distance(reference, Statistics.from_features(samples)), []
    for _ in range(resamplings):
        chosen = torch.randint(n, (n,), generator=generator).to(samples.device)
        values.append(frechet_distance(reference, Statistics.from_features(samples[chosen])))
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    return 2 * estimate - high, 2 * estimate - low
