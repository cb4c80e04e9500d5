"""Every kind of data set gives the same images, classes and order as the image folder."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dataset.images import ImageList, NoSuchSplit, list_images
from tests.support import archives, data_cases
from utils.errors import UserError

LABELS = [0] * 6 + [1] * 6 + [2] * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return data_cases.image_folder(tmp_path_factory.mktemp("folder"))


def same_pixels(one: ImageList, other: ImageList) -> bool:
    return all((np.asarray(one.read(i)) == np.asarray(other.read(i))).all() for i in range(len(one)))


def packed(kind: str, root: Path) -> Path:
    """The folder train/, val/ in archives that keep its paths. Returns the data path."""
    members = {split: archives.in_folders(split, f"{split}/") for split in ("train", "val")}
    if kind == "a zip of both splits":
        return archives.write_zip(root / "pictures.zip", members["train"] + members["val"])
    if kind == "a stored zip a split":
        for split in members:
            archives.write_zip(root / f"{split}.zip", archives.in_folders(split), zipfile.ZIP_STORED)
    if kind == "a tar of both splits":
        archives.write_tar(root / "pictures.tar", archives.in_folders("train", "./all/train/"))
        archives.write_tar(root / "more.tar", members["val"])
    if kind == "a tar a split":
        for split in members:
            archives.write_tar(root / f"my_{split}.tar", members[split])
    if kind == "a tar a class":
        for split in members:
            for name in data_cases.CLASSES:
                own = [(p.partition("/")[2], d) for p, d in archives.in_folders(split) if p.startswith(name)]
                archives.write_tar(root / split / f"{name}.tar", own)
    return root


@pytest.mark.parametrize(
    "kind",
    ["a zip of both splits", "a stored zip a split", "a tar of both splits", "a tar a split", "a tar a class"],
)
def test_archives_of_folders_are_the_same_list(tmp_path, folder, kind):
    """The same fingerprint: token caches and trainings of the one continue with the other."""
    data = packed(kind, tmp_path)
    for split in ("train", "val"):
        images, expected = list_images(data, split), list_images(folder, split)
        assert images.paths == expected.paths
        assert images.classes == expected.classes
        assert images.labels.tolist() == expected.labels.tolist()
        assert images.fingerprint() == expected.fingerprint()
        assert same_pixels(images, expected)


def test_some_images_of_an_archive(tmp_path, folder):
    some = list_images(packed("a tar a split", tmp_path), "train").evenly_spaced(4)
    assert len(some) == 4
    assert same_pixels(some, list_images(folder, "train").evenly_spaced(4))


@pytest.mark.parametrize("make", [archives.kaggle_zip, archives.imagenet_tars])
@pytest.mark.parametrize("unpacked_devkit", [False, True])
def test_archives_of_imagenet(tmp_path, folder, make, unpacked_devkit):
    data = make(tmp_path)
    if unpacked_devkit and make is archives.imagenet_tars:
        shutil.unpack_archive(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", tmp_path)
        (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    for split in ("train", "val"):
        images = list_images(data, split)
        assert images.classes == archives.SYNSETS
        assert images.labels.tolist() == LABELS
        assert same_pixels(images, list_images(folder, split))
    assert list_images(data, "train").paths[0] == "n01440764/n01440764_0.JPEG"
    assert list_images(data, "val").paths[0] == "n01440764/ILSVRC2012_val_00000001.JPEG"


def test_imagenets_validation_images_need_their_labels(tmp_path):
    archives.imagenet_tars(tmp_path, devkit=False)
    assert len(list_images(tmp_path, "train")) == 18
    with pytest.raises(UserError, match=r"no class for ILSVRC2012_val_00000001.JPEG: put LOC_val_solution.csv"):
        list_images(tmp_path, "val")
    _, labels = archives.flat_validation()
    lines = "".join(f"{archives.SYNSETS[label]}\n" for label in labels)
    (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text(lines)
    assert list_images(tmp_path, "val").labels.tolist() == LABELS
    (tmp_path / "imagenet_2012_validation_synset_labels.txt").unlink()
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nnonsense\n")
    with pytest.raises(UserError, match=r"LOC_val_solution.csv: no labels can be read"):
        list_images(tmp_path, "val")


def test_unpacked_validation_images(tmp_path, folder):
    """Kaggle's archive unpacked: the labels lie four folders above the images."""
    shutil.unpack_archive(archives.kaggle_zip(tmp_path), tmp_path)
    data = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    (data / "val" / "ILSVRC2012_val_00000001.xml").write_text("<annotation/>")
    for split in ("train", "val"):
        images = list_images(data, split)
        assert images.classes == archives.SYNSETS
        assert images.labels.tolist() == LABELS
        assert same_pixels(images, list_images(folder, split))
    (tmp_path / "LOC_val_solution.csv").rename(tmp_path / "elsewhere.csv")
    with pytest.raises(UserError, match=r"CLS-LOC/val: no class for ILSVRC2012_val_00000001.JPEG: put LOC_val"):
        list_images(data, "val")


@pytest.mark.parametrize("pattern", ["data-{split}-{shard:06d}.tar", "{split}/{shard:05d}.tar"])
def test_webdataset_shards(tmp_path, folder, pattern):
    data = archives.webdataset(tmp_path, pattern=pattern)
    for split in ("train", "val"):
        images, expected = list_images(data, split), list_images(folder, split)
        assert images.classes == ("0", "1", "2")
        assert images.labels.tolist() == LABELS
        assert images.passed_over == {".json": 18, ".mask.png": 18}
        shard = Path(pattern.format(split=split, shard=0)).stem
        assert images.paths[0] == f"0/{shard}/00000.png"
        # Of each class the first shard has every other picture, then the second one the rest.
        order = [6 * c + i for c in range(3) for i in (0, 2, 4, 1, 3, 5)]
        for place, row in enumerate(order):
            assert (np.asarray(images.read(place)) == np.asarray(expected.read(row))).all()


def test_webdataset_classes_in_the_key(tmp_path):
    for shard in range(2):
        rows = archives.pictures("train")[shard::2]
        members = [(f"{archives.SYNSETS[label]}_{i}.png", data) for label, i, data in rows]
        archives.write_tar(tmp_path / f"imagenet-train-{shard:04d}.tar", members)
    images = list_images(tmp_path, "train")
    assert images.classes == archives.SYNSETS
    assert images.labels.tolist() == LABELS


def test_an_archive_that_is_named_for_two_splits(tmp_path, folder):
    members = archives.in_folders("train", "train/") + archives.in_folders("val", "val/")
    path = archives.write_zip(tmp_path / "my_train_val.zip", members)
    for split in ("train", "val"):
        assert list_images(path, split).fingerprint() == list_images(folder, split).fingerprint()


def test_tars_of_classes_inside_of_the_tar_of_both_splits(tmp_path, folder):
    members = []
    for split in ("train", "val"):
        for name in data_cases.CLASSES:
            own = [(p.partition("/")[2], d) for p, d in archives.in_folders(split) if p.startswith(name)]
            inner = archives.write_tar(tmp_path / "inner" / "class.tar", own).read_bytes()
            members += [(f"{split}/{name}.tar", inner), (f"{split}/._{name}.tar", b"fork")]
    path = archives.write_tar(tmp_path / "all.tar", members)
    for split in ("train", "val"):
        images = list_images(path, split)
        assert images.fingerprint() == list_images(folder, split).fingerprint()
        assert same_pixels(images, list_images(folder, split))
        assert images.passed_over == {"hidden or system names": 3}


def test_an_archive_without_the_split(tmp_path):
    path = archives.write_zip(tmp_path / "all.zip", archives.in_folders("train", "train/"))
    for _ in range(2):  # an index of no images is kept as well
        with pytest.raises(NoSuchSplit, match=r"all.zip holds no images of the split 'val' below a folder val/"):
            list_images(path, "val")
    assert len(list((tmp_path / ".image_index").iterdir())) == 1
    archives.write_tar(tmp_path / "other" / "train.tar", archives.in_folders("train"))
    with pytest.raises(NoSuchSplit, match=r"image folder not found: .*other/val"):
        list_images(tmp_path / "other", "val")
    with pytest.raises(NoSuchSplit, match=r"train.tar is not named for the split 'val'"):
        list_images(tmp_path / "other" / "train.tar", "val")


def test_archives_beside_folders_are_not_looked_into(tmp_path):
    """Unless they are named for the split."""
    data_cases.image_folder(tmp_path, ("train",))
    (tmp_path / "backup.zip").write_bytes(b"damaged")
    with pytest.raises(NoSuchSplit, match="image folder not found"):
        list_images(tmp_path, "val")
    archives.write_zip(tmp_path / "val.zip", archives.in_folders("val"))
    assert len(list_images(tmp_path, "val")) == 18


def test_files_that_are_no_archives(tmp_path):
    (tmp_path / "train.tar.gz").touch()
    with pytest.raises(UserError, match=r"train.tar.gz is no archive of these kinds: .*must be uncompressed"):
        list_images(tmp_path / "train.tar.gz", "train")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state.json is no record of a saved data set"):
        list_images(tmp_path, "train")


@pytest.mark.parametrize(("compression", "dictionary"), [("none", False), ("none", True), ("snappy", True)])
def test_parquet_files(tmp_path, folder, compression, dictionary):
    pytest.importorskip("pyarrow")
    data = archives.tables(tmp_path, compression, dictionary)
    for split in ("train", "val"):
        images = list_images(data, split)
        assert images.classes == tuple(reversed(data_cases.CLASSES))  # as the table numbers them
        assert images.labels.tolist() == LABELS
        assert same_pixels(images, list_images(folder, split))
        assert images.places.files[-1].exists() == (compression == "snappy")  # only what is compressed is copied


def test_saved_datasets(tmp_path, folder):
    pytest.importorskip("pyarrow")
    data = archives.saved_dataset(tmp_path)
    for split in ("train", "val"):
        images = list_images(data, split)
        assert images.labels.tolist() == LABELS
        assert same_pixels(images, list_images(folder, split))
        assert not images.places.files[-1].exists()
