"""Samples on the disk: shards while they are drawn, one .npz for ADM's evaluator at the end."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from utils.atomic import write_atomically
from utils.errors import UserError
from utils.npz import NpzImages

LARGEST_SHARD = 500  # images: 98 MB at 256 x 256, some seconds of one GPU's work to lose
SMALLEST_SHARD = 32
FEWEST_SHARDS = 8  # so that 8 processes share even a small number of images


def shard_size_for(num_samples: int) -> int:
    """Depends on the number of images alone: any number of processes finds the same shards."""
    return min(max(-(-num_samples // FEWEST_SHARDS), SMALLEST_SHARD), LARGEST_SHARD)


class SampleShards:
    """The images 0 .. num_samples-1 in shards of fixed size, whatever the batch and world size.

    `identity` says what decides the images (weights, seed, guidance, ...). Shards of another
    identity are refused, those of the same are kept.
    """

    def __init__(self, output_dir: str | Path, num_samples: int, image_size: int, identity: dict[str, Any]):
        self.output_dir = Path(output_dir)
        self.folder = self.output_dir / "shards"
        self.npz = Path(f"{self.output_dir}.npz")
        self.num_samples = num_samples
        self.image_size = image_size
        self.shard_size = shard_size_for(num_samples)
        self.identity = {**identity, "num_samples": num_samples, "shard_size": self.shard_size}
        self.num_shards = -(-num_samples // self.shard_size)

    def images_of(self, shard: int) -> range:
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_samples))

    def path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.npy"

    def png(self, index: int) -> Path:
        return self.output_dir / f"{index:06d}.png"

    def begin(self) -> bool:
        """Check or record the identity. Returns whether the .npz is there already.

        Raises UserError if earlier samples were drawn with other settings, or the disk is too full.
        """
        record = self.output_dir / "sampling.json"
        if record.is_file():
            earlier = json.loads(record.read_text())
            for key, value in self.identity.items():
                if earlier.get(key) != value:
                    raise UserError(
                        f"{self.output_dir} holds samples with {key} {earlier.get(key)}, now it is {value};"
                        f" remove {self.output_dir} or choose another experiment.output_dir"
                    )
            if self.npz.is_file():
                return True
        self.output_dir.mkdir(parents=True, exist_ok=True)
        missing = sum(len(self.images_of(s)) for s in range(self.num_shards) if not self.path(s).is_file())
        needed = (missing + self.num_samples) * 3 * self.image_size**2
        free = shutil.disk_usage(self.output_dir).free
        if free < needed:
            raise UserError(f"{self.output_dir}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
        if not record.is_file():  # else it says the same; after the first process all others come at once
            write_atomically(record, lambda f: f.write(json.dumps(self.identity, indent=2).encode()))
        return False

    def missing(self) -> list[int]:
        return [s for s in range(self.num_shards) if not self.path(s).is_file()]

    def write(self, shard: int, images: np.ndarray) -> None:
        """images: (n, H, W, 3) uint8."""
        write_atomically(self.path(shard), lambda f: np.save(f, images))

    def finish(self, shard: int, images: np.ndarray, pngs: bool) -> None:
        """Write a shard, after its PNG files: a shard that is there means that all is done.

        Raises UserError if the disk takes no more.
        """
        try:
            if pngs:
                self.write_pngs(shard, images)
            self.write(shard, images)
        except OSError as error:
            raise self._unwritten(self.path(shard), error) from error

    @staticmethod
    def _unwritten(path: Path, error: OSError) -> UserError:
        return UserError(
            f"{path} could not be written ({error}): free space and run the same command again, which keeps what is"
            " finished"
        )

    def write_pngs(self, shard: int, images: np.ndarray) -> None:
        for index, image in zip(self.images_of(shard), images, strict=True):
            Image.fromarray(image).save(self.png(index))

    def complete_pngs(self) -> None:
        """Write the PNG files that are missing, as earlier runs may not have been asked for them."""
        if all(self.png(i).is_file() for i in range(self.num_samples)):
            return
        first = 0
        for batch in NpzImages(self.npz).batches(self.shard_size):
            for index, image in enumerate(batch, first):
                if not self.png(index).is_file():
                    Image.fromarray(image).save(self.png(index))
            first += len(batch)

    def _read(self, shard: int) -> np.ndarray:
        damaged = UserError(f"{self.path(shard)} is damaged: remove it and run again")
        try:
            images = np.load(self.path(shard), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise damaged from error
        if images.shape != (len(self.images_of(shard)), self.image_size, self.image_size, 3):
            raise damaged
        return images

    def assemble(self, labels: np.ndarray) -> Path:
        """Stream all shards into OUTPUT_DIR.npz (`arr_0` images, `arr_1` labels), remove them."""
        shape = (self.num_samples, self.image_size, self.image_size, 3)

        def write(file) -> None:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                    header = {"descr": npy.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
                    npy.write_array_header_1_0(member, header)
                    for shard in range(self.num_shards):
                        member.write(np.ascontiguousarray(self._read(shard)).data)
                with archive.open("arr_1.npy", "w") as member:
                    npy.write_array(member, labels.astype(np.int64), allow_pickle=False)

        try:
            write_atomically(self.npz, write)
        except OSError as error:
            raise self._unwritten(self.npz, error) from error
        shutil.rmtree(self.folder)
        return self.npz
