"""Reading a token cache: the codes of every view of every image, memory-mapped in training.

Layout of a packed cache folder:

    metadata.json     CacheMetadata; its presence means the cache is complete
    labels.npy        (n,) int64
    paths.txt         one relative image path a line, in the order of the codes
    codes/00000.npy   (images, V, T) uint16, shard_size images less those skipped
    SHA256SUMS        of the files above but the first

The published layout holds one <class folder>/<file name>.npz an image with `codes` (V, T); where this
project wrote it, metadata.json, labels.npy and paths.txt are there too.
"""

import os
import resource
from bisect import bisect_right
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from dataset.token_cache.metadata import CacheMetadata, metadata_path, progress_folder, read_metadata
from dataset.token_cache.writer import shard_path
from utils.errors import UserError

OTHER_OPEN_FILES = 512  # of the rest of the program


def read_labels(folder: Path) -> np.ndarray:
    try:
        return np.load(folder / "labels.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"token cache {folder} is damaged: {error}") from error


def read_paths(folder: Path) -> list[str]:
    """Relative paths of the images, in the order of the codes."""
    try:
        return (folder / "paths.txt").read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"token cache {folder} is damaged: {error}") from error


def _allow_open_files(count: int) -> None:
    """Every memory-mapped file stays open; the usual limit of 1024 may be too low for many shards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_OPEN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise UserError(f"the cache has {count} files, more than may be open at once ({hard}): raise `ulimit -Hn`")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class PackedTokenCache:
    """The project's own layout, memory-mapped."""

    def __init__(self, folder: Path, metadata: CacheMetadata):
        self.folder = folder
        self.metadata = metadata
        self.num_codes = metadata.num_codes
        self.num_views = metadata.num_views
        self.codebook_size: int | None = metadata.codebook_size
        self.num_classes = len(metadata.classes)
        self.labels = read_labels(folder)
        _allow_open_files(metadata.num_shards)
        try:
            self.shards = [
                np.load(shard_path(folder, i), mmap_mode="r", allow_pickle=False) for i in range(metadata.num_shards)
            ]
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"token cache {folder} is damaged: {error}") from error
        self.starts = np.cumsum([0, *(len(s) for s in self.shards)]).tolist()
        expected = (metadata.num_images, self.num_views, self.num_codes)
        held = (self.starts[-1], *self.shards[0].shape[1:])
        if held != expected or len(self.labels) != expected[0]:
            raise UserError(f"token cache {folder} is damaged: codes are {held}, metadata say {expected}")

    def __reduce__(self) -> tuple:
        """Data workers that are not forked open the files anew: a pickled memory map is a copy of the codes."""
        return PackedTokenCache, (self.folder, self.metadata)

    def __len__(self) -> int:
        return self.metadata.num_images

    def views(self, index: int) -> np.ndarray:
        """(V, T) uint16."""
        shard = bisect_right(self.starts, index) - 1
        return self.shards[shard][index - self.starts[shard]]

    def codes(self, index: int, view: int) -> np.ndarray:
        """(T,) uint16."""
        return self.views(index)[view]

    def paths(self) -> list[str]:
        return read_paths(self.folder)


class NpzTokenCache:
    """The published layout: <class folder>/<file name>.npz with `codes` (V, T)."""

    def __init__(self, folder: Path, metadata: CacheMetadata | None):
        """metadata: None for a cache that another program wrote; the folder's tree is listed then."""
        self.folder = folder
        self.metadata = metadata
        # Without metadata nothing says how large the codebook was.
        self.codebook_size: int | None = metadata and metadata.codebook_size
        if metadata is not None:
            self.num_classes = len(metadata.classes)
            self._paths = read_paths(folder)
            self.labels = read_labels(folder)
        else:
            classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
            self.num_classes = len(classes)
            self._paths, labels = [], []
            for label, name in enumerate(classes):
                found = sorted(p.relative_to(folder).as_posix() for p in (folder / name).rglob("*.npz"))
                self._paths += [p.removesuffix(".npz") for p in found]
                labels += [label] * len(found)
            self.labels = np.array(labels, dtype=np.int64)
        if not self._paths:
            raise UserError(f"{folder} holds no token cache: neither metadata.json nor <class>/<file>.npz")
        self.num_views, self.num_codes = self.views(0).shape

    def __len__(self) -> int:
        return len(self._paths)

    def views(self, index: int) -> np.ndarray:
        """(V, T)."""
        path = self.folder / f"{self._paths[index]}.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays["codes"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(f"{path} holds no codes ({error})") from error

    def codes(self, index: int, view: int) -> np.ndarray:
        """(T,)."""
        return self.views(index)[view]

    def paths(self) -> list[str]:
        return self._paths


TokenCache = PackedTokenCache | NpzTokenCache


def open_token_cache(path: str | Path) -> TokenCache:
    """Open a cache of either layout. Raises UserError if there is none or it is unfinished."""
    folder = Path(path)
    if metadata_path(folder).is_file():
        metadata = read_metadata(metadata_path(folder))
        return (PackedTokenCache if metadata.layout == "packed" else NpzTokenCache)(folder, metadata)
    if not folder.is_dir():
        raise UserError(f"token cache not found: {folder} (pretokenization.py writes it)")
    if progress_folder(folder).is_dir():
        raise UserError(f"token cache {folder} is unfinished: run pretokenization.py again to complete it")
    return NpzTokenCache(folder, None)
