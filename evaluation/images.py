"""Images of an .npz file or a folder, batch by batch."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dataset.decode import IMAGE_SUFFIXES, BadImage, read_rgb
from dataset.listing import files_below
from utils.errors import UserError, warn
from utils.npz import IMAGES, NpzImages, array_names

LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".webp")


class FolderImages:
    """The image files of a folder and its sub-folders in the order of their paths. Hidden files are passed over."""

    def __init__(self, path: str | Path):
        """Raises UserError if there are no images or the first one cannot be decoded; warns of lossy formats."""
        self.path = Path(path)
        self.files = sorted(self.path / name for name in files_below(path, IMAGE_SUFFIXES, Counter()))
        if not self.files:
            there = ", ".join(sorted(p.name for p in self.path.iterdir())[:5]) or "nothing"
            raise UserError(f"{path} holds no images, but {there}")
        self.shape = (len(self.files), *self._read(self.files[0]).shape)
        lossy = sum(file.suffix.lower() in LOSSY_SUFFIXES for file in self.files)
        if lossy:
            warn(f"warning: {path}: {lossy} files are lossy: compression changes every number")

    def __len__(self) -> int:
        return len(self.files)

    def _read(self, file: Path) -> np.ndarray:
        try:
            return np.array(read_rgb(file))
        except BadImage as error:
            raise UserError(f"{file} cannot be decoded ({error})") from error

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yield (<= size, H, W, 3) uint8. Raises UserError for an undecodable file or one of another size."""
        for start in range(0, len(self), size):
            batch = [self._read(file) for file in self.files[start : start + size]]
            for file, pixels in zip(self.files[start:], batch, strict=False):
                if pixels.shape != self.shape[1:]:
                    sizes = [f"{shape[1]}x{shape[0]}" for shape in (pixels.shape, self.shape[1:])]
                    raise UserError(f"{file} is {sizes[0]}, {self.files[0]} is {sizes[1]}: images have one size")
            yield np.stack(batch)


Images = NpzImages | FolderImages


def open_images(path: str | Path, array: str | None = None) -> Images:
    """array: name of the images in an .npz without arr_0. Raises UserError."""
    if Path(path).is_dir():
        return FolderImages(path)
    return NpzImages(path, array if array in array_names(path) else IMAGES)


def require_array(array: str, paths: Sequence[str | Path]) -> None:
    """Raise UserError if none of the .npz files has the array: its name is mistyped."""
    names = {str(path): array_names(path) for path in paths if not Path(path).is_dir()}
    if not any(array in found for found in names.values()):
        there = "; ".join(f"{path} has {', '.join(found)}" for path, found in names.items())
        raise UserError(f"--array: no array '{array}' ({there or 'the images are in folders'})")
