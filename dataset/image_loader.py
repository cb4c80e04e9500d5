"""Images for tokenizer training and validation, as uint8 batches."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.crops import random_crop, resize_center_crop
from dataset.image_folder import DECODE_ERRORS, ImageList, read_rgb, to_uint8
from utils.errors import UserError

MAX_FAILURES = 64  # undecodable files one after another: the disk is gone rather than the files bad


class ImageBatch(NamedTuple):
    images: Tensor  # (b, 3, S, S) uint8
    indices: Tensor  # (b,) int64, which images these are
    failures: list[tuple[int, str]]  # index and error of files that could not be decoded


class TrainingImages(Dataset):
    """Batches of randomly cropped images for (indices, uniforms).

    A file that cannot be decoded is told in the batch, and the next one in the list takes its place.
    """

    def __init__(self, images: ImageList, size: int, flip: bool):
        self.images = images
        self.size = size
        self.flip = flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, batch: tuple[np.ndarray, np.ndarray]) -> ImageBatch:
        failures: list[tuple[int, str]] = []
        shown = [self._one(int(i), tuple(u), failures) for i, u in zip(*batch, strict=True)]
        crops, indices = zip(*shown, strict=True)
        return ImageBatch(torch.stack(crops), torch.tensor(indices), failures)

    def _one(self, index: int, uniforms: tuple, failures: list[tuple[int, str]]) -> tuple[Tensor, int]:
        """The crop of the first decodable image from `index` on, and its index."""
        last = ""
        for attempt in range(min(MAX_FAILURES, len(self.images))):
            chosen = (index + attempt) % len(self.images)
            try:
                return to_uint8(random_crop(read_rgb(self.images.path(chosen)), self.size, uniforms, self.flip)), chosen
            except DECODE_ERRORS as error:
                last = f"{self.images.path(chosen)}: {error}"
                failures.append((chosen, str(error)))
        raise UserError(
            f"{len(failures)} files one after another cannot be decoded, the last one {last}. Is the disk there?"
        )


class CenterCrops(Dataset):
    """Single centre-cropped images: (3, S, S) uint8."""

    def __init__(self, images: ImageList, size: int, crop=resize_center_crop):
        self.images = images
        self.size = size
        self.crop = crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        path = self.images.path(index)
        try:
            return to_uint8(self.crop(read_rgb(path), self.size))
        except DECODE_ERRORS as error:
            raise UserError(f"{path} cannot be decoded ({error}): mend or remove it") from error
