"""Write a token cache in either layout, shard by shard."""

import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from dataset.images import ImageList
from dataset.token_cache.metadata import (
    CHECKSUMS_FILE,
    LABELS_FILE,
    METADATA_FILE,
    PATHS_FILE,
    PROGRESS_FOLDER,
    CacheMetadata,
    packed_path,
)
from utils.atomic import atomic_path, read_json, write_atomically, write_json, write_npy, write_text
from utils.errors import UserError
from utils.sharded_output import ShardedOutput, explain_write_errors

MAX_PACKED_CODEBOOK = 2**16
MAX_NAME_BYTES = 255  # of Linux's file systems


class CacheWriter(ShardedOutput):
    """Writes the codes of shards; several processes may write shards of the same cache.

    The file of a finished shard holds the checksums of its packed file, and the paths of skipped files.
    """

    def __init__(self, folder: Path, metadata: CacheMetadata, images: ImageList):
        """images: all files of the data set, in the order of the shards."""
        if metadata.layout == "packed" and metadata.codebook_size > MAX_PACKED_CODEBOOK:
            raise UserError(
                f"the packed layout holds 16-bit codes, too few for a codebook of {metadata.codebook_size}:"
                " choose the layout npz"
            )
        for path in images.paths:
            name_bytes = len(os.fsencode(os.path.basename(path)))
            if "\n" in path or (metadata.layout == "npz" and name_bytes + len(".npz.part") > MAX_NAME_BYTES):
                raise UserError(
                    f"{images.root}: the name {path!r} has a line break or is too long for a cache: rename it"
                )
            if metadata.layout == "npz" and path.startswith(f"{PROGRESS_FOLDER}/"):
                raise UserError(
                    f"{images.root}: a cache of the layout npz has a folder {PROGRESS_FOLDER} of its own, so no class"
                    " may have this name: rename it, or choose the layout packed"
                )
        super().__init__(
            folder / METADATA_FILE,
            folder / PROGRESS_FOLDER,
            metadata.identity(),
            metadata.num_files,
            metadata.shard_size,
        )
        self.folder = folder
        self.metadata = metadata
        self.images = images

    def remains(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("[!.]*") if path != self.progress)

    def bytes_needed(self) -> int:
        missing = sum(len(self.items(shard)) for shard in self.missing())
        bytes_per_code = 2 if self.metadata.layout == "packed" else 8
        return missing * self.metadata.num_views * self.metadata.num_codes * bytes_per_code

    def write(self, shard: int, indices: Sequence[int], codes: np.ndarray, skipped: Sequence[int] = ()) -> None:
        """Write the codes (n, V, T) of the images at `indices`, and mark the shard as finished.

        skipped: the other images of the shard. Raises UserError if the disk is full.
        """
        with explain_write_errors(self.folder):
            checksums = {}
            if self.metadata.layout == "packed":
                checksums = self._write_packed(packed_path(self.folder, shard), codes)
            else:
                self._write_npz(indices, codes)
            record = {"sha256": checksums, "skipped": [self.images.paths[i] for i in skipped]}
            write_json(self.shard_file(shard), record)

    def _write_packed(self, path: Path, codes: np.ndarray) -> dict[str, str]:
        buffer = io.BytesIO()
        np.save(buffer, codes.astype(np.uint16))
        write_atomically(path, lambda f: f.write(buffer.getbuffer()))
        return {path.relative_to(self.folder).as_posix(): hashlib.sha256(buffer.getbuffer()).hexdigest()}

    def _write_npz(self, indices: Sequence[int], codes: np.ndarray) -> None:
        for index, row in zip(indices, codes, strict=True):
            with atomic_path(self.folder / f"{self.images.paths[index]}.npz", flush=False) as part:
                write_npz(part, row)
        os.sync()

    def finish(self) -> CacheMetadata:
        """Write labels, paths and checksums, and last the metadata, which mark the cache as complete."""
        self.wait_for_shards()
        records = [read_json(self.shard_file(shard)) for shard in range(self.num_shards)]
        skipped = {path: None for record in records for path in record["skipped"]}
        kept = [i for i, path in enumerate(self.images.paths) if path not in skipped]
        metadata = replace(self.metadata, skipped=tuple(skipped))
        labels, paths = self.folder / LABELS_FILE, self.folder / PATHS_FILE
        with explain_write_errors(self.folder):
            write_npy(labels, self.images.labels[kept])
            write_text(paths, "".join(f"{self.images.paths[i]}\n" for i in kept))
            checksums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (labels, paths)}
            for record in records:
                checksums |= record["sha256"]
            lines = (f"{digest}  {name}\n" for name, digest in sorted(checksums.items()))
            write_text(self.folder / CHECKSUMS_FILE, "".join(lines))
            self.mark_complete(asdict(metadata))
        return metadata


def write_npz(path: Path, codes: np.ndarray) -> None:
    """As np.savez(path, codes=codes), but without the time of day: equal codes make equal files."""
    with zipfile.ZipFile(path, "w") as archive, archive.open(zipfile.ZipInfo("codes.npy"), "w") as member:
        np.lib.format.write_array(member, codes.astype(np.int64), allow_pickle=False)
