"""How far FID would move with another draw of samples."""

import torch
from torch import Tensor

from evaluation.adm_metrics import Statistics, frechet_distance, statistics

SEED = 0
LEVEL = 0.95


def fid_interval(reference: Statistics, samples: Tensor, resamplings: int) -> tuple[float, float]:
    """Basic bootstrap interval of FID at 95 %, over samples (n, d) drawn anew with replacement.

    A resampled set holds fewer different images, so its FID is too high; the basic interval
    (Davison and Hinkley, 1997, ch. 5) reflects the resampled values at the estimate, which takes
    that shift out. The reference is taken as exact.
    """
    n = len(samples)
    generator = torch.Generator().manual_seed(SEED)
    estimate, values = frechet_distance(reference, statistics(samples)), []
    for _ in range(resamplings):
        chosen = torch.randint(n, (n,), generator=generator).to(samples.device)
        values.append(frechet_distance(reference, statistics(samples[chosen])))
    tail = (1 - LEVEL) / 2
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    return 2 * estimate - high, 2 * estimate - low
