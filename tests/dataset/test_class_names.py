"""Names of the classes beside a generator's weights."""

import pytest

from dataset.class_names import CLASSES_FILE, class_id, class_names, keep_class_names
from utils.errors import UserError


def test_names_of_class_folders(tmp_path):
    keep_class_names(tmp_path, ("00-t-shirt", "n01440764", "7", "3d"))
    assert class_names(tmp_path, 4) == ["t-shirt", "n01440764", "class 7", "3d"]


def test_classes_without_names_are_numbered(tmp_path):
    assert class_names(tmp_path, 2) == ["class 0", "class 1"]
    keep_class_names(tmp_path, ["cat"])
    assert class_names(tmp_path, 3) == ["cat", "class 1", "class 2"]
    assert class_names(tmp_path / "checkpoints" / "step_00000001", 1) == ["cat"]


def test_a_thousand_identifiers_are_imagenets(tmp_path):
    assert class_names(tmp_path, 1000)[207] == "golden retriever"
    keep_class_names(tmp_path, [f"n{i:08d}" for i in range(1000)])
    assert class_names(tmp_path, 1000)[207] == "golden retriever"
    keep_class_names(tmp_path, [f"bird {i}" for i in range(1000)])
    assert class_names(tmp_path, 1000)[207] == "bird 207"


@pytest.mark.parametrize("text", ["{}", '{"classes": [1]}', "half"])
def test_a_damaged_file(text, tmp_path):
    (tmp_path / CLASSES_FILE).write_text(text)
    with pytest.raises(UserError, match=r"classes\.json .*: remove it"):
        class_names(tmp_path, 2)


def test_classes_by_name_and_number(tmp_path):
    keep_class_names(tmp_path, ("00-T-shirt", "01-bag", "02-bag", "7"))
    assert [class_id(text, tmp_path, 4) for text in ("t-shirt", " 01-bag ", "3", "class 7")] == [0, 1, 3, 3]
    assert class_id("Siberian Husky", tmp_path / "imagenet", 1000) == 250


@pytest.mark.parametrize(
    ("text", "num_classes", "message"),
    [
        ("golden retreiver", 1000, "did you mean 'golden retriever'"),
        ("crane", 1000, "names the classes 134, 517"),
        ("1000", 1000, "out of range"),
        ("-1", 1000, "out of range"),
        ("tench", 10, "no class of .* is named 'tench'"),
    ],
)
def test_unknown_classes(text, num_classes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        class_id(text, tmp_path, num_classes)
