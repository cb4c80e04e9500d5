"""Encode image folders into a token cache, shard by shard, on any number of processes.

Three things run at once: workers decode files and cut one centre crop of each, the device cuts the
views and encodes them, a thread copies codes off the device and writes finished shards.
"""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Dataset

from dataset.crops import center_crop, cut_views, source_size
from dataset.decode import BadImage
from dataset.images import ImageList, to_float, to_uint8
from dataset.token_cache.metadata import CacheMetadata
from dataset.token_cache.writer import CacheWriter
from modeling.interfaces import Tokenizer
from modeling.layers.precision import autocast, full_float32
from utils.compiling import compile_or_eager
from utils.errors import UserError
from utils.progress import of_processes, tqdm
from utils.sharded_output import ShardedOutput, background_writer
from utils.workers import Loader

MAX_FILES_IN_ERROR = 5


@dataclass(frozen=True)
class EncodeSettings:
    """How to encode. Only batch size and compilation have an effect on the codes: rounding depends on them."""

    batch_size: int  # images, of several views each
    num_workers: int = 0
    skip_bad: bool = False  # leave out undecodable files; they end the run otherwise
    compile: bool | None = None  # torch.compile the tokenizer; None: on a GPU


class SourceBatch(NamedTuple):
    """Some images of one shard, in order."""

    shard: int
    indices: list[int]  # of the decoded files, in the list of all files
    crops: Tensor | None  # (len(indices), 3, S, S) uint8 centre crops; None if no file could be decoded
    bad: list[tuple[int, str]]  # index and error of the other files


class SourceCrops(Dataset):
    """ADM centre crops of `size` pixels. An item is a whole batch: the shard and the files to decode."""

    def __init__(self, images: ImageList, size: int):
        self.images = images
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, batch: tuple[int, range]) -> SourceBatch:
        shard, files = batch
        crops, indices, bad = [], [], []
        for index in files:
            try:
                crops.append(to_uint8(center_crop(self.images.read(index), self.size)))
                indices.append(index)
            except BadImage as error:
                bad.append((index, str(error)))
        return SourceBatch(shard, indices, torch.stack(crops) if crops else None, bad)


def split_into_batches(output: ShardedOutput, shards: list[int], batch_size: int) -> list[tuple[int, range]]:
    """The shard and the files of each batch. Batches never span shards.

    So the files that are encoded together depend only on the file list and the batch size, and the
    codes do too: their rounding depends on the batch.
    """
    return [
        (shard, output.items(shard)[start : start + batch_size])
        for shard in shards
        for start in range(0, len(output.items(shard)), batch_size)
    ]


def encode_views(tokenizer: Tokenizer, crops: Tensor, metadata: CacheMetadata) -> Tensor:
    """crops: (B, 3, S, S) uint8 -> codes (B, V, T) int32 of all views, encoded in one batch."""
    views = cut_views(crops, metadata.image_size, metadata.ten_crop)
    with autocast(crops.device, metadata.precision), full_float32():
        codes = tokenizer.encode(to_float(views.flatten(0, 1)))
    return codes.view(*views.shape[:2], -1).to(torch.int32)


def pretokenize(
    tokenizer: Tokenizer,
    images: ImageList,
    folder: Path,
    metadata: CacheMetadata,
    settings: EncodeSettings,
    state: PartialState,
) -> None:
    """Encode the missing shards, each process its share; the main process completes the cache.

    A killed run leaves complete shards. Raises UserError with the paths of undecodable files, unless
    they are to be skipped, after all other shards are written.
    """
    writer = CacheWriter(folder, metadata, images)
    with writer.locked(state):
        if writer.prepare_together(state):
            state.print(f"{folder} is complete")
        else:
            if compile_or_eager(settings.compile, state.device):
                for trunk in tokenizer.trunks:
                    trunk.compile()  # once for the usual batch, once for the smaller last ones of the shards
            _encode_missing(tokenizer, writer, settings, state)


def _encode_missing(tokenizer: Tokenizer, writer: CacheWriter, settings: EncodeSettings, state: PartialState) -> None:
    bad_files = gather_object(encode_shards(tokenizer, writer, writer.claim(state), settings, state))
    if bad_files:
        some = "; ".join(bad_files[:MAX_FILES_IN_ERROR])
        more = f" and {len(bad_files) - MAX_FILES_IN_ERROR} more" if len(bad_files) > MAX_FILES_IN_ERROR else ""
        raise UserError(
            f"{len(bad_files)} files cannot be decoded: {some}{more}. Fix them, or leave them out with --skip_bad;"
            " finished shards are kept"
        )
    if state.is_main_process:
        complete = writer.finish()
        without = f", without {len(complete.skipped)} that cannot be decoded" if complete.skipped else ""
        print(f"{writer.folder} is complete: {complete.num_images} images{without}")
    state.wait_for_everyone()


def encode_shards(
    tokenizer: Tokenizer, writer: CacheWriter, shards: list[int], settings: EncodeSettings, state: PartialState
) -> list[str]:
    """Encode and write some shards. Returns the undecodable files that keep their shards unwritten."""
    loader = Loader(
        SourceCrops(writer.images, source_size(writer.metadata.image_size, writer.metadata.ten_crop)),
        sampler=split_into_batches(writer, shards, settings.batch_size),
        batch_size=None,  # the dataset makes a whole batch at a time
        num_workers=settings.num_workers,
        pin_memory=state.device.type == "cuda",
    )
    bar = tqdm(
        total=sum(len(writer.items(shard)) for shard in shards),
        unit="image",
        desc=of_processes("encoding", state.num_processes),
        disable=not state.is_main_process,
        mininterval=1.0,
        smoothing=0.02,
    )
    unwritten: list[str] = []
    with bar, background_writer() as submit:
        for shard, batches in groupby(loader, key=lambda batch: batch.shard):
            indices, codes, bad = [], [], []
            for batch in batches:
                if batch.crops is not None:
                    crops = batch.crops.to(state.device, non_blocking=True)
                    codes.append(encode_views(tokenizer, crops, writer.metadata))
                indices += batch.indices
                bad += batch.bad
                bar.update(len(batch.indices) + len(batch.bad))
            if bad and not settings.skip_bad:
                unwritten += [f"{writer.images.path(i)} ({error})" for i, error in bad]
            elif not codes:
                first = writer.images.path(bad[0][0])
                raise UserError(f"none of {len(bad)} files from {first} on can be decoded: is the disk there?")
            else:
                submit(_write_shard, writer, shard, indices, codes, [i for i, _ in bad])
    return unwritten


def _write_shard(writer: CacheWriter, shard: int, indices: list[int], codes: list[Tensor], skipped: list[int]) -> None:
    """Runs in the background thread: the copy waits for the device."""
    writer.write(shard, indices, torch.cat(codes).cpu().numpy(), skipped)
