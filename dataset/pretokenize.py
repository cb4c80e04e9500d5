"""Turning image folders into a token cache, shard by shard on any number of processes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dataset.crops import center_crop, cut_views, source_size
from dataset.image_folder import DECODE_ERRORS, ImageList, read_rgb, to_float, to_uint8
from dataset.token_cache import (
    CacheMetadata,
    begin_cache,
    finish_cache,
    metadata_path,
    plan_path,
    read_metadata,
    shard_path,
    write_shard,
)
from modeling.interfaces import Tokenizer
from utils.errors import UserError

SHOWN_BAD_FILES = 5


class SourceCrops(Dataset):
    """ADM centre crops of chosen images, (3, S, S) uint8; a file that cannot be decoded gives its path."""

    def __init__(self, images: ImageList, indices: list[int], size: int):
        self.images = images
        self.indices = indices
        self.size = size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Tensor | str:
        path = self.images.root / self.images.paths[self.indices[position]]
        try:
            return to_uint8(center_crop(read_rgb(path), self.size))
        except DECODE_ERRORS as error:
            return f"{path} ({error})"


def stack_or_report(samples: list[Tensor | str]) -> tuple[Tensor | None, list[str]]:
    """Batch (B, 3, S, S) of the decoded images, and the complaints about the others."""
    good = [s for s in samples if isinstance(s, Tensor)]
    return (torch.stack(good) if good else None), [s for s in samples if isinstance(s, str)]


def encode_views(
    tokenizer: Tokenizer, crops: Tensor, *, ten_crop: bool, autocast: Callable[[], torch.autocast]
) -> Tensor:
    """crops: (B, 3, S, S) uint8 -> codes (B, V, T) of all views, encoded in one batch."""
    views = cut_views(crops, tokenizer.image_size, ten_crop)
    with autocast():
        codes = tokenizer.encode(to_float(views.flatten(0, 1)))
    return codes.view(*views.shape[:2], -1)


def prepare_folder(folder: Path, metadata: CacheMetadata) -> bool:
    """Make sure that what `folder` holds belongs to this cache. Returns whether it is complete.

    Raises UserError that names the first difference to a cache made otherwise.
    """
    finished = metadata_path(folder)
    for path in (finished, plan_path(folder)):
        if path.is_file():
            difference = read_metadata(path).difference(metadata)
            if difference:
                raise UserError(f"{folder} holds another cache: {difference}. Remove it or choose --cached_path")
    return finished.is_file()


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
) -> None:
    """Encode all shards that are not there yet, each process its share; the first one finishes.

    A killed run leaves complete shards; the next one, of any number of processes, adds the rest.
    Raises UserError with the paths of undecodable files.
    """
    if prepare_folder(folder, metadata):
        state.print(f"{folder} is complete ({metadata.num_images} images)")
        return
    if state.is_main_process:
        begin_cache(folder, metadata)
    state.wait_for_everyone()
    missing = [s for s in range(metadata.num_shards) if not shard_path(folder, s).is_file()]
    state.wait_for_everyone()  # no shard may be written before everyone has looked
    mine = missing[state.process_index :: state.num_processes]

    def autocast() -> torch.autocast:
        return torch.autocast(state.device.type, torch.bfloat16, enabled=metadata.precision == "bf16")

    bar = tqdm(
        total=sum(len(metadata.shard_range(s)) for s in mine),
        unit="image",
        desc=f"encoding, process 1 of {state.num_processes}",
        disable=not state.is_main_process,
        mininterval=1.0,
    )
    bad: list[str] = []
    for shard in mine:
        crops = SourceCrops(images, list(metadata.shard_range(shard)), source_size(metadata.image_size, ten_crop))
        loader = DataLoader(
            crops,
            batch_size,
            num_workers=num_workers,
            collate_fn=stack_or_report,
            pin_memory=state.device.type == "cuda",
        )
        rows = []
        for batch, complaints in loader:
            bad += complaints
            if batch is not None and not bad:
                batch = batch.to(state.device, non_blocking=True)
                codes = encode_views(tokenizer, batch, ten_crop=ten_crop, autocast=autocast)
                rows.append(codes.to("cpu", torch.int32).numpy())
                bar.update(len(codes))
        if not bad:
            write_shard(folder, shard, np.concatenate(rows))
    bar.close()
    if bad:
        more = f" and {len(bad) - SHOWN_BAD_FILES} more" if len(bad) > SHOWN_BAD_FILES else ""
        raise UserError(f"{len(bad)} files cannot be decoded: {'; '.join(bad[:SHOWN_BAD_FILES])}{more}")
    state.wait_for_everyone()
    if state.is_main_process:
        finish_cache(folder, metadata, images.labels, images.paths)
    state.wait_for_everyone()
