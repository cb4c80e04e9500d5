"""Image folders with ImageNet's layout: ROOT/<split>/<class folder>/.../<file>."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from dataset.data_order import evenly_spaced
from utils.errors import UserError, nearest

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".gif", ".tif", ".tiff")

# Raise for a truncated file; do not return an image with a grey lower half.
ImageFile.LOAD_TRUNCATED_IMAGES = False


@dataclass(frozen=True)
class ImageList:
    """All images of one split, in the order of their class folders and paths."""

    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]  # relative to root, with forward slashes
    labels: np.ndarray  # (n,) int64, index into classes

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return self.root / self.paths[index]

    def evenly_spaced(self, count: int) -> "ImageList":
        """At most `count` of the images, spaced evenly over the list and so over the classes."""
        chosen = evenly_spaced(len(self), count)
        return replace(self, paths=tuple(self.paths[i] for i in chosen), labels=self.labels[chosen])

    def fingerprint(self) -> str:
        """SHA-256 over class names and paths."""
        digest = hashlib.sha256("\n".join(self.classes).encode(errors="surrogateescape"))
        for path in self.paths:
            digest.update(f"\n{path}".encode(errors="surrogateescape"))
        return digest.hexdigest()


def list_images(data_path: str | Path, split: str) -> ImageList:
    """List DATA_PATH/SPLIT. Classes are numbered by sorted folder name.

    Raises UserError if the folder is missing, or holds no class folders or no images.
    """
    root = Path(data_path) / split
    if not root.is_dir():
        siblings = [p.name for p in Path(data_path).iterdir()] if Path(data_path).is_dir() else []
        raise UserError(
            f"image folder not found: {root} (expected {data_path}/{split}/<class>/<image>){nearest(split, siblings)}"
        )
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not classes:
        raise UserError(f"{root} holds no class folders (expected {root}/<class>/<image>)")
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = []
        for folder, _, files in os.walk(root / name, followlinks=True):
            relative = os.path.relpath(folder, root).replace(os.sep, "/")
            found += [f"{relative}/{f}" for f in files if f.lower().endswith(IMAGE_SUFFIXES)]
        paths += sorted(found)
        labels += [label] * len(found)
    if not paths:
        raise UserError(f"{root} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return ImageList(root, tuple(classes), tuple(paths), np.array(labels, dtype=np.int64))


def read_rgb(path: str | Path) -> Image.Image:
    """Decode a file to RGB. Raises one of DECODE_ERRORS for a damaged one."""
    with Image.open(path) as image:
        return image.convert("RGB")


# PIL raises these for damaged files; OSError includes UnidentifiedImageError and truncation.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def to_uint8(image: Image.Image) -> Tensor:
    """RGB image -> (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_float(images: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 -> float32 in [0, 1]. Call it on the device: bytes are faster to transfer."""
    return images.float() / 255
