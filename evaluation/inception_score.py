"""Inception Score (Salimans et al. 2016, arXiv:1606.03498)."""

import numpy as np
import torch
from torch import Tensor

SPLIT_SIZE = 5000


def inception_score(logits: np.ndarray | Tensor, split_size: int = SPLIT_SIZE) -> float:
    """exp(mean KL(p(y|x) || p(y))) of each split, averaged over splits; the last split may be shorter.

    logits: (n, classes), without the classifier's bias, as in ADM's evaluator.
    """
    scores = []
    for part in torch.as_tensor(logits).split(split_size):
        log_p = part.double().log_softmax(1)
        p = log_p.exp()
        marginal = p.mean(0)
        divergence = torch.linalg.vecdot(p, log_p).mean() - torch.special.xlogy(marginal, marginal).sum()
        scores.append(float(divergence.exp()))
    return float(np.mean(scores))
