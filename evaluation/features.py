"""Feature extractors: what the metrics see of an image.

An extractor maps uint8 images to `Features`. ADM's is Inception; for small data sets without
Inception weights a classifier trained on the data itself stands in (its numbers compare only to
numbers made with the same classifier).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm


@dataclass
class Features:
    """Of n images: pool (n, d) for FID, precision and recall; spatial (n, s) for sFID; logits (n, c)."""

    pool: Tensor
    spatial: Tensor
    logits: Tensor

    @staticmethod
    def concatenate(parts: list["Features"]) -> "Features":
        return Features(*(torch.cat([getattr(p, k) for p in parts]) for k in ("pool", "spatial", "logits")))


class Extractor(Protocol):
    name: str
    num_features: int  # of the pool features

    def __call__(self, images: Tensor) -> Features:
        """images: (B, H, W, 3) uint8 -> Features on the CPU."""


def extract(extractor: Extractor, batches: Iterable[np.ndarray], total: int, description: str) -> Features:
    """Features of all batches (n, H, W, 3) uint8, with a progress bar."""
    parts = []
    with tqdm(total=total, unit="image", desc=description, mininterval=1.0) as bar:
        for batch in batches:
            parts.append(extractor(torch.from_numpy(batch)))
            bar.update(len(batch))
    return Features.concatenate(parts)
