"""Images for tokenizer training and validation, as uint8 batches."""

from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dataset.crops import random_crop, resize_center_crop
from dataset.data_order import SampleBatch
from dataset.decode import BadImage
from dataset.images import ImageList, to_uint8
from utils.errors import UserError

MAX_FAILURES = 64  # undecodable files in a row: the disk is gone


class ImageBatch(NamedTuple):
    images: Tensor  # (b, 3, S, S) uint8
    indices: Tensor  # (b,) int64, in the list of images
    failures: list[tuple[int, str]]  # index and error of undecodable files


def read_or_next(images: ImageList, index: int, failures: list[tuple[int, str]]) -> tuple[Image.Image, int]:
    """The first decodable image from `index` on, and its index. Appends index and error of the others to `failures`.

    Raises UserError after MAX_FAILURES undecodable files in a row.
    """
    attempts = min(MAX_FAILURES, len(images))
    for attempt in range(attempts):
        chosen = (index + attempt) % len(images)
        try:
            return images.read(chosen), chosen
        except BadImage as error:
            failures.append((chosen, str(error)))
    last, error = failures[-1]
    raise UserError(
        f"{attempts} files in a row cannot be decoded, the last one is {images.path(last)}: {error}. Is the disk there?"
    )


class TrainingImages(Dataset):
    """Batches of random crops.

    Undecodable files are reported in `batch.failures` and replaced by the next file.
    """

    def __init__(self, images: ImageList, size: int, flip: bool, resize: str = "bilinear"):
        """resize: a key of `dataset.crops.RESIZES`."""
        self.images = images
        self.size = size
        self.flip = flip
        self.resize = resize

    def __len__(self) -> int:
        return len(self.images)

    def describe(self, indices: list[int]) -> str:
        return ", ".join(str(self.images.path(i)) for i in indices)

    def fingerprint(self) -> str:
        return f"{len(self)} files, {self.images.fingerprint()}"

    def __getitem__(self, batch: SampleBatch) -> ImageBatch:
        crops, indices, failures = [], [], []
        for index, uniforms in zip(*batch[:2], strict=True):
            image, index = read_or_next(self.images, int(index), failures)
            crops.append(to_uint8(random_crop(image, self.size, uniforms, self.flip, self.resize)))
            indices.append(index)
        return ImageBatch(torch.stack(crops), torch.tensor(indices), failures)


class CenterCrops(Dataset):
    """Single centre-cropped images: (3, S, S) uint8."""

    def __init__(self, images: ImageList, size: int, crop=resize_center_crop, skip_bad: bool = False):
        """skip_bad: warn about an undecodable file and return None, instead of raising UserError."""
        self.images = images
        self.size = size
        self.crop = crop
        self.skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | None:
        try:
            return to_uint8(self.crop(self.images.read(index), self.size))
        except BadImage as error:
            path = self.images.path(index)
            if self.skip_bad:
                print(f"warning: {path} cannot be decoded ({error}); left out", flush=True)
                return None
            raise UserError(f"{path} cannot be decoded ({error}): fix or remove it") from error


def stack_decoded(samples: list[Tensor | None]) -> Tensor | None:
    """A batch of the samples that are not None, or None if there are none."""
    decoded = [sample for sample in samples if sample is not None]
    return torch.stack(decoded) if decoded else None
