"""ImageNet's class names."""

import pytest

from dataset.imagenet_names import class_id
from utils.errors import UserError


def test_names_and_numbers():
    assert class_id("golden retriever", 1000) == 207
    assert class_id(" Siberian Husky", 1000) == 250
    assert class_id("999", 1000) == 999


@pytest.mark.parametrize(
    ("text", "num_classes", "message"),
    [
        ("golden retreiver", 1000, "did you mean 'golden retriever'"),
        ("crane", 1000, "names the classes 134, 517"),
        ("1000", 1000, "out of range"),
        ("-1", 1000, "out of range"),
        ("tench", 10, "only ImageNet's 1000 classes have names"),
    ],
)
def test_unknown_classes(text, num_classes, message):
    with pytest.raises(UserError, match=message):
        class_id(text, num_classes)
