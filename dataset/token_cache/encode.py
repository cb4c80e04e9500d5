"""Turning image folders into a token cache, shard by shard on any number of processes.

Three things go on at once: workers decode files and cut one centre crop of each, the device cuts the
views and encodes them, a thread takes codes off the device and writes finished shards.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from dataset.crops import center_crop, cut_views, source_size
from dataset.image_folder import DECODE_ERRORS, ImageList, read_rgb, to_float, to_uint8
from dataset.token_cache.metadata import (
    CacheMetadata,
    ShardRecord,
    begin_cache,
    complain,
    complaints,
    finish_cache,
    missing_shards,
    prepare_cache,
    record_shard,
    remove_progress,
)
from dataset.token_cache.writer import CacheWriter, cache_writer
from modeling.interfaces import Tokenizer
from modeling.layers.precision import full_float32
from utils.errors import UserError

SHOWN_BAD_FILES = 5
BATCHES_IN_FLIGHT = 4  # encoded and not yet taken over by the writer


@dataclass
class EncodedBatch:
    """Some images of one shard, in order."""

    shard: int
    indices: list[int]  # positions of the decoded files in the list of all files
    codes: Tensor | None  # (len(indices), V, T), on the device; None if no file could be decoded
    bad: list[tuple[int, str]]  # position and error of the others
    last: bool  # of its shard


class SourceCrops(Dataset):
    """Batches of ADM centre crops, (n, 3, S, S) uint8, of the files that decode, and the errors of the others."""

    def __init__(self, images: ImageList, size: int):
        self.images = images
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, batch: tuple[int, range, bool]) -> tuple[int, list[int], Tensor | None, list, bool]:
        shard, positions, last = batch
        crops, indices, bad = [], [], []
        for index in positions:
            try:
                crops.append(to_uint8(center_crop(read_rgb(self.images.path(index)), self.size)))
                indices.append(index)
            except DECODE_ERRORS as error:
                bad.append((index, str(error)))
        return shard, indices, torch.stack(crops) if crops else None, bad, last


class ShardBatches(Sampler):
    """Batches of at most `batch_size` files, none across a border of shards.

    What is encoded together is then a function of the file list and the batch size alone, and with
    it the codes, whose rounding depends on the batch.
    """

    def __init__(self, metadata: CacheMetadata, shards: list[int], batch_size: int):
        self.metadata = metadata
        self.shards = shards
        self.batch_size = batch_size

    def __len__(self) -> int:
        return sum(-(-len(self.metadata.shard_range(s)) // self.batch_size) for s in self.shards)

    def __iter__(self) -> Iterator[tuple[int, range, bool]]:
        for shard in self.shards:
            files = self.metadata.shard_range(shard)
            for start in range(0, len(files), self.batch_size):
                yield shard, files[start : start + self.batch_size], start + self.batch_size >= len(files)


def encode_views(
    tokenizer: Tokenizer, crops: Tensor, *, ten_crop: bool, autocast: Callable[[], AbstractContextManager]
) -> Tensor:
    """crops: (B, 3, S, S) uint8 -> codes (B, V, T) of all views, encoded in one batch."""
    views = cut_views(crops, tokenizer.image_size, ten_crop)
    with autocast(), full_float32():
        codes = tokenizer.encode(to_float(views.flatten(0, 1)))
    return codes.view(*views.shape[:2], -1)


@dataclass
class ShardSink:
    """Collects batches into shards and writes them in a thread, so that the device never waits.

    A shard with undecodable files is written without them if `skip_bad`, else not at all. Leaving
    the `with` block waits for the last shard; errors of the thread are raised by `put` and there.
    """

    folder: Path
    writer: CacheWriter
    images: ImageList
    skip_bad: bool

    def __post_init__(self):
        self._queue: queue.Queue[EncodedBatch | None] = queue.Queue(BATCHES_IN_FLIGHT)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "ShardSink":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def put(self, batch: EncodedBatch) -> None:
        if self._error is not None:
            raise self._error
        self._queue.put(batch)

    def _run(self) -> None:
        rows: list[np.ndarray] = []
        indices: list[int] = []
        bad: list[tuple[int, str]] = []
        while (batch := self._queue.get()) is not None:
            if self._error is not None:
                continue  # keep emptying the queue, for `put` not to wait forever
            try:
                if batch.codes is not None:
                    rows.append(batch.codes.to("cpu").numpy())
                indices += batch.indices
                bad += batch.bad
                if batch.last:
                    self._finish(batch.shard, indices, rows, bad)
                    rows, indices, bad = [], [], []
            except BaseException as error:
                self._error = error

    def _finish(self, shard: int, indices: list[int], rows: list[np.ndarray], bad: list[tuple[int, str]]) -> None:
        try:
            if bad and not self.skip_bad:
                complain(self.folder, shard, [f"{self.images.path(i)} ({error})" for i, error in bad])
                return
            if not rows:
                raise UserError(
                    f"none of {len(bad)} files from {self.images.path(bad[0][0])} on can be decoded: is the disk there?"
                )
            checksums = self.writer.write(shard, indices, np.concatenate(rows))
            record_shard(self.folder, shard, ShardRecord(checksums, tuple(self.images.paths[i] for i, _ in bad)))
        except OSError as error:
            raise UserError(
                f"{self.folder}: shard {shard} could not be written ({error}); run the same command again when there"
                " is space, finished shards are kept"
            ) from error


def pretokenize(
    tokenizer: Tokenizer,
    images: ImageList,
    folder: Path,
    metadata: CacheMetadata,
    state: PartialState,
    *,
    ten_crop: bool,
    batch_size: int,
    num_workers: int,
    skip_bad: bool = False,
) -> None:
    """Encode all shards that are not there yet, each process its share; the first one finishes.

    A killed run leaves complete shards; the next one, of any number of processes, adds the rest.
    Raises UserError with the paths of undecodable files, unless `skip_bad`.
    """
    if prepare_cache(folder, metadata):
        state.print(f"{folder} is complete")
        if state.is_main_process:
            remove_progress(folder)
        return
    if state.is_main_process:
        begin_cache(folder, metadata)
    state.wait_for_everyone()
    missing = missing_shards(folder, metadata)
    state.wait_for_everyone()  # no shard may be finished before everyone has looked
    mine = missing[state.process_index :: state.num_processes]
    if len(missing) < metadata.num_shards:
        state.print(f"{metadata.num_shards - len(missing)} of {metadata.num_shards} shards are there already")

    def autocast() -> torch.autocast:
        return torch.autocast(state.device.type, torch.bfloat16, enabled=metadata.precision == "bf16")

    loader = DataLoader(
        SourceCrops(images, source_size(metadata.image_size, ten_crop)),
        sampler=ShardBatches(metadata, mine, batch_size),
        batch_size=None,  # the dataset makes a whole batch at a time
        num_workers=num_workers,
        pin_memory=state.device.type == "cuda",
    )
    sink = ShardSink(folder, cache_writer(metadata.layout, folder, images), images, skip_bad)
    bar = tqdm(
        total=sum(len(metadata.shard_range(s)) for s in mine),
        unit="image",
        desc=f"encoding, process 1 of {state.num_processes}",
        disable=not state.is_main_process,
        mininterval=1.0,
        smoothing=0.02,
    )
    with bar, sink:
        for shard, indices, crops, bad, last in loader:
            codes = None
            if crops is not None:
                crops = crops.to(state.device, non_blocking=True)
                codes = encode_views(tokenizer, crops, ten_crop=ten_crop, autocast=autocast).to(torch.int32)
            sink.put(EncodedBatch(shard, indices, codes, bad, last))
            bar.update(len(indices) + len(bad))
    state.wait_for_everyone()
    bad_files = complaints(folder)
    if bad_files:
        more = f" and {len(bad_files) - SHOWN_BAD_FILES} more" if len(bad_files) > SHOWN_BAD_FILES else ""
        raise UserError(
            f"{len(bad_files)} files cannot be decoded: {'; '.join(bad_files[:SHOWN_BAD_FILES])}{more}. Mend them, or"
            " leave them out with --skip_bad; what is encoded stays"
        )
    if state.is_main_process:
        complete = finish_cache(folder, metadata, images)
        without = f", without {len(complete.skipped)} that cannot be decoded" if complete.skipped else ""
        print(f"{folder} is complete: {complete.num_images} images{without}")
    state.wait_for_everyone()
