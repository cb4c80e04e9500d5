"""Where the bytes of images are inside of archives."""

import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dataset.decode import BadImage

MAX_BYTES = 2**30  # of an image file; deflated zeros may take a thousand times their size


@dataclass(frozen=True)
class Places:
    """One place an image, for n images. Workers need no more than this to read any of them."""

    files: tuple[Path, ...]
    archive: np.ndarray  # (n,) int32, index into files
    start: np.ndarray  # (n,) int64, first byte
    size: np.ndarray  # (n,) int64, bytes in the file
    deflated: np.ndarray  # (n,) bool, compressed as zip files do it

    def read(self, index: int) -> bytes:
        """The image file's bytes. Raises BadImage if they cannot be read."""
        path, size = self.files[self.archive[index]], int(self.size[index])
        try:
            # Opened for each image, as files in folders are: forked workers share nothing.
            with path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, int(self.start[index]))
            if len(data) < size:
                raise BadImage(f"{path} ends before the image does")
            return _inflate(data, path) if self.deflated[index] else data
        except (OSError, zlib.error) as error:
            raise BadImage(f"{path}: {error}") from error

    def take(self, rows: np.ndarray) -> "Places":
        """The places of some of the images."""
        arrays = ("archive", "start", "size", "deflated")
        return replace(self, **{name: getattr(self, name)[rows] for name in arrays})


def _inflate(data: bytes, path: Path) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    content = stream.decompress(data, MAX_BYTES)
    if not stream.eof:
        raise BadImage(f"{path}: a member is damaged, or larger than {MAX_BYTES} bytes")
    return content
