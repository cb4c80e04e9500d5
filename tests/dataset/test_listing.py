"""What is data in a folder, and what is passed over."""

import os
from collections import Counter

import pytest

from dataset.images import list_images
from dataset.listing import HIDDEN, LOOPS, describe, files_below, is_data, subfolders
from tests.support import data_cases
from utils.errors import UserError


def test_names_of_data():
    assert all(is_data(name) for name in ("a", "0.png", "a.b", "_x", "MACOSX"))
    assert not any(is_data(name) for name in (".git", "._0.png", "__MACOSX", "Thumbs.db", "lost+found", "@eaDir"))


def test_hidden_folders_are_no_classes_and_hold_no_images(tmp_path):
    images = list_images(data_cases.with_hidden_folders(tmp_path), "train")
    assert images.classes == data_cases.CLASSES
    assert len(images) == 18
    assert images.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert images.passed_over == {HIDDEN: 5}


def test_a_data_set_in_a_hidden_folder_is_data(tmp_path):
    assert len(list_images(data_cases.image_folder(tmp_path / ".cache" / "data"), "train")) == 18


def test_links_are_followed_but_not_in_circles(tmp_path):
    images = list_images(data_cases.with_loops(tmp_path), "train")
    assert images.classes == data_cases.CLASSES
    linked = [path for path in images.paths if "linked" in path]
    assert linked == ["c-third/one/other/linked.png"]
    assert len(images) == 19
    assert images.passed_over[LOOPS] == 4  # again, all, everything, other/one
    assert images.passed_over["without a suffix"] == 1  # a link to itself is no folder


def test_a_folder_of_images_elsewhere_may_be_a_class(tmp_path):
    data_cases.image_folder(tmp_path / "store")
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "b").symlink_to(tmp_path / "store" / "train" / "b-second")
    assert list_images(tmp_path / "data", "train").paths == tuple(f"b/{i}.png" for i in range(6))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_an_error(tmp_path):
    (tmp_path / "a").mkdir(mode=0o000)
    with pytest.raises(UserError, match="a cannot be read"):
        list(files_below(tmp_path, {".png"}, Counter()))


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"none cannot be read \(No such file or directory\)"):
        subfolders(tmp_path / "none", Counter())


def test_descriptions_begin_with_the_most_frequent_kind():
    assert describe(Counter({".txt": 1, HIDDEN: 3})) == f"3 {HIDDEN}, 1 .txt"
    assert describe(Counter({f".{i}": 1 for i in range(12)})).endswith("4 more kinds")
