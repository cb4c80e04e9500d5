"""Sampled images on the disk: shards while they are drawn, one .npz for ADM's evaluator at the end."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from utils.atomic import write_atomically, write_npy
from utils.errors import UserError
from utils.images import save_png
from utils.npz import NpzImages
from utils.sharded_output import ShardedOutput, explain_write_errors

MAX_SHARD_SIZE = 500  # images: 98 MB at 256 x 256; a killed process repeats at most one shard
MIN_SHARD_SIZE = 32
MIN_SHARDS = 8  # so that 8 processes share even a small number of images


def choose_shard_size(num_samples: int) -> int:
    """Depends only on the number of images, so that any number of processes has the same shards."""
    return min(max(-(-num_samples // MIN_SHARDS), MIN_SHARD_SIZE), MAX_SHARD_SIZE)


class SampleShards(ShardedOutput):
    """The images 0 .. num_samples - 1, for any batch size and number of processes.

    The result is OUTPUT_DIR.npz; OUTPUT_DIR/sampling.json records what decided the images.
    """

    def __init__(
        self,
        output_dir: str | Path,
        num_samples: int,
        image_size: int,
        identity: dict[str, Any],
        circumstances: dict[str, Any] | None = None,
    ):
        """identity: what decides the images: weights, seed, guidance, ... circumstances: what decides rounding."""
        self.output_dir = Path(output_dir)
        self.npz = Path(f"{self.output_dir}.npz")
        self.image_size = image_size
        shard_size = choose_shard_size(num_samples)
        super().__init__(
            self.output_dir / "sampling.json",
            self.output_dir / "shards",
            {**identity, "num_samples": num_samples, "shard_size": shard_size},
            num_samples,
            shard_size,
            suffix=".npy",
            result=self.npz,
            circumstances=circumstances,
        )

    def png(self, index: int) -> Path:
        return self.output_dir / f"{index:06d}.png"

    def remains(self) -> list[Path]:
        return [path for path in (self.npz, self.png(0)) if path.exists()]

    def bytes_needed(self) -> int:
        """The missing shards, and then all of them once more in the result."""
        missing = sum(len(self.items(shard)) for shard in self.missing())
        return (missing + self.num_items) * 3 * self.image_size**2

    def write(self, shard: int, images: np.ndarray, pngs: bool = False) -> None:
        """Write the images (n, H, W, 3) uint8 of a shard, and its PNG files if `pngs`.

        The .npy is written last, so its presence marks the shard and its PNG files as finished.
        Raises UserError if the disk is full.
        """
        with explain_write_errors(self.shard_file(shard)):
            if pngs:
                for index, image in zip(self.items(shard), images, strict=True):
                    save_png(Image.fromarray(image), self.png(index), flush=False)
                os.sync()
            write_npy(self.shard_file(shard), images)

    def complete_pngs(self) -> None:
        """Write the PNG files that are missing: an earlier run may have had `save_png` off."""
        if all(self.png(i).is_file() for i in range(self.num_items)):
            return
        first = 0
        for batch in NpzImages(self.npz).batches(self.shard_size):
            for index, image in enumerate(batch, first):
                if not self.png(index).is_file():
                    save_png(Image.fromarray(image), self.png(index), flush=False)
            first += len(batch)
        os.sync()

    def _read(self, shard: int) -> np.ndarray:
        path = self.shard_file(shard)
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
            if images.shape != (len(self.items(shard)), self.image_size, self.image_size, 3):
                raise ValueError(f"its shape is {images.shape}")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): remove it and run again") from error
        return images

    def assemble(self, labels: np.ndarray) -> Path:
        """Stream all shards into OUTPUT_DIR.npz (`arr_0` images, `arr_1` labels), then remove them.

        labels: (num_samples,). Raises UserError if a shard is damaged or the disk is full.
        """
        self.wait_for_shards()
        shape = (self.num_items, self.image_size, self.image_size, 3)

        def write(file) -> None:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                    header = {"descr": npy.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
                    npy.write_array_header_1_0(member, header)
                    for shard in range(self.num_shards):
                        member.write(np.ascontiguousarray(self._read(shard)).data)
                with archive.open("arr_1.npy", "w") as member:
                    npy.write_array(member, labels.astype(np.int64), allow_pickle=False)

        with explain_write_errors(self.npz):
            write_atomically(self.npz, write)
            self.mark_complete(self.description())
        return self.npz
