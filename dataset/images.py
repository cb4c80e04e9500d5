"""The images of one split of a data set: which there are, their classes, and how one is read."""

import hashlib
import io
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset.archives.imagenet_labels import EXPECTED, FLAT_NAME, read_classes
from dataset.archives.index import load_listing
from dataset.archives.locate import SPLIT_WORDS, Archives, find_archives, split_names
from dataset.archives.places import Places
from dataset.classes import class_numbers
from dataset.crops import center_crop
from dataset.data_order import evenly_spaced
from dataset.decode import IMAGE_SUFFIXES, BadImage, read_rgb
from dataset.listing import describe, files_below, is_data, subfolders, suffix
from utils.errors import UserError, nearest, warn
from utils.process import from_first_process

MAX_CLASSES_IN_MESSAGE = 10
MAX_PARENTS = 4  # ImageNet's labels may lie above ILSVRC/Data/CLS-LOC/val
ONE_CLASS = "all"  # the class of images that lie in no class folder
HELD_OUT_EVERY = 20  # of a folder without splits, each 20th image is for validation


@dataclass(frozen=True)
class ImageList:
    """All images of one split, in the order of their classes and paths."""

    root: Path  # the folder of the split, or the archive or folder of archives
    classes: tuple[str, ...]
    paths: tuple[str, ...]  # relative to root, with forward slashes
    labels: np.ndarray  # (n,) int64, index into classes
    places: Places | None = None  # in archives; None: the paths are files
    passed_over: Counter[str] = field(default_factory=Counter)  # what lies there and is no image, by kind

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return self.root / self.paths[index]

    def read(self, index: int) -> Image.Image:
        """Decode an image to RGB. Raises BadImage."""
        return read_rgb(self.file(index))

    def file(self, index: int) -> Path | io.BytesIO:
        """What holds an image's bytes. Raises BadImage if they cannot be read out of an archive."""
        return self.path(index) if self.places is None else io.BytesIO(self.places.read(index))

    def evenly_spaced(self, count: int) -> "ImageList":
        """At most `count` of the images, spaced evenly over the list and so over the classes."""
        return self.take(evenly_spaced(len(self), count))

    def take(self, chosen: np.ndarray) -> "ImageList":
        """The images with the indices `chosen`; the classes and their numbers stay."""
        paths, places = tuple(self.paths[i] for i in chosen), self.places and self.places.take(chosen)
        return replace(self, paths=paths, labels=self.labels[chosen], places=places)

    def numbered_like(self, other: "ImageList") -> "ImageList":
        """The same images with the classes of another split. Raises UserError for a class that it lacks."""
        numbers = class_numbers(self.labels, self.classes, other.classes, self.root, other.root)
        return replace(self, classes=other.classes, labels=numbers[self.labels])

    def empty_classes(self) -> list[str]:
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return [name for name, count in zip(self.classes, counts, strict=True) if not count]

    def fingerprint(self) -> str:
        """SHA-256 over class names and paths."""
        digest = hashlib.sha256("\n".join(self.classes).encode(errors="surrogateescape"))
        for path in self.paths:
            digest.update(f"\n{path}".encode(errors="surrogateescape"))
        return digest.hexdigest()


class NoSuchSplit(UserError):
    """A data set has no split of this name."""


def list_images(data_path: str | Path, split: str) -> ImageList:
    """List a split of a data set: an image folder, or archives (docs/data.md).

    In folders the classes are numbered by sorted name. Of a folder without splits every 20th image is "val", the
    others are "train". The first process of a launch prints what was passed over, and classes without images.
    Raises NoSuchSplit, or UserError for a split without images.
    """
    data_path = Path(data_path)
    folders = [data_path / name for name in split_names(split)]
    folder = next((f for f in folders if f.is_dir() and subfolders(f, Counter())), None)
    archives = find_archives(data_path, split) if folder is None else None
    if archives is not None:
        images = _list_archives(archives, data_path, split)
    elif folder is None and split in (*split_names("train"), *split_names("val")) and _has_no_splits(data_path):
        images = _list_folder(data_path)
        _report(images)
        return _part(images, split in split_names("val"))
    else:
        images = _list_folder(folder or next((f for f in folders if f.is_dir()), folders[0]))
    _report(images)
    return images


def list_images_together(data_path: str | Path, split: str) -> ImageList:
    """`list_images` of the first process, on all processes: a shared file system is walked only once."""
    return from_first_process(lambda: list_images(data_path, split))


def _has_no_splits(folder: Path) -> bool:
    """Whether images, or class folders with images, lie in the folder itself, and no splits or data sets."""
    if not folder.is_dir() or any((folder / word).exists() for word in SPLIT_WORDS):
        return False
    inner = subfolders(folder, Counter())
    if any((folder / name / word).is_dir() for name in inner for word in split_names("train")):
        return False
    return next(files_below(folder, IMAGE_SUFFIXES, Counter()), None) is not None


def _part(images: ImageList, held_out: bool) -> ImageList:
    """The training or the validation images of a folder without splits. Raises UserError for fewer than two images."""
    if len(images) < 2:
        raise UserError(f"{images.root} holds one image: training and validation need one each")
    for_validation = np.arange(len(images)) % HELD_OUT_EVERY == 0
    part = f"{for_validation.sum()} are for validation, {(~for_validation).sum()} for training"
    _say_once(f"{images.root} has no train/ and val/: of its {len(images)} images {part}")
    return images.take(np.flatnonzero(for_validation == held_out))


def _list_archives(archives: Archives, data_path: Path, split: str) -> ImageList:
    listing = load_listing(archives, data_path)
    root = archives.files[0] if len(archives.files) == 1 else archives.files[0].parent
    if not listing.paths:
        below = "" if archives.whole else f" below a folder {split}/"
        raise NoSuchSplit(f"{root} holds no images of the split '{split}'{below}")
    return ImageList(root, listing.classes, listing.paths, listing.labels, listing.places, listing.passed_over)


def _list_folder(root: Path) -> ImageList:
    if root.parent.is_file():
        raise NoSuchSplit(f"{root.parent} is not named for the split '{root.name}'")
    if not root.is_dir():
        siblings = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        raise NoSuchSplit(
            f"image folder not found: {root} (expected {root}/<class>/<image>, or archives: docs/data.md)"
            f"{nearest(root.name, siblings)}"
        )
    passed_over: Counter[str] = Counter()
    classes = subfolders(root, passed_over)
    outside = sum(suffix(p.name) in IMAGE_SUFFIXES and is_data(p.name) for p in root.iterdir() if p.is_file())
    if outside:
        passed_over["images outside of class folders"] = outside
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(f"{name}/{path}" for path in files_below(root / name, IMAGE_SUFFIXES, passed_over))
        paths += found
        labels += [label] * len(found)
    if not paths:  # also below folders that hold no images
        return _list_flat(root, Counter())
    return ImageList(root, tuple(classes), tuple(paths), np.array(labels, dtype=np.int64), None, passed_over)


def _list_flat(root: Path, passed_over: Counter[str]) -> ImageList:
    """A folder without class folders: ImageNet's validation images as they are unpacked, or images of one class."""
    names = sorted(files_below(root, IMAGE_SUFFIXES, passed_over))
    numbers = {name: int(match[1]) for name in names if (match := FLAT_NAME.match(name))}
    if not names:
        others = f"; there are {describe(passed_over)}" if passed_over else ""
        raise UserError(f"{root} holds no images{others} (expected {root}/<class>/<image>, or {root}/<image>)")
    if not numbers:
        return ImageList(root, (ONE_CLASS,), tuple(names), np.zeros(len(names), np.int64), None, passed_over)
    synsets = read_classes([root, *root.resolve().parents[:MAX_PARENTS]])
    lost = sorted(name for name, number in numbers.items() if number not in synsets)
    if lost:
        raise UserError(f"{root}: no class for {lost[0]}: put {EXPECTED} beside it")
    order = sorted(numbers, key=lambda name: (synsets[numbers[name]], name))
    classes = sorted({synsets[number] for number in numbers.values()})
    labels = np.searchsorted(classes, [synsets[numbers[name]] for name in order])
    return ImageList(root, tuple(classes), tuple(order), labels.astype(np.int64))


def _report(images: ImageList) -> None:
    if images.passed_over:
        _say_once(f"{images.root}: passed over {describe(images.passed_over)}")
    empty = images.empty_classes()
    if empty:
        more = ", ..." if len(empty) > MAX_CLASSES_IN_MESSAGE else ""
        names = ", ".join(empty[:MAX_CLASSES_IN_MESSAGE])
        _say_once(f"warning: {images.root}: {len(empty)} classes without images: {names}{more}")


@cache
def _say_once(line: str) -> None:
    """Of a folder without splits, "train" and "val" have the same to say."""
    warn(line)


def to_uint8(image: Image.Image) -> Tensor:
    """RGB image -> (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_float(images: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 -> float32 in [0, 1]. Call it on the device: bytes are faster to transfer."""
    return images.float() / 255


def read_center_crop(path: str | Path, size: int) -> Tensor:
    """ADM's centre crop of one image file, (1, 3, size, size) in [0, 1]. Raises UserError."""
    if not Path(path).is_file():
        raise UserError(f"image not found: {path}")
    try:
        return to_float(to_uint8(center_crop(read_rgb(path), size)))[None]
    except BadImage as error:
        raise UserError(f"{path} is not an image that can be read ({error})") from error
