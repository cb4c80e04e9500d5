"""One numbering of the classes, by name."""

import numpy as np
import pytest

from dataset.classes import class_numbers
from dataset.code_dataset import CachedCodes
from dataset.images import list_images
from dataset.token_cache.reader import open_token_cache
from tests.support import data_cases, toy
from utils.errors import UserError

LABELS = np.array([0, 1, 1])


def test_classes_keep_their_names():
    assert class_numbers(LABELS, ("b", "c"), ("a", "b", "c"), "val", "train").tolist() == [1, 2]
    assert class_numbers(LABELS, ("c", "a"), ("a", "b", "c"), "val", "train").tolist() == [2, 0]


def test_an_unknown_class_is_an_error_if_it_has_images():
    with pytest.raises(UserError, match=r"class 'dogs' of val is not among the 2 classes of train; did you mean 'dog'"):
        class_numbers(LABELS, ("cat", "dogs"), ("cat", "dog"), "val", "train")
    assert class_numbers(LABELS, ("cat", "dog", "empty"), ("cat", "dog"), "val", "train").tolist() == [0, 1, -1]


def test_names_that_are_numbers():
    """Padded or not, in any order; beside real names they are positions."""
    assert class_numbers(LABELS, ("02", "10"), ("0", "1", "10", "2"), "val", "train").tolist() == [3, 2]
    assert class_numbers(LABELS, ("0", "1"), ("cat", "dog"), "val", "train").tolist() == [0, 1]
    with pytest.raises(UserError, match=r"val has 2 classes, train 3, and only one of them names its classes"):
        class_numbers(LABELS, ("0", "1"), ("cat", "dog", "cow"), "val", "train")


def test_a_split_without_a_class_is_numbered_like_the_training_split(tmp_path):
    data_cases.split_without_class(tmp_path)
    training, held_out = (list_images(tmp_path, split) for split in ("train", "val"))
    assert held_out.labels.tolist() == [0] * 6 + [1] * 6
    numbered = held_out.numbered_like(training)
    assert numbered.labels.tolist() == [1] * 6 + [2] * 6
    assert numbered.classes == training.classes
    with pytest.raises(UserError, match=r"class 'a-first' of .*train is not among the 2 classes of .*val"):
        training.numbered_like(held_out)


def test_cached_codes_take_the_numbers_of_other_names(tmp_path):
    cache = open_token_cache(toy.write_token_cache(tmp_path / "cache", 8))
    rows, numbers = np.arange(4), np.arange(4)
    batch = CachedCodes(cache, classes=("z", "d", "c", "b", "a"))[rows, np.zeros((4, 3)), numbers]
    assert batch.class_ids.tolist() == [4, 3, 2, 1]
    with pytest.raises(UserError, match=r"class 'd' of .*cache is not among the 3 classes of the training data"):
        CachedCodes(cache, classes=("a", "b", "c"))
