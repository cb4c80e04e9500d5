"""Images for tokenizer training and validation."""

import numpy as np
import pytest
import torch

from dataset.crops import random_crop, resize_center_crop
from dataset.decode import read_rgb
from dataset.image_dataset import CenterCrops, TrainingImages, read_or_next, stack_decoded
from dataset.images import ImageList, list_images, to_uint8
from tests.support import toy
from utils.errors import UserError


@pytest.fixture
def images(tmp_path) -> ImageList:
    return list_images(toy.write_images(tmp_path, per_class=3, splits=("train",)), "train")


def test_training_images_are_random_crops(images):
    uniforms = np.random.default_rng(0).random((2, 3))
    batch = TrainingImages(images, 16, flip=True)[np.array([4, 7]), uniforms, np.array([0, 1])]
    assert batch.images.shape == (2, 3, 16, 16)
    for i, (index, u) in enumerate(zip([4, 7], uniforms, strict=True)):
        expected = random_crop(read_rgb(images.path(index)), 16, tuple(u), flip=True)
        assert torch.equal(batch.images[i], to_uint8(expected))
    assert batch.indices.tolist() == [4, 7]
    assert batch.failures == []


def test_the_next_decodable_image_takes_the_place_of_a_bad_one(images):
    for index in (10, 11):
        images.path(index).write_bytes(b"no image")
    batch = TrainingImages(images, 16, flip=True)[np.array([10]), np.zeros((1, 3)), np.array([0])]
    assert batch.indices.tolist() == [0]  # the list is searched in a circle
    assert [index for index, _ in batch.failures] == [10, 11]


def test_many_bad_files_in_a_row_raise(images):
    for index in range(len(images)):
        images.path(index).write_bytes(b"no image")
    failures = []
    with pytest.raises(UserError, match=r"12 files in a row cannot be decoded, the last one is .*Is the disk there"):
        read_or_next(images, 3, failures)
    assert len(failures) == 12


def test_center_crops(images, capfd):
    crops = CenterCrops(images, 16)
    assert torch.equal(crops[2], to_uint8(resize_center_crop(read_rgb(images.path(2)), 16)))
    images.path(2).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot be decoded .*: fix or remove it"):
        crops[2]
    skipping = CenterCrops(images, 16, skip_bad=True)
    assert skipping[2] is None
    assert "cannot be decoded" in capfd.readouterr().out
    assert stack_decoded([skipping[i] for i in (1, 2, 3)]).shape == (2, 3, 16, 16)
    assert stack_decoded([None, None]) is None
