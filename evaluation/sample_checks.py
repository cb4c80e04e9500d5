"""What is wrong with a file of samples, in words: number, classes, copies, size, range.

Each of these has made someone's FID another one than the paper's.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evaluation.images import Images

MAX_COPIES = 0.01  # share of samples; above, the samples are refused where a published value is asked for


@dataclass(frozen=True)
class Expected:
    """What a published row says of its samples."""

    count: int
    image_size: int  # pixels
    num_classes: int


@dataclass(frozen=True)
class Fault:
    text: str
    fatal: bool  # whether the metrics would say nothing about the model


class SampleFacts:
    """Facts about images, collected batch by batch while something else reads them."""

    def __init__(self, images: Images, labels: np.ndarray | None = None):
        """labels: (n,) the classes the samples were drawn for, if they are known."""
        self.images, self.labels = images, labels
        self.count = self.copies = self.one_colour = 0
        self.lowest, self.highest = 255, 0
        self.first_copy: tuple[int, int] | None = None  # numbers of two equal images
        self._first: dict[bytes, int] = {}  # hash -> number of the first such image

    def __len__(self) -> int:
        return len(self.images)

    @property
    def path(self):
        return self.images.path

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """The batches of the images; each is looked at on its way."""
        for batch in self.images.batches(size):
            self.add(batch)
            yield batch

    def add(self, batch: np.ndarray) -> None:
        """batch: (n, H, W, 3) uint8, the next images."""
        flat = np.ascontiguousarray(batch).reshape(len(batch), -1)
        self.lowest, self.highest = min(self.lowest, int(flat.min())), max(self.highest, int(flat.max()))
        for number, pixels in enumerate(flat, self.count):
            first = self._first.setdefault(hashlib.blake2b(pixels, digest_size=16).digest(), number)
            if first != number:
                self.copies += 1
                self.first_copy = self.first_copy or (first, number)
        self.one_colour += int((batch == batch[:, :1, :1]).all((1, 2, 3)).sum())
        self.count += len(batch)

    def describe(self) -> str:
        """One line; call it after the last batch."""
        height, width = self.images.shape[1:3]
        return (
            f"{self.path}: {self.count} images of {width}x{height}, pixels {self.lowest} to {self.highest},"
            f" {self.copies} exact copies, {self._describe_classes()}"
        )

    def _describe_classes(self) -> str:
        if self.labels is None:
            return "classes not stored"
        per_class = np.bincount(self.labels - self.labels.min())
        there = per_class[per_class > 0]
        each = f"{there.min()}" if there.min() == there.max() else f"{there.min()} to {there.max()}"
        return f"{each} of each of {len(there)} classes"

    def faults(self, expected: Expected | None = None) -> list[Fault]:
        """All faults that were found; without `expected` only those that a file shows by itself."""
        found = [*self._copies(), *self._pixels(), *self._balance(expected and expected.num_classes)]
        if expected is not None:
            found += self._expectations(expected)
        return found

    def _copies(self) -> Iterator[Fault]:
        if self.copies:
            first, second = self.first_copy
            yield Fault(
                f"{self.copies} of {self.count} images are exact copies of earlier ones, first number {second} of"
                f" number {first}: perhaps several processes drew with the same seed",
                self.copies > MAX_COPIES * self.count,
            )

    def _pixels(self) -> Iterator[Fault]:
        if self.highest <= 1:
            yield Fault("no pixel is above 1: images in [0, 1] were stored as bytes without a factor 255", True)
        elif self.lowest >= 127:
            yield Fault(f"no pixel is below {self.lowest}: images in [-1, 1] were shifted wrongly", True)
        elif self.lowest > 32 or self.highest < 223:
            yield Fault(f"pixels are {self.lowest} to {self.highest}: other images use nearly all of 0 to 255", False)
        if self.one_colour:
            yield Fault(f"{self.one_colour} images have one colour only", False)

    def _balance(self, num_classes: int | None) -> Iterator[Fault]:
        if self.labels is None:
            return
        if num_classes is not None and not 0 <= self.labels.min() <= self.labels.max() < num_classes:
            text = f"classes are {self.labels.min()} to {self.labels.max()}, the model has 0 to {num_classes - 1}"
            yield Fault(text, True)
            return
        per_class = np.bincount(self.labels, minlength=num_classes or 0)
        if per_class.max() - per_class.min() > 1:
            yield Fault(
                f"classes are unbalanced: {per_class.min()} images of class {per_class.argmin()},"
                f" {per_class.max()} of class {per_class.argmax()}. Published values have equally many of each",
                num_classes is not None,
            )

    def _expectations(self, expected: Expected) -> Iterator[Fault]:
        if self.count != expected.count:
            yield Fault(
                f"there are {self.count} images, the published value has {expected.count}: FID depends on it", True
            )
        height, width = self.images.shape[1:3]
        if (height, width) != (expected.image_size, expected.image_size):
            yield Fault(f"images are {width}x{height}, the model's {expected.image_size}x{expected.image_size}", True)
        if self.labels is None:
            yield Fault("the file stores no classes (arr_1): whether they are balanced is not known", False)
