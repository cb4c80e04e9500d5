import numpy as np
import torch

from evaluation.bootstrap import fid_interval
from evaluation.fid import Statistics


def test_fid_interval_covers_the_truth_as_often_as_it_says():
    """FID of N(0, 1)^20 against N(0.3, 1)^20 is 1.8. (Plain quantiles of the resampled values never cover it.)"""
    rng = np.random.default_rng(0)
    reference = Statistics.from_features(rng.standard_normal((200_000, 20)))
    covered = 0
    for _ in range(40):
        low, high = fid_interval(reference, torch.from_numpy(rng.standard_normal((300, 20)) + 0.3), 100)
        assert low < high
        covered += low <= 1.8 <= high
    assert covered >= 34
