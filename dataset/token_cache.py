"""The token cache: codes of every view of every image, written once and memory-mapped in training.

Layout of a cache folder:

    metadata.json     CacheMetadata; written last, so its presence means the cache is complete
    labels.npy        (n,) int64
    paths.txt         one relative image path a line, in the order of the codes
    codes/00000.npy   (shard_size, V, T) uint16; the last shard may be shorter

The published layout, one <class folder>/<file name>.npz an image with `codes` (V, T), is read too.
"""

import json
import os
from bisect import bisect_right
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.atomic import write_atomically
from utils.errors import UserError

FORMAT_VERSION = 1
SHARD_SIZE = 8192  # images: 45 MB of ten-crop codes, some minutes of one GPU's encoding


@dataclass(frozen=True)
class CacheMetadata:
    """What made a cache. Two caches with equal metadata hold equal codes."""

    num_images: int
    num_views: int
    num_codes: int
    codebook_size: int
    image_size: int
    crop: str  # "ten_crop" or "center_and_flip"
    split: str
    precision: str  # "fp32" or "bf16"
    tokenizer_sha256: str  # utils.weights.fingerprint
    classes: tuple[str, ...]
    shard_size: int = SHARD_SIZE
    format_version: int = FORMAT_VERSION

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.shard_size)

    def shard_range(self, shard: int) -> range:
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_images))

    def difference(self, other: "CacheMetadata") -> str:
        """The first field in which two caches differ, in words, or an empty string."""
        for name, ours in asdict(self).items():
            theirs = asdict(other)[name]
            if ours != theirs:
                return f"{name} is {_short(ours)} there, {_short(theirs)} now"
        return ""


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_metadata(path: Path) -> CacheMetadata:
    """Raises UserError if the file is damaged or of another version."""
    try:
        fields = json.loads(path.read_text())
        return CacheMetadata(**{**fields, "classes": tuple(fields["classes"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is no metadata of a token cache ({error}); remove the cache") from error


def shard_path(folder: Path, shard: int) -> Path:
    return folder / "codes" / f"{shard:05d}.npy"


def metadata_path(folder: Path) -> Path:
    return folder / "metadata.json"


def plan_path(folder: Path) -> Path:
    """Metadata of a cache in the making, by which a second run knows the first one's shards."""
    return folder / "codes" / "metadata.json"


def begin_cache(folder: Path, metadata: CacheMetadata) -> None:
    write_atomically(plan_path(folder), lambda f: f.write(_json(metadata)))


def _json(metadata: CacheMetadata) -> bytes:
    return json.dumps(asdict(metadata), indent=2).encode()


def write_shard(folder: Path, shard: int, codes: np.ndarray) -> None:
    """codes: (n, V, T), any integer type with values below 65536."""
    write_atomically(shard_path(folder, shard), lambda f: np.save(f, codes.astype(np.uint16)))


def finish_cache(folder: Path, metadata: CacheMetadata, labels: np.ndarray, paths: tuple[str, ...]) -> None:
    """Write labels and paths, and last the metadata that declares the cache complete."""
    write_atomically(folder / "labels.npy", lambda f: np.save(f, labels.astype(np.int64)))
    write_atomically(folder / "paths.txt", lambda f: f.write("".join(f"{p}\n" for p in paths).encode()))
    write_atomically(metadata_path(folder), lambda f: f.write(_json(metadata)))


class PackedTokenCache:
    """The project's own layout, memory-mapped."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.metadata = read_metadata(metadata_path(folder))
        self.num_codes = self.metadata.num_codes
        self.num_views = self.metadata.num_views
        self.codebook_size: int | None = self.metadata.codebook_size
        self.num_classes = len(self.metadata.classes)
        try:
            self.labels = np.load(folder / "labels.npy", allow_pickle=False)
            self.shards = [
                np.load(shard_path(folder, i), mmap_mode="r", allow_pickle=False)
                for i in range(self.metadata.num_shards)
            ]
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"token cache {folder} is damaged: {error}") from error
        self.starts = [i * self.metadata.shard_size for i in range(len(self.shards))]
        expected = (self.metadata.num_images, self.num_views, self.num_codes)
        held = (sum(len(s) for s in self.shards), *self.shards[0].shape[1:])
        if held != expected or len(self.labels) != expected[0]:
            raise UserError(f"token cache {folder} is damaged: codes are {held}, metadata say {expected}")

    def __len__(self) -> int:
        return self.metadata.num_images

    def codes(self, index: int, view: int) -> np.ndarray:
        """(T,) uint16."""
        shard = bisect_right(self.starts, index) - 1
        return self.shards[shard][index - self.starts[shard], view]


class NpzTokenCache:
    """The published layout: <class folder>/<file name>.npz with `codes` (V, T)."""

    codebook_size: int | None = None  # the layout does not say

    def __init__(self, folder: Path):
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        self.num_classes = len(classes)
        self.files, labels = [], []
        for label, name in enumerate(classes):
            found = sorted(str(p) for p in (folder / name).rglob("*.npz"))
            self.files += found
            labels += [label] * len(found)
        if not self.files:
            raise UserError(f"{folder} holds no token cache: neither metadata.json nor <class>/<file>.npz")
        self.labels = np.array(labels, dtype=np.int64)
        self.num_views, self.num_codes = self._read(0).shape

    def __len__(self) -> int:
        return len(self.files)

    def _read(self, index: int) -> np.ndarray:
        try:
            with np.load(self.files[index], allow_pickle=False) as arrays:
                return arrays["codes"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(f"{self.files[index]} holds no codes ({error})") from error

    def codes(self, index: int, view: int) -> np.ndarray:
        """(T,)."""
        return self._read(index)[view]


TokenCache = PackedTokenCache | NpzTokenCache


def open_token_cache(path: str | Path) -> TokenCache:
    """Open a cache of either layout. Raises UserError if there is none or it is unfinished."""
    folder = Path(path)
    if metadata_path(folder).is_file():
        return PackedTokenCache(folder)
    if not folder.is_dir():
        raise UserError(f"token cache not found: {folder} (pretokenization.py writes it)")
    if (folder / "codes").is_dir():
        raise UserError(f"token cache {folder} is unfinished: run pretokenization.py again to complete it")
    return NpzTokenCache(folder)


class CachedCodes(Dataset):
    """Batches of codes for training: one random view of each image."""

    def __init__(self, cache: TokenCache, limit: int | None = None):
        """limit: use a fixed random subset of this many images."""
        self.cache = cache
        self.subset = None
        if limit is not None and limit < len(cache):
            self.subset = np.random.default_rng(0).permutation(len(cache))[:limit]

    def __len__(self) -> int:
        return len(self.cache if self.subset is None else self.subset)

    def __getitem__(self, batch: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
        """batch: (indices (b,), uniforms (b, >= 1)) -> codes (b, T) int64, class ids (b,) int64."""
        indices, uniforms = batch
        if self.subset is not None:
            indices = self.subset[indices]
        views = (uniforms[:, 0] * self.cache.num_views).astype(int)
        codes = np.stack([self.cache.codes(i, v) for i, v in zip(indices, views, strict=True)])
        return torch.from_numpy(codes.astype(np.int64)), torch.from_numpy(self.cache.labels[indices])
