"""What made a token cache, and how far its making has come.

    metadata.json         CacheMetadata; written last, so its presence means the cache is complete
    progress/plan.json    CacheMetadata of a cache in the making
    progress/00000.json   ShardRecord of a finished shard
    progress/00000.bad    undecodable files of a shard that was not finished for their sake

The folder `progress` goes when the cache is complete.
"""

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from dataset.image_folder import ImageList
from utils.atomic import write_atomically
from utils.errors import UserError

FORMAT_VERSION = 2
SHARD_SIZE = 4096  # images: 22 MB of ten-crop codes, 313 files for ImageNet
LARGEST_PACKED_CODEBOOK = 2**16
RECORD_PATIENCE = 60  # seconds for a shared file system to show what another machine has written
UNKNOWN = "unknown"  # what nothing tells of a cache that another program wrote
LAYOUTS = ("packed", "npz")
CHECKSUMS = "SHA256SUMS"  # as `sha256sum -c` reads it


@dataclass(frozen=True)
class CacheMetadata:
    """What made a cache. Two caches that differ in none of the fields compared hold equal codes."""

    num_files: int
    files_sha256: str  # ImageList.fingerprint
    num_views: int
    num_codes: int
    codebook_size: int
    image_size: int
    crop: str  # "ten_crop" or "center_and_flip"
    split: str
    precision: str  # "fp32" or "bf16"
    tokenizer_sha256: str  # utils.weights.fingerprint
    classes: tuple[str, ...]
    layout: str = "packed"
    shard_size: int = SHARD_SIZE
    format_version: int = FORMAT_VERSION
    # Not compared: what became of the files, and where things were, for `--check`.
    skipped: tuple[str, ...] = ()  # files that could not be decoded; the cache has no codes of them
    data_path: str = ""
    tokenizer_config: str = ""
    tokenizer_checkpoint: str = ""

    @property
    def num_images(self) -> int:
        return self.num_files - len(self.skipped)

    @property
    def num_shards(self) -> int:
        return -(-self.num_files // self.shard_size)

    def shard_range(self, shard: int) -> range:
        """Positions of a shard's files in the list of all files."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_files))

    def difference(self, other: "CacheMetadata") -> str:
        """The first field in which two caches differ, in words, or an empty string."""
        for name in COMPARED:
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                return f"{name} is {_short(ours)} there, {_short(theirs)} now"
        return ""


NOT_COMPARED = ("skipped", "data_path", "tokenizer_config", "tokenizer_checkpoint")
COMPARED = tuple(f.name for f in fields(CacheMetadata) if f.name not in NOT_COMPARED)


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard: checksums of its files by path below the cache, and what was skipped."""

    sha256: dict[str, str]
    skipped: tuple[str, ...]


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _json(record: CacheMetadata | ShardRecord) -> bytes:
    return json.dumps(asdict(record), indent=2).encode()


def metadata_path(folder: Path) -> Path:
    return folder / "metadata.json"


def progress_folder(folder: Path) -> Path:
    return folder / "progress"


def plan_path(folder: Path) -> Path:
    return progress_folder(folder) / "plan.json"


def record_path(folder: Path, shard: int) -> Path:
    return progress_folder(folder) / f"{shard:05d}.json"


def read_metadata(path: Path) -> CacheMetadata:
    """Raises UserError if the file is damaged or of another version."""
    try:
        content = json.loads(path.read_text())
        return CacheMetadata(**{**content, **{k: tuple(content[k]) for k in ("classes", "skipped")}})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is no metadata of a token cache ({error}); remove the cache") from error


def prepare_cache(folder: Path, metadata: CacheMetadata) -> bool:
    """Make sure that what `folder` holds belongs to this cache. Returns whether it is complete.

    Raises UserError that names the first difference to a cache made otherwise.
    """
    if metadata.layout == "packed" and metadata.codebook_size > LARGEST_PACKED_CODEBOOK:
        raise UserError(f"the packed layout holds 16-bit codes, too few for {metadata.codebook_size}: use --format npz")
    finished = metadata_path(folder)
    for path in (finished, plan_path(folder)):
        if path.is_file():
            difference = read_metadata(path).difference(metadata)
            if difference:
                raise UserError(f"{folder} holds another cache: {difference}. Remove it or choose --cached_path")
    return finished.is_file()


def begin_cache(folder: Path, metadata: CacheMetadata) -> None:
    for stale in progress_folder(folder).glob("*.bad"):
        stale.unlink()
    write_atomically(plan_path(folder), lambda f: f.write(_json(metadata)))


def record_shard(folder: Path, shard: int, record: ShardRecord) -> None:
    """Declare a shard finished; its files must be on the disk by now."""
    write_atomically(record_path(folder, shard), lambda f: f.write(_json(record)))


def complain(folder: Path, shard: int, lines: list[str]) -> None:
    """Leave word about the undecodable files of a shard, for all processes to see."""
    text = "".join(f"{line}\n" for line in lines)
    write_atomically(progress_folder(folder) / f"{shard:05d}.bad", lambda f: f.write(text.encode()))


def complaints(folder: Path) -> list[str]:
    return [line for path in sorted(progress_folder(folder).glob("*.bad")) for line in path.read_text().splitlines()]


def missing_shards(folder: Path, metadata: CacheMetadata) -> list[int]:
    return [s for s in range(metadata.num_shards) if not record_path(folder, s).is_file()]


def finish_cache(folder: Path, metadata: CacheMetadata, images: ImageList) -> CacheMetadata:
    """Write labels, paths and checksums, and last the metadata that declares the cache complete.

    images: all files of the data set; those that the shards skipped are left out here.
    """
    checksums: dict[str, str] = {}
    skipped: list[str] = []
    for shard in range(metadata.num_shards):
        content = json.loads(_patiently(record_path(folder, shard)))
        checksums |= content["sha256"]
        skipped += content["skipped"]
    left_out = set(skipped)
    kept = [i for i, path in enumerate(images.paths) if path not in left_out]
    metadata = replace(metadata, skipped=tuple(skipped))
    write_atomically(folder / "labels.npy", lambda f: np.save(f, images.labels[kept]))
    write_atomically(folder / "paths.txt", lambda f: f.write("".join(f"{images.paths[i]}\n" for i in kept).encode()))
    for name in ("labels.npy", "paths.txt"):
        checksums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(checksums.items()))
    write_atomically(folder / CHECKSUMS, lambda f: f.write(lines.encode()))
    write_atomically(metadata_path(folder), lambda f: f.write(_json(metadata)))
    remove_progress(folder)
    return metadata


def _patiently(path: Path) -> str:
    """Read a file that is there, though this machine's view of the shared folder may lag behind."""
    for _ in range(RECORD_PATIENCE):
        try:
            return path.read_text()
        except FileNotFoundError:
            time.sleep(1)
    raise UserError(f"{path} cannot be seen: is {path.parent.parent} shared by all machines? Run the command again")


def remove_progress(folder: Path) -> None:
    """What a kill just before the end of `finish_cache` leaves."""
    if metadata_path(folder).is_file():
        shutil.rmtree(progress_folder(folder), ignore_errors=True)
