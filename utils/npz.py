"""Reading image arrays of .npz files batch by batch: 50,000 images never sit in memory at once."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from utils.errors import UserError

READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class NpzImages:
    """`arr_0` of a .npz: uint8 (N, H, W, 3) in C order. Raises UserError for anything else."""

    def __init__(self, path: str | Path, name: str = "arr_0"):
        self.path = Path(path)
        self.name = name
        if not self.path.is_file():
            raise UserError(f"{self.path} is not there")
        try:
            with self._open() as (_, shape):
                self.shape = shape
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
            raise UserError(f"{self.path} is damaged or no .npz ({error})") from error

    def __len__(self) -> int:
        return self.shape[0]

    def _open(self):
        return _Member(self.path, self.name)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """(<= size, H, W, 3) uint8 at a time."""
        row = int(np.prod(self.shape[1:]))
        with self._open() as (member, shape):
            for start in range(0, shape[0], size):
                count = min(size, shape[0] - start)
                try:
                    data = member.read(count * row)
                except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                    raise UserError(f"{self.path} is damaged ({error})") from error
                if len(data) != count * row:
                    raise UserError(f"{self.path} ends after {start} of {shape[0]} images")
                yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:]).copy()


class _Member:
    """Context of one array's data stream, its header read and checked."""

    def __init__(self, path: Path, name: str):
        self.path = path
        self.name = name

    def __enter__(self):
        self._archive = zipfile.ZipFile(self.path)
        if f"{self.name}.npy" not in self._archive.namelist():
            self._archive.close()
            raise UserError(f"{self.path} has no array '{self.name}'")
        self._member = self._archive.open(f"{self.name}.npy")
        version = npy.read_magic(self._member)
        if version not in READERS:
            raise UserError(f"{self.path}: array format {version} is not 1.0 or 2.0")
        shape, fortran, dtype = READERS[version](self._member)
        if dtype != np.uint8 or fortran or len(shape) != 4 or shape[-1] != 3:
            raise UserError(f"{self.path}: '{self.name}' is {dtype} {shape}; images are uint8 (N, H, W, 3) in C order")
        return self._member, shape

    def __exit__(self, *_) -> None:
        self._member.close()
        self._archive.close()


def read_small(path: str | Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the named arrays that the file has, whole. Never unpickles."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged or no .npz ({error})") from error
