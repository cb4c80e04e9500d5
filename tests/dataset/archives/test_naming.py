"""Classes and paths of the members of archives, and what is no image."""

import tarfile
import zipfile

import pytest

from dataset.images import list_images
from tests.support import archives, data_cases
from utils.errors import UserError


def test_class_numbers_above_nine_are_in_order(tmp_path):
    data = archives.pictures("train")[0][2]
    samples = [
        (f"{i}.{kind}", text) for i, c in enumerate((10, 2)) for kind, text in (("jpg", data), ("cls", b"%d" % c))
    ]
    archives.write_tar(tmp_path / "train-0.tar", samples)
    images = list_images(tmp_path, "train")
    assert images.classes == tuple(map(str, range(11)))
    assert images.labels.tolist() == [2, 10]


def test_shards_without_classes_are_refused(tmp_path):
    data = archives.pictures("train")[0][2]
    archives.write_tar(tmp_path / "train" / "00000.tar", [("0.png", data)])
    with pytest.raises(UserError, match=r"00000.tar: 0.png has no class: it lies in no folder"):
        list_images(tmp_path, "train")
    archives.write_tar(tmp_path / "train" / "00000.tar", [("0.png", data), ("1.png", data), ("0.cls", b"1")])
    with pytest.raises(UserError, match=r"00000.tar: 1.png has no class: 1.cls is missing or empty"):
        list_images(tmp_path, "train")


def test_one_path_in_several_shards_is_several_images(tmp_path):
    first, second = archives.pictures("train")[0][2], archives.pictures("train")[1][2]
    for shard, data in enumerate((first, second)):
        archives.write_tar(tmp_path / f"train-{shard}.tar", [("cat/0.png", data)])
    images = list_images(tmp_path, "train")
    assert images.paths == ("cat/train-0/0.png", "cat/train-1/0.png")
    assert [images.places.read(i) for i in (0, 1)] == [first, second]


def test_the_last_of_two_members_with_one_name_counts(tmp_path):
    first, second = archives.pictures("train")[0][2], archives.pictures("train")[1][2]
    archives.write_tar(tmp_path / "train.tar", [("cat/0.png", first), ("cat/0.png", second)])
    images = list_images(tmp_path, "train")
    assert [images.places.read(i) for i in range(len(images))] == [second]


def test_what_is_no_data_in_archives(tmp_path):
    members = archives.in_folders("train", "train/")
    members += [(f"__MACOSX/{name.replace('/', '/._', 2)}", b"fork") for name, _ in members[:3]]
    members += [("train/.ipynb_checkpoints/0.png", members[0][1]), ("train/a-first/notes.txt", b"")]
    images = list_images(archives.write_zip(tmp_path / "all.zip", members), "train")
    assert images.classes == data_cases.CLASSES
    assert len(images) == 18
    assert images.passed_over == {".txt": 1, "hidden or system names": 4}


def test_files_beside_the_folder_of_the_split_do_not_hide_it(tmp_path):
    members = [("README.md", b""), *archives.in_folders("train", "train/")]
    images = list_images(archives.write_zip(tmp_path / "train.zip", members), "train")
    assert images.fingerprint() == list_images(data_cases.image_folder(tmp_path / "folder"), "train").fingerprint()
    assert images.passed_over == {".md": 1}


def test_a_class_of_another_split_is_no_folder_of_this_one(tmp_path):
    data = archives.pictures("train")[0][2]
    names = ("all/train/dog/0.png", "all/val/dog/1.png", "all/val/train/2.png")
    path = archives.write_zip(tmp_path / "all.zip", [(name, data) for name in names])
    assert list_images(path, "train").paths == ("dog/0.png",)
    assert list_images(path, "val").paths == ("dog/1.png", "train/2.png")


def test_links_in_tars(tmp_path):
    """A hard link is an image; symbolic links are counted."""
    data = archives.pictures("train")[0][2]
    path = archives.write_tar(tmp_path / "train.tar", [("cat/0.png", data)])
    with tarfile.open(path, "a") as archive:
        for name, kind in (("dog/0.png", tarfile.LNKTYPE), ("dog/1.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "cat/0.png"
            archive.addfile(info)
    images = list_images(tmp_path, "train")
    assert images.paths == ("cat/0.png", "dog/0.png")
    assert images.places.read(1) == data
    assert images.passed_over == {"links and special files": 1}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_webdataset_in_a_zip(tmp_path, compression):
    data = archives.pictures("train")[0][2]
    path = archives.write_zip(tmp_path / "train.zip", [("0.png", data), ("0.cls", b"3")], compression)
    assert list_images(path, "train").labels.tolist() == [3]
    archives.write_zip(path, [("0.png", data), ("0.cls", bytes(2000))], compression)
    with pytest.raises(UserError, match=r"0.cls has more than 1024 bytes, no class"):
        list_images(path, "train")


def test_a_class_that_is_called_like_a_split(tmp_path):
    data = archives.pictures("train")[0][2]
    archives.write_tar(tmp_path / "vehicles_train.tar", [("car/0.png", data), ("train/0.png", data)])
    assert list_images(tmp_path, "train").classes == ("car", "train")


def test_zip_members_with_extra_fields(tmp_path):
    """Info-ZIP stores times of day there, between the name and the bytes."""
    data = archives.pictures("train")[0][2]
    info = zipfile.ZipInfo("cat/0.png")
    info.extra = b"UT\x05\0\3abcd"
    archives.write_zip(tmp_path / "train.zip", [(info, data)])
    assert list_images(tmp_path, "train").places.read(0) == data
