"""Read image arrays of .npz files batch by batch: 50,000 images never sit in memory at once."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from utils.errors import UserError

HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
IMAGES = "arr_0"  # ADM's name, and numpy's for an array without one
READ_ERRORS = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError)


def array_names(path: str | Path) -> list[str]:
    """Names of the arrays in an .npz file. Raises UserError."""
    if not Path(path).is_file():
        raise UserError(f"file not found: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except READ_ERRORS as error:
        raise UserError(f"{path} is damaged or not an .npz file ({error})") from error


class NpzImages:
    """An array of an .npz file: uint8 (N, H, W, 3) in C order. Raises UserError for anything else."""

    def __init__(self, path: str | Path, array: str = IMAGES):
        self.path, self.array, names = Path(path), array, array_names(path)
        if array not in names:
            raise UserError(f"{path} has no array '{array}', but {', '.join(names)}: name the images with --array")
        try:
            with self._open() as (_, shape):
                self.shape = shape
        except READ_ERRORS as error:
            raise UserError(f"{self.path} is damaged or not an .npz file ({error})") from error

    def __len__(self) -> int:
        return self.shape[0]

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
        """The array's data stream, after its header, and the array's shape."""
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.array}.npy") as member:
            version = npy.read_magic(member)
            if version not in HEADER_READERS:
                raise UserError(f"{self.path}: array format {version} is not 1.0 or 2.0")
            shape, fortran, dtype = HEADER_READERS[version](member)
            if dtype != np.uint8 or fortran or len(shape) != 4 or shape[-1] != 3:
                raise UserError(
                    f"{self.path}: '{self.array}' is {dtype} {shape}; images are uint8 (N, H, W, 3) in C order"
                )
            yield member, shape

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yield (<= size, H, W, 3) uint8. Raises UserError if the data are damaged or end early."""
        row = int(np.prod(self.shape[1:]))
        with self._open() as (member, shape):
            for start in range(0, shape[0], size):
                count = min(size, shape[0] - start)
                try:
                    data = member.read(count * row)
                except READ_ERRORS as error:
                    raise UserError(f"{self.path} is damaged ({error})") from error
                if len(data) != count * row:
                    raise UserError(f"{self.path} ends after {start} of {shape[0]} images")
                yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:]).copy()


def read_arrays(path: str | Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the named arrays that the file has. Loads no pickled objects. Raises UserError."""
    there = array_names(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if name in there}
    except READ_ERRORS as error:
        raise UserError(f"{path} is damaged or not an .npz file ({error})") from error
