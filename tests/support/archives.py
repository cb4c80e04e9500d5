"""The pictures of `data_cases.image_folder` in the archives that clusters keep."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.support import data_cases

SYNSETS = ("n01440764", "n01443537", "n02119789")  # in ImageNet's own files they are numbered otherwise:
ILSVRC_IDS = (2, 3, 1)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, members: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def pictures(split: str, count: int = 6) -> list[tuple[int, int, bytes]]:
    """Class, number in it and PNG bytes of each picture, those of `data_cases.image_folder`."""
    first, found = {"train": 0, "val": 100}[split], []
    for label in range(len(data_cases.CLASSES)):
        for i in range(count):
            buffer = io.BytesIO()
            data_cases.picture(first + 10 * label + i).save(buffer, format="PNG")
            found.append((label, i, buffer.getvalue()))
    return found


def in_folders(split: str, prefix: str = "") -> list[tuple[str, bytes]]:
    """Members <prefix><class>/<number>.png."""
    return [(f"{prefix}{data_cases.CLASSES[label]}/{i}.png", data) for label, i, data in pictures(split)]


def flat_validation() -> tuple[list[tuple[str, bytes]], list[int]]:
    """ImageNet's flat members with the classes mixed, and the class of each."""
    mixed = sorted(pictures("val"), key=lambda picture: (picture[1], picture[0]))
    members = [(f"ILSVRC2012_val_{n:08d}.JPEG", data) for n, (_, _, data) in enumerate(mixed, 1)]
    return members, [label for label, _, _ in mixed]


def kaggle_zip(folder: Path) -> Path:
    """imagenet-object-localization-challenge.zip"""
    base = "ILSVRC/Data/CLS-LOC"
    members = [(f"{base}/train/{SYNSETS[c]}/{SYNSETS[c]}_{i}.JPEG", data) for c, i, data in pictures("train")]
    members += [(f"ILSVRC/Annotations/CLS-LOC/train/{SYNSETS[0]}/{SYNSETS[0]}_0.xml", b"<annotation/>")]
    flat, labels = flat_validation()
    members += [(f"{base}/val/{name}", data) for name, data in flat]
    rows = [f"{name.removesuffix('.JPEG')},{SYNSETS[c]} 1 2 3 4 " for (name, _), c in zip(flat, labels, strict=True)]
    members += [("LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *reversed(rows)]).encode())]
    return write_zip(folder / "imagenet-object-localization-challenge.zip", members)


def imagenet_tars(folder: Path, devkit: bool = True) -> Path:
    """The archives of image-net.org: a tar a class inside of the training tar, and the devkit."""
    nested = []
    for label, synset in enumerate(SYNSETS):
        own = [(f"{synset}_{i}.JPEG", data) for c, i, data in pictures("train") if c == label]
        nested.append((f"{synset}.tar", write_tar(folder / "class.tar", own).read_bytes()))
    (folder / "class.tar").unlink()
    write_tar(folder / "ILSVRC2012_img_train.tar", nested)
    flat, labels = flat_validation()
    write_tar(folder / "ILSVRC2012_img_val.tar", flat)
    if devkit:
        kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
        rows = [(number, synset, "words") for number, synset in zip(ILSVRC_IDS, SYNSETS, strict=True)]
        meta = io.BytesIO()
        savemat(meta, {"synsets": np.array(rows, dtype=kinds)})
        truth = "".join(f"{ILSVRC_IDS[label]}\n" for label in labels)
        name = "ILSVRC2012_devkit_t12"
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            for file, data in (
                ("meta.mat", meta.getvalue()),
                ("ILSVRC2012_validation_ground_truth.txt", truth.encode()),
            ):
                info = tarfile.TarInfo(f"{name}/data/{file}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return folder


def webdataset(folder: Path, shards: int = 2, pattern: str = "data-{split}-{shard:06d}.tar") -> Path:
    """Shards with <key>.png, <key>.cls and <key>.json; keys begin again in each shard."""
    for split in ("train", "val"):
        rows = pictures(split)
        for shard in range(shards):
            members = []
            for key, (label, _, data) in enumerate(rows[shard::shards]):
                sample = (("png", data), ("cls", str(label).encode()), ("json", b"{}"), ("mask.png", b"no picture"))
                members += [(f"{key:05d}.{suffix}", content) for suffix, content in sample]
            write_tar(folder / pattern.format(split=split, shard=shard), members)
    return folder


def tables(folder: Path, compression: str = "snappy", dictionary: bool = True) -> Path:
    """Parquet files as `datasets` pushes them: two a split, row groups of four images."""
    import pyarrow.parquet as pq

    for split, name in (("train", "train"), ("val", "validation")):
        table = _table(split)
        for shard in range(2):
            path = folder / "data" / f"{name}-{shard:05d}-of-00002.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            half = table.slice(9 * shard, 9)
            pq.write_table(half, path, row_group_size=4, compression=compression, use_dictionary=dictionary)
    return folder


def saved_dataset(folder: Path) -> Path:
    """Arrow files as `DatasetDict.save_to_disk` writes them."""
    import pyarrow as pa

    for split, name in (("train", "train"), ("val", "validation")):
        table, path = _table(split), folder / name / "data-00000-of-00001.arrow"
        path.parent.mkdir(parents=True)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
        (path.parent / "state.json").write_text(json.dumps({"_data_files": [{"filename": path.name}]}))
        (path.parent / "cache-0123.arrow").write_bytes(b"of another program")
    return folder


def _table(split: str):
    import pyarrow as pa

    rows = pictures(split)
    images = pa.array([{"bytes": data, "path": f"{i}.png"} for _, i, data in rows])
    labels = pa.array([label for label, _, _ in rows])
    label = {"_type": "ClassLabel", "names": list(reversed(data_cases.CLASSES))}
    stored = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    return pa.table({"label": labels, "image": images}).replace_schema_metadata({"huggingface": json.dumps(stored)})
