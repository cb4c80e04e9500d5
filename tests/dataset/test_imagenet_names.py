"""ImageNet's class names."""

import pytest

from dataset.imagenet_names import class_id
from utils.errors import UserError


def test_imagenet_names():
    assert class_id("golden retriever", 1000) == 207
    assert class_id(" Siberian Husky", 1000) == 250
    assert class_id("999", 1000) == 999
    for text, message in (
        ("golden retreiver", "did you mean 'golden retriever'"),
        ("crane", "names the classes 134, 517"),
        ("1000", "out of range"),
        ("-1", "out of range"),
    ):
        with pytest.raises(UserError, match=message):
            class_id(text, 1000)
