"""Pictures of results: originals above reconstructions, samples by class."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dataset.data_order import evenly_spaced
from dataset.image_dataset import CenterCrops
from dataset.images import ImageList, to_float
from modeling.build import load_pretrained_tokenizer
from utils.images import grid, labelled_rows, preview_scale
from utils.npz import NpzImages, read_arrays


def all_images(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """All images (n, H, W, 3) uint8 and classes (n,) of an .npz file of samples."""
    return np.concatenate(list(NpzImages(path).batches(1024))), read_arrays(path, ("arr_1",))["arr_1"]


def reconstruction_rows(images: ImageList, image_size: int, tokenizers: dict[str, Path], count: int) -> Image.Image:
    """A row of `count` originals, evenly spaced over the classes, then a row of reconstructions per tokenizer.

    tokenizers: label -> output folder of the tokenizer's training.
    """
    crops = CenterCrops(images, image_size)
    originals = to_float(torch.stack([crops[i] for i in evenly_spaced(len(images), count)]))
    rows = [originals]
    for folder in tokenizers.values():
        tokenizer = load_pretrained_tokenizer(folder)
        rows.append(tokenizer.decode(tokenizer.encode(originals)))
    picture = grid(torch.cat(rows), columns=len(originals), scale=preview_scale(image_size))
    return labelled_rows(picture, ("original", *tokenizers))


def class_rows(images: np.ndarray, labels: np.ndarray, classes: int, per_class: int) -> Image.Image:
    """The first `per_class` images of each class, one row per class; black where a class has fewer.

    images: (n, H, W, 3) uint8; labels: (n,) in [0, classes).
    """
    blank = np.zeros_like(images[:1])
    rows: list[np.ndarray] = []
    for c in range(classes):
        found = images[labels == c][:per_class]
        rows += [found, *[blank] * (per_class - len(found))]
    pixels = torch.from_numpy(np.concatenate(rows)).permute(0, 3, 1, 2)
    return grid(to_float(pixels), columns=per_class, scale=preview_scale(pixels.shape[-1]))


def class_names(images: ImageList) -> list[str]:
    """Folder names without the number that sorts them: "00-t-shirt" -> "t-shirt"."""
    return [name.partition("-")[2] or name for name in images.classes]
