"""Read a token cache in any layout; `metadata.py` lists their files. Packed codes are memory-mapped."""

import resource
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from dataset.listing import describe, files_below, subfolders
from dataset.token_cache.jsonl import JsonlTokenCache
from dataset.token_cache.metadata import (
    LABELS_FILE,
    METADATA_FILE,
    PATHS_FILE,
    PROGRESS_FOLDER,
    CacheMetadata,
    packed_path,
    read_metadata,
)
from utils.errors import UserError, warn
from utils.progress import tqdm

RESERVED_OPEN_FILES = 512  # for the rest of the program


def _damaged(folder: Path, what: object) -> UserError:
    return UserError(f"token cache {folder} is damaged: {what}")


def _load_array(folder: Path, path: Path, mmap_mode: str | None = None) -> np.ndarray:
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, error) from error


def _read_paths(folder: Path) -> list[str]:
    try:
        return (folder / PATHS_FILE).read_bytes().decode(errors="surrogateescape").split("\n")[:-1]
    except OSError as error:
        raise _damaged(folder, error) from error


def _allow_open_files(count: int) -> None:
    """Raise this process's limit: every memory-mapped file stays open, and the usual limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + RESERVED_OPEN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise UserError(f"the cache has {count} files, but only {hard} may be open at once: raise `ulimit -Hn`")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _CacheFolder:
    """What both layouts in folders share."""

    path: Path
    num_codes: int
    codebook_size: int | None  # None if unknown
    num_classes: int
    code_limit: int | None = None  # codes are below; set by `require_fit`

    def require_fit(self, num_codes: int, codebook_size: int, num_classes: int) -> None:
        """Raise UserError unless codes and labels fit a tokenizer and a generator with these sizes.

        The published layout has a file for each image: its codes are compared with the codebook when they are read.
        """
        for what, there, expected, fits in (
            ("codes per image", self.num_codes, num_codes, self.num_codes == num_codes),
            ("codebook size", self.codebook_size, codebook_size, self.codebook_size in (None, codebook_size)),
            ("classes", self.num_classes, num_classes, self.num_classes <= num_classes),
        ):
            if not fits:
                raise UserError(
                    f"token cache {self.path} does not fit: {what} {there} there, {expected} in the configuration"
                )
        strange = np.flatnonzero((self.labels < 0) | (self.labels >= self.num_classes))
        if len(strange):
            row = strange[0]
            raise _damaged(self.path, f"the label of {self.paths()[row]} is {self.labels[row]}")
        self.code_limit = codebook_size
        self._require_codes_in_codebook()

    def _require_codes_in_codebook(self) -> None:
        pass

    def _outside_codebook(self, row: int, codes: np.ndarray) -> UserError:
        outside = codes[(codes < 0) | (codes >= self.code_limit)][0]
        return _damaged(self.path, f"{self.paths()[row]} has the code {outside}, the codebook has {self.code_limit}")


class PackedTokenCache(_CacheFolder):
    """The project's own layout, memory-mapped."""

    def __init__(self, folder: Path, metadata: CacheMetadata):
        self.path = folder
        self.metadata = metadata
        self.num_codes = metadata.num_codes
        self.num_views = metadata.num_views
        self.codebook_size: int | None = metadata.codebook_size
        self.classes = metadata.classes
        self.num_classes = len(self.classes)
        self.labels = _load_array(folder, folder / LABELS_FILE)
        _allow_open_files(metadata.num_shards)
        self.shards = [_load_array(folder, packed_path(folder, i), "r") for i in range(metadata.num_shards)]
        self.starts = np.cumsum([0, *(len(s) for s in self.shards)]).tolist()
        expected = (metadata.num_images, self.num_views, self.num_codes)
        found = (self.starts[-1], *self.shards[0].shape[1:])
        if found != expected or len(self.labels) != expected[0]:
            raise _damaged(folder, f"the shape of the codes is {found}, {expected} in {METADATA_FILE}")

    def _require_codes_in_codebook(self) -> None:
        for start, codes in zip(self.starts, tqdm(self.shards, "codes", leave=False, delay=5), strict=False):
            if codes.max() >= self.code_limit:
                row = int((codes >= self.code_limit).any((1, 2)).argmax())
                raise self._outside_codebook(start + row, codes[row])

    def __reduce__(self) -> tuple:
        """Data workers that are not forked open the files themselves: pickle would copy all codes."""
        return PackedTokenCache, (self.path, self.metadata)

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
        """Relative paths of the images, in the order of the codes."""
        return _read_paths(self.path)


class NpzTokenCache(_CacheFolder):
    """The published layout: <class folder>/<file name>.npz with `codes` (V, T)."""

    def __init__(self, folder: Path, metadata: CacheMetadata | None):
        """metadata: None for a third-party cache, which is listed from its folders."""
        self.path = folder
        self.metadata = metadata
        self.codebook_size: int | None = metadata and metadata.codebook_size
        if metadata is not None:
            self.classes = metadata.classes
            self._paths = _read_paths(folder)
            self.labels = _load_array(folder, folder / LABELS_FILE)
        else:
            passed_over: Counter[str] = Counter()
            self.classes = tuple(subfolders(folder, passed_over))
            self._paths, labels = [], []
            for label, name in enumerate(self.classes):
                found = sorted(f"{name}/{path}" for path in files_below(folder / name, {".npz"}, passed_over))
                self._paths += [p.removesuffix(".npz") for p in found]
                labels += [label] * len(found)
            if passed_over:
                warn(f"{folder}: passed over {describe(passed_over)}")
            self.labels = np.array(labels, dtype=np.int64)
        self.num_classes = len(self.classes)
        if not self._paths:
            raise UserError(f"{folder} is no token cache: it has neither {METADATA_FILE} nor <class>/<file>.npz")
        self.num_views, self.num_codes = self.views(0).shape

    def __len__(self) -> int:
        return len(self._paths)

    def views(self, index: int) -> np.ndarray:
        """(V, T) int64."""
        path = self.path / f"{self._paths[index]}.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                codes = arrays["codes"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(f"{path} holds no codes ({error})") from error
        if self.code_limit is not None and not (codes.min() >= 0 and codes.max() < self.code_limit):
            raise self._outside_codebook(index, codes)
        return codes

    def codes(self, index: int, view: int) -> np.ndarray:
        """(T,) int64."""
        return self.views(index)[view]

    def paths(self) -> list[str]:
        """Relative paths of the images, in the order of the codes."""
        return self._paths


TokenCache = PackedTokenCache | NpzTokenCache | JsonlTokenCache


def open_token_cache(path: str | Path) -> TokenCache:
    """Open a cache of any layout: a folder, or a file of JSON lines.

    Raises UserError if there is none, it is unfinished, or a line is wrong.
    """
    folder = Path(path)
    if folder.is_file():
        return JsonlTokenCache(folder)
    if (folder / METADATA_FILE).is_file():
        metadata = read_metadata(folder)
        return (PackedTokenCache if metadata.layout == "packed" else NpzTokenCache)(folder, metadata)
    if not folder.is_dir():
        raise UserError(f"token cache not found: {folder} (pretokenization.py writes it)")
    if (folder / PROGRESS_FOLDER).is_dir():
        raise UserError(f"token cache {folder} is unfinished: run pretokenization.py again to complete it")
    return NpzTokenCache(folder, None)
