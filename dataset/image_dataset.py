"""Images for tokenizer training and validation, as uint8 batches."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
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


def read_or_next(images: ImageList, index: int, failures: list[tuple[int, str]]) -> tuple[Image.Image, int]:
    """The first image from `index` on that can be decoded, and its index; adds the others to `failures`.

    Raises UserError after 64 in a row.
    """
    attempts = min(MAX_FAILURES, len(images))
    for attempt in range(attempts):
        chosen = (index + attempt) % len(images)
        try:
            return read_rgb(images.path(chosen)), chosen
        except DECODE_ERRORS as error:
            failures.append((chosen, str(error)))
    last, error = failures[-1]
    raise UserError(
        f"{attempts} files one after another cannot be decoded, the last one {images.path(last)}: {error}. Is the"
        " disk there?"
    )


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

    def describe(self, indices: list[int]) -> str:
        return ", ".join(str(self.images.path(i)) for i in indices)

    def fingerprint(self) -> str:
        return f"{len(self)} files, {self.images.fingerprint()}"

    def __getitem__(self, batch: tuple[np.ndarray, np.ndarray]) -> ImageBatch:
        failures: list[tuple[int, str]] = []
        shown = [self._one(int(i), tuple(u), failures) for i, u in zip(*batch, strict=True)]
        crops, indices = zip(*shown, strict=True)
        return ImageBatch(torch.stack(crops), torch.tensor(indices), failures)

    def _one(self, index: int, uniforms: tuple, failures: list[tuple[int, str]]) -> tuple[Tensor, int]:
        image, index = read_or_next(self.images, index, failures)
        return to_uint8(random_crop(image, self.size, uniforms, self.flip)), index


class CenterCrops(Dataset):
    """Single centre-cropped images: (3, S, S) uint8."""

    def __init__(self, images: ImageList, size: int, crop=resize_center_crop, skip_bad: bool = False):
        """skip_bad: None for a file that cannot be decoded, with a warning, in place of a UserError."""
        self.images = images
        self.size = size
        self.crop = crop
        self.skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | None:
        path = self.images.path(index)
        try:
            return to_uint8(self.crop(read_rgb(path), self.size))
        except DECODE_ERRORS as error:
            if self.skip_bad:
                print(f"warning: {path} cannot be decoded ({error}); left out", flush=True)
                return None
            raise UserError(f"{path} cannot be decoded ({error}): mend or remove it") from error


def stack_decoded(samples: list[Tensor | None]) -> Tensor | None:
    """A batch of those that could be decoded, or None if none could."""
    decoded = [sample for sample in samples if sample is not None]
    return torch.stack(decoded) if decoded else None
