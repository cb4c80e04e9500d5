"""Images for tokenizer training and validation, as uint8 batches."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.crops import random_crop, resize_center_crop
from dataset.image_folder import DECODE_ERRORS, ImageList, read_rgb, to_uint8
from utils.errors import UserError


class TrainingImages(Dataset):
    """Batches of randomly cropped images: (b, 3, S, S) uint8 for (indices, uniforms).

    A file that cannot be decoded is reported, and the next one in the list takes its place.
    """

    def __init__(self, images: ImageList, size: int, flip: bool):
        self.images = images
        self.size = size
        self.flip = flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, batch: tuple[np.ndarray, np.ndarray]) -> Tensor:
        return torch.stack([self._one(int(i), u) for i, u in zip(*batch, strict=True)])

    def _one(self, index: int, uniforms: np.ndarray) -> Tensor:
        for attempt in range(len(self.images)):
            path = self.images.root / self.images.paths[(index + attempt) % len(self.images)]
            try:
                return to_uint8(random_crop(read_rgb(path), self.size, tuple(uniforms), self.flip))
            except DECODE_ERRORS as error:
                print(f"warning: {path} cannot be decoded ({error}); skipped", flush=True)
        raise UserError(f"{self.images.root}: no image can be decoded")


class CenterCrops(Dataset):
    """Single centre-cropped images: (3, S, S) uint8."""

    def __init__(self, images: ImageList, size: int, crop=resize_center_crop):
        self.images = images
        self.size = size
        self.crop = crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        path = self.images.root / self.images.paths[index]
        try:
            return to_uint8(self.crop(read_rgb(path), self.size))
        except DECODE_ERRORS as error:
            raise UserError(f"{path} cannot be decoded ({error}): mend or remove it") from error
