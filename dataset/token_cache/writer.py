"""Writing the codes of a shard, in either layout of a token cache."""

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np

from dataset.image_folder import ImageList
from utils.atomic import write_atomically


def shard_path(folder: Path, shard: int) -> Path:
    return folder / "codes" / f"{shard:05d}.npy"


class CacheWriter(Protocol):
    def write(self, shard: int, indices: list[int], codes: np.ndarray) -> dict[str, str]:
        """Write codes (n, V, T) of the images at `indices`, complete on disk when this returns.

        Returns SHA-256 sums by path below the cache, for files large enough to be worth it.
        """


class PackedWriter:
    """One array (n, V, T) of uint16 a shard."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, shard: int, indices: list[int], codes: np.ndarray) -> dict[str, str]:
        buffer = io.BytesIO()
        np.save(buffer, codes.astype(np.uint16))
        path = shard_path(self.folder, shard)
        write_atomically(path, lambda f: f.write(buffer.getbuffer()))
        return {path.relative_to(self.folder).as_posix(): hashlib.sha256(buffer.getbuffer()).hexdigest()}


class NpzWriter:
    """The published layout: <class folder>/<file name>.npz an image, `codes` (V, T) int64."""

    def __init__(self, folder: Path, images: ImageList):
        self.folder = folder
        self.images = images

    def write(self, shard: int, indices: list[int], codes: np.ndarray) -> dict[str, str]:
        for index, row in zip(indices, codes, strict=True):
            path = self.folder / f"{self.images.paths[index]}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            write_npz(part, row)
            os.replace(part, path)
        os.sync()  # once for all these small files, before the shard is declared finished
        return {}


def write_npz(path: Path, codes: np.ndarray) -> None:
    """As np.savez(path, codes=codes), but without the time of day: equal codes make equal files."""
    with zipfile.ZipFile(path, "w") as archive, archive.open(zipfile.ZipInfo("codes.npy"), "w") as member:
        np.lib.format.write_array(member, codes.astype(np.int64), allow_pickle=False)


def cache_writer(layout: str, folder: Path, images: ImageList) -> CacheWriter:
    return PackedWriter(folder) if layout == "packed" else NpzWriter(folder, images)
