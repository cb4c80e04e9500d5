"""Batches for generator training: cached codes, or random views of images to encode on the device."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.classes import class_numbers
from dataset.crops import NUM_VIEWS, center_crop, cut_views, source_size
from dataset.data_order import SampleBatch
from dataset.image_dataset import read_or_next
from dataset.images import ImageList, to_uint8
from dataset.token_cache.reader import TokenCache

SUBSET_SEED = 0


class CodeBatch(NamedTuple):
    """b samples: their codes or, without a cache, the views to encode."""

    codes: Tensor | None  # (b, T) int64
    images: Tensor | None  # (b, 3, S, S) uint8
    class_ids: Tensor  # (b,) int64
    indices: Tensor  # (b,) int64, in the whole list of images
    sample_numbers: Tensor  # (b,) int64, counted since the start of training; for random numbers of the loss
    failures: list[tuple[int, str]]  # index and error of undecodable files


def fixed_subset(total: int, limit: int | None) -> np.ndarray | None:
    """A fixed random subset of `limit` samples, or None for all of them."""
    if limit is None or limit >= total:
        return None
    return np.random.default_rng(SUBSET_SEED).permutation(total)[:limit]


class CodeSource(Dataset, ABC):
    """One view of each image: view index = floor(u[0] * num_views)."""

    def __init__(self, total: int, limit: int | None = None):
        """limit: use a fixed random subset of this many of the `total` images."""
        self.subset = fixed_subset(total, limit)
        self.length = total if self.subset is None else len(self.subset)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, batch: SampleBatch) -> CodeBatch:
        """batch: indices (b,), uniforms (b, >= 1), sample numbers (b,)."""
        indices, uniforms, numbers = batch
        rows = indices if self.subset is None else self.subset[indices]
        return self.load(rows, uniforms, torch.from_numpy(numbers))

    @abstractmethod
    def load(self, rows: np.ndarray, uniforms: np.ndarray, numbers: Tensor) -> CodeBatch:
        """One view of each of the images `rows` (b,) of the whole list. numbers: the batch's `sample_numbers`."""

    @abstractmethod
    def describe(self, indices: list[int]) -> str:
        """The images at `CodeBatch.indices`, for a message."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Differs for different data, and is the same on every rank."""


class CachedCodes(CodeSource):
    """Codes from a token cache."""

    def __init__(self, cache: TokenCache, limit: int | None = None, classes: Sequence[str] | None = None):
        """classes: number the classes like these names; default: as the cache does. Raises UserError."""
        super().__init__(len(cache), limit)
        self.cache = cache
        names = cache.classes if classes is None else classes
        self.numbers = class_numbers(cache.labels, cache.classes, names, cache.path, "the training data")

    def load(self, rows: np.ndarray, uniforms: np.ndarray, numbers: Tensor) -> CodeBatch:
        views = (uniforms[:, 0] * self.cache.num_views).astype(int)
        codes = np.stack([self.cache.codes(i, v) for i, v in zip(rows, views, strict=True)])
        labels = torch.from_numpy(self.numbers[self.cache.labels[rows]])
        codes = torch.from_numpy(codes.astype(np.int64))
        return CodeBatch(codes, None, labels, torch.from_numpy(rows), numbers, [])

    def describe(self, indices: list[int]) -> str:
        paths = self.cache.paths()
        return ", ".join(paths[i] for i in indices)

    def fingerprint(self) -> str:
        metadata = self.cache.metadata
        return f"{len(self)} images, {metadata or self.cache.labels.sum()}"


class RandomViews(CodeSource):
    """The views of an image folder, cut as for a token cache: ten crops, or the centre crop and its mirror image."""

    def __init__(self, images: ImageList, size: int, limit: int | None = None, ten_crop: bool = True):
        super().__init__(len(images), limit)
        self.images = images
        self.size = size
        self.ten_crop = ten_crop

    def load(self, rows: np.ndarray, uniforms: np.ndarray, numbers: Tensor) -> CodeBatch:
        failures: list[tuple[int, str]] = []
        views, indices = [], []
        for row, u in zip(rows, uniforms, strict=True):
            image, index = read_or_next(self.images, int(row), failures)
            crop = to_uint8(center_crop(image, source_size(self.size, self.ten_crop)))
            view = int(u[0] * NUM_VIEWS[self.ten_crop])
            views.append(cut_views(crop[None], self.size, self.ten_crop)[0, view])
            indices.append(index)
        labels = torch.from_numpy(self.images.labels[indices])
        return CodeBatch(None, torch.stack(views), labels, torch.tensor(indices), numbers, failures)

    def describe(self, indices: list[int]) -> str:
        return ", ".join(str(self.images.path(i)) for i in indices)

    def fingerprint(self) -> str:
        return f"{len(self)} images, {self.images.fingerprint()}"
