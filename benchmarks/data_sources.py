"""Images per second of one worker's processor from each kind of data set: the same pictures, in the same order.

python -m benchmarks.data_sources --images 400 --rounds 30

A round reads some images of each kind, one kind after another, so that a machine whose speed varies treats them
alike. The ratio is that of the folder's median time in a round to a kind's. Time is processor time, which other
programs disturb least; everything is in the page cache. "Read only" shows what a kind costs besides decoding.
"""

import argparse
import json
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import announce
from benchmarks.pretokenization import write_images
from dataset.crops import source_size
from dataset.images import ImageList, list_images
from dataset.token_cache.encode import SourceCrops

IMAGE_SIZE = 256


def write_archives(images: ImageList, root: Path) -> dict[str, Path]:
    """The images in a folder once more as each kind of archive. Returns their data paths."""
    paths = {name: root / name for name in ("zip, stored", "zip, deflated", "tar", "webdataset")}
    for path in paths.values():
        path.mkdir()
    for name, compression in (("zip, stored", zipfile.ZIP_STORED), ("zip, deflated", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(paths[name] / "train.zip", "w", compression) as archive:
            for i, member in enumerate(images.paths):
                archive.write(images.path(i), member)
    with tarfile.open(paths["tar"] / "train.tar", "w") as archive:
        for i, member in enumerate(images.paths):
            archive.add(images.path(i), member)
    label = root / "label"
    label.write_text("0")
    with tarfile.open(paths["webdataset"] / "train-000000.tar", "w") as archive:
        for i in range(len(images)):
            archive.add(images.path(i), f"{i:06d}.jpg")
            archive.add(label, f"{i:06d}.cls")
    return paths | _write_tables(images, root)


def _write_tables(images: ImageList, root: Path) -> dict[str, Path]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        print("without parquet: pyarrow is not installed")
        return {}
    rows = [{"bytes": images.path(i).read_bytes(), "path": images.paths[i]} for i in range(len(images))]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(images.classes)}}
    table = pa.table({"image": rows, "label": [0] * len(rows)})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    paths = {}
    for compression in ("none", "snappy"):
        paths[f"parquet, {compression}"] = path = root / f"parquet-{compression}"
        path.mkdir()
        pq.write_table(table, path / "train-00000-of-00001.parquet", compression=compression, row_group_size=100)
    return paths


def measure(
    works: dict[str, Callable[[np.ndarray], None]], count: int, rounds: int, per_round: int
) -> dict[str, np.ndarray]:
    """Processor seconds of each kind in each round, on the same images in all kinds."""
    rng, seconds = np.random.default_rng(0), {name: [] for name in works}
    for _ in range(rounds):
        chosen = rng.choice(count, per_round, replace=False)
        for name in rng.permutation(list(works)):  # so that no kind always follows the same one
            start = time.process_time()
            works[name](chosen)
            seconds[name].append(time.process_time() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def report(title: str, seconds: dict[str, np.ndarray], per_round: int) -> None:
    print(f"\n{title}: images/s of one worker, and the rate relative to the folder's")
    folder = np.median(seconds["folder"])
    for name, values in seconds.items():
        print(f"{name:>20}: {per_round / np.median(values):10.1f} images/s {folder / np.median(values):6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--per_round", type=int, default=32, help="images of each kind in a round")
    args = parser.parse_args()
    announce(args)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        images = write_images(root / "folder", args.images)
        lists = {"folder": images}
        lists |= {name: list_images(path, "train") for name, path in write_archives(images, root).items()}
        side = source_size(IMAGE_SIZE, ten_crop=True)
        crops = {name: SourceCrops(found, side) for name, found in lists.items()}
        decode = {name: lambda chosen, c=c: c[0, chosen.tolist()] for name, c in crops.items()}
        read = {name: lambda chosen, x=x: [_bytes(x, i) for i in chosen] for name, x in lists.items()}
        for work in (*decode.values(), *read.values()):
            work(np.arange(min(8, args.images)))  # warm-up
        report("decode and crop", measure(decode, args.images, args.rounds, args.per_round), args.per_round)
        report("read only", measure(read, args.images, args.rounds, args.per_round), args.per_round)


def _bytes(images: ImageList, index: int) -> bytes:
    return images.path(index).read_bytes() if images.places is None else images.places.read(index)


if __name__ == "__main__":
    main()
