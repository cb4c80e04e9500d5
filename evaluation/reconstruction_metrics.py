"""Metrics of a tokenizer. Each has two methods:

add(batch): add a batch of this process.
compute(): values by key over all processes, which must all call it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate.utils import reduce
from torch import Tensor

from evaluation.features import Extractor
from evaluation.fid import RunningStatistics, Statistics, frechet_distance
from modeling.layers.codebook_usage import CodebookUsage
from utils.images import to_bytes


@dataclass(frozen=True)
class ReconstructedBatch:
    pixels: Tensor  # (B, 3, H, W) uint8
    images: Tensor  # the same in [0, 1], float32
    codes: Tensor  # (B, T) int64, or continuous latents
    reconstruction: Tensor  # (B, 3, H, W) in [0, 1]


def _sum_over_processes(values: Tensor) -> Tensor:
    return reduce(values, reduction="sum")


class ImageMeans:
    """Means over images of functions of (images, reconstruction) that return one value per image, e.g. PSNR.

    `images` is the number of images.
    """

    def __init__(self, functions: dict[str, Callable[[Tensor, Tensor], Tensor]], device: torch.device):
        self.functions = functions
        self._count = torch.zeros((), dtype=torch.float64, device=device)
        self._sums = torch.zeros(len(functions), dtype=torch.float64, device=device)

    def add(self, batch: ReconstructedBatch) -> None:
        values = [function(batch.images, batch.reconstruction) for function in self.functions.values()]
        self._sums += torch.stack(values).double().sum(1)
        self._count += len(batch.images)

    def compute(self) -> dict[str, float]:
        count = _sum_over_processes(self._count)
        means = (_sum_over_processes(self._sums) / count).tolist()
        return {"images": int(count), **dict(zip(self.functions, means, strict=True))}


class CodeFrequencies:
    """codebook_usage (share of the codebook in [0, 1]) and codebook_perplexity."""

    def __init__(self, codebook_size: int, device: torch.device):
        self._usage = CodebookUsage(codebook_size, device)

    def add(self, batch: ReconstructedBatch) -> None:
        self._usage.add(batch.codes)

    def compute(self) -> dict[str, float]:
        self._usage.counts = _sum_over_processes(self._usage.counts)
        return {"codebook_usage": self._usage.usage(), "codebook_perplexity": self._usage.perplexity()}


class ReconstructionFID:
    """rfid: FID of reconstructions against the same crops of the originals.

    `originals` keeps the originals' statistics after `compute`; hand them in to skip their computation.
    """

    def __init__(self, extractor: Extractor, device: torch.device, originals: Statistics | None = None):
        self.extractor = extractor
        self.originals = originals
        self._originals, self._reconstructions = (RunningStatistics(extractor.num_features, device) for _ in range(2))

    def add(self, batch: ReconstructedBatch) -> None:
        if self.originals is None:
            self._originals.add(self.extractor(batch.pixels.movedim(1, -1)).pool)
        self._reconstructions.add(self.extractor(to_bytes(batch.reconstruction, rounded=True)).pool)

    def compute(self) -> dict[str, float]:
        if self.originals is None:
            self.originals = self._originals.reduced(_sum_over_processes).statistics()
        reconstructions = self._reconstructions.reduced(_sum_over_processes).statistics()
        return {"rfid": frechet_distance(self.originals, reconstructions)}
