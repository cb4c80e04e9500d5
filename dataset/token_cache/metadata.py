"""What made a token cache, and where its files are.

metadata.json     CacheMetadata; written last, so its presence means the cache is complete
labels.npy        (n,) int64
paths.txt         one relative image path a line, in the order of the codes
SHA256SUMS        of all files but metadata.json, for `sha256sum -c`
progress/         while the cache is being made: see `utils.sharded_output`

The packed layout adds codes/00000.npy, ...: (images, V, T) uint16, shard_size images less the skipped
ones. The published layout ("npz") adds one <class folder>/<file name>.npz an image, `codes` (V, T).
A file of JSON lines, as `line_index.py` describes them, is a cache without these files; it is only read.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from utils.errors import UserError

FORMAT_VERSION = 2
SHARD_SIZE = 4096  # images: 22 MB of ten-crop codes, 313 files for ImageNet
LAYOUTS = ("packed", "npz")
METADATA_FILE = "metadata.json"
LABELS_FILE = "labels.npy"
PATHS_FILE = "paths.txt"
CHECKSUMS_FILE = "SHA256SUMS"
PROGRESS_FOLDER = "progress"
UNKNOWN = "unknown"  # value of fields that a third-party cache does not record


@dataclass(frozen=True)
class CacheMetadata:
    """Two caches with the same `identity()` hold the same codes."""

    num_files: int
    files_sha256: str  # ImageList.fingerprint
    num_views: int
    num_codes: int
    codebook_size: int
    image_size: int
    crop: str  # "ten_crop" or "center_and_flip"
    split: str
    precision: str  # "fp32" or "bf16"
    tokenizer_sha256: str  # modeling.build.tokenizer_fingerprint
    classes: tuple[str, ...]
    layout: str = "packed"
    shard_size: int = SHARD_SIZE
    format_version: int = FORMAT_VERSION
    # Not part of the identity: files without codes, and the sources that `--check` looks for.
    skipped: tuple[str, ...] = ()  # files that could not be decoded
    data_path: str = ""
    tokenizer_config: str = ""
    tokenizer_checkpoint: str = ""

    @property
    def num_images(self) -> int:
        return self.num_files - len(self.skipped)

    @property
    def num_shards(self) -> int:
        return -(-self.num_files // self.shard_size)

    @property
    def ten_crop(self) -> bool:
        return self.crop == "ten_crop"

    def identity(self) -> dict[str, Any]:
        others = ("skipped", "data_path", "tokenizer_config", "tokenizer_checkpoint")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in others}


def packed_path(folder: Path, shard: int) -> Path:
    return folder / "codes" / f"{shard:05d}.npy"


def read_metadata(folder: Path) -> CacheMetadata:
    """Raises UserError if metadata.json is damaged or of another version."""
    path = folder / METADATA_FILE
    try:
        content = json.loads(path.read_text())
        return CacheMetadata(**{**content, **{k: tuple(content[k]) for k in ("classes", "skipped")}})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not the metadata of a token cache ({error}): remove the cache") from error
