"""The images of one split of a data set: which there are, their classes, and how one is read."""

import hashlib
import os
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset.classes import class_numbers
from dataset.data_order import evenly_spaced
from dataset.decode import IMAGE_SUFFIXES, read_rgb
from dataset.listing import describe, files_below, is_data, subfolders, suffix
from utils.errors import UserError, nearest

MAX_CLASSES_IN_MESSAGE = 10


@dataclass(frozen=True)
class ImageList:
    """All images of one split, in the order of their classes and paths."""

    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]  # relative to root, with forward slashes
    labels: np.ndarray  # (n,) int64, index into classes
    passed_over: Counter[str] = field(default_factory=Counter)  # what lies there and is no image, by kind

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return self.root / self.paths[index]

    def read(self, index: int) -> Image.Image:
        """Decode an image to RGB. Raises BadImage."""
        return read_rgb(self.path(index))

    def evenly_spaced(self, count: int) -> "ImageList":
        """At most `count` of the images, spaced evenly over the list and so over the classes."""
        chosen = evenly_spaced(len(self), count)
        return replace(self, paths=tuple(self.paths[i] for i in chosen), labels=self.labels[chosen])

    def numbered_like(self, other: "ImageList") -> "ImageList":
        """The same images with the classes of another split. Raises UserError for a class that it lacks."""
        numbers = class_numbers(self.labels, self.classes, other.classes, self.root, other.root)
        return replace(self, classes=other.classes, labels=numbers[self.labels])

    def empty_classes(self) -> list[str]:
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return [name for name, count in zip(self.classes, counts, strict=True) if not count]

    def fingerprint(self) -> str:
        """SHA-256 over class names and paths."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for path in self.paths:
            digest.update(f"\n{path}".encode())
        return digest.hexdigest()


def list_images(data_path: str | Path, split: str) -> ImageList:
    """List DATA_PATH/SPLIT. Classes are numbered by sorted folder name.

    The first process of a launch prints what was passed over, and classes without images.
    Raises UserError if the folder is missing, or holds no class folders or no images.
    """
    root = Path(data_path) / split
    if not root.is_dir():
        siblings = [p.name for p in Path(data_path).iterdir()] if Path(data_path).is_dir() else []
        raise UserError(
            f"image folder not found: {root} (expected {data_path}/{split}/<class>/<image>){nearest(split, siblings)}"
        )
    images = _list_folder(root)
    if os.environ.get("RANK", "0") == "0":
        _report(images)
    return images


def _list_folder(root: Path) -> ImageList:
    passed_over: Counter[str] = Counter()
    classes = subfolders(root, passed_over)
    if not classes:
        raise UserError(f"{root} holds no class folders (expected {root}/<class>/<image>)")
    outside = sum(suffix(p.name) in IMAGE_SUFFIXES and is_data(p.name) for p in root.iterdir() if p.is_file())
    if outside:
        passed_over["images outside of class folders"] = outside
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(f"{name}/{path}" for path in files_below(root / name, IMAGE_SUFFIXES, passed_over))
        paths += found
        labels += [label] * len(found)
    if not paths:
        others = f"; there are {describe(passed_over)}" if passed_over else ""
        raise UserError(f"{root} holds no images{others}")
    return ImageList(root, tuple(classes), tuple(paths), np.array(labels, dtype=np.int64), passed_over)


def _report(images: ImageList) -> None:
    if images.passed_over:
        print(f"{images.root}: passed over {describe(images.passed_over)}", file=sys.stderr)
    empty = images.empty_classes()
    if empty:
        more = ", ..." if len(empty) > MAX_CLASSES_IN_MESSAGE else ""
        names = ", ".join(empty[:MAX_CLASSES_IN_MESSAGE])
        print(f"warning: {images.root}: {len(empty)} classes without images: {names}{more}", file=sys.stderr)


def to_uint8(image: Image.Image) -> Tensor:
    """RGB image -> (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_float(images: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 -> float32 in [0, 1]. Call it on the device: bytes are faster to transfer."""
    return images.float() / 255
