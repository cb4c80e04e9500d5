"""Cached codes and random views: which view of which image."""

import numpy as np
import pytest
import torch

from dataset.code_dataset import CachedCodes, CodeSource, RandomViews
from dataset.crops import center_crop, cut_views
from dataset.decode import read_rgb
from dataset.images import list_images, to_uint8
from dataset.token_cache.reader import open_token_cache
from tests.support import toy


def first_views(dataset: CodeSource, indices: list[int]):
    return dataset[np.array(indices), np.zeros((len(indices), 3)), np.array(indices)]


@pytest.mark.parametrize(("view", "u"), [(0, 0.0), (0, 0.49), (1, 0.5), (1, 0.99)])
def test_cached_codes_of_a_view(tmp_path, view, u):
    cache = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24))
    indices, numbers = np.array([0, 9, 10, 23]), np.array([7, 8, 9, 2**40])
    batch = CachedCodes(cache)[indices, np.full((4, 3), u), numbers]
    assert batch.codes.tolist() == [cache.codes(i, view).tolist() for i in indices]
    assert batch.class_ids.tolist() == (indices % 4).tolist()
    assert batch.indices.tolist() == indices.tolist()
    assert batch.sample_numbers.tolist() == numbers.tolist()
    assert {x.dtype for x in (batch.codes, batch.class_ids, batch.indices, batch.sample_numbers)} == {torch.int64}
    assert batch.images is None
    assert batch.failures == []


def test_a_limit_takes_a_fixed_subset(tmp_path):
    cache = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24))
    limited = CachedCodes(cache, limit=5)
    assert len(limited) == 5
    batch = first_views(limited, list(range(5)))
    assert len(set(batch.indices.tolist())) == 5
    assert batch.codes.tolist() == [cache.codes(i, 0).tolist() for i in batch.indices.tolist()]
    assert batch.sample_numbers.tolist() == [0, 1, 2, 3, 4]
    assert first_views(CachedCodes(cache, limit=5), [3]).indices[0] == batch.indices[3]
    assert len(CachedCodes(cache, limit=100)) == 24


def test_random_views_are_the_ten_crops(tmp_path):
    images = list_images(toy.write_images(tmp_path, per_class=2, splits=("train",)), "train")
    dataset, numbers = RandomViews(images, toy.IMAGE_SIZE), np.array([5, 6])
    crop = to_uint8(center_crop(read_rgb(images.path(3)), 17))  # 1.1 * 16, rounded down
    expected = cut_views(crop[None], toy.IMAGE_SIZE, ten_crop=True)[0]
    for view in range(10):
        batch = dataset[np.array([3, 0]), np.array([[(view + 0.5) / 10], [0.0]]), numbers]
        assert torch.equal(batch.images[0], expected[view])
    assert batch.codes is None
    assert batch.class_ids.tolist() == images.labels[[3, 0]].tolist()
    assert batch.sample_numbers.tolist() == [5, 6]


def test_an_undecodable_image_is_replaced_and_reported(tmp_path):
    images = list_images(toy.write_images(tmp_path, per_class=2, splits=("train",)), "train")
    images.path(1).write_bytes(b"no image")
    batch = first_views(RandomViews(images, toy.IMAGE_SIZE), [0, 1])
    assert batch.indices.tolist() == [0, 2]
    assert batch.class_ids.tolist() == images.labels[[0, 2]].tolist()
    assert [index for index, _ in batch.failures] == [1]


def test_descriptions_and_fingerprints(tmp_path):
    cached = CachedCodes(open_token_cache(toy.write_token_cache(tmp_path / "cache", 24)))
    assert cached.describe([3, 5]) == "d/3.png, b/5.png"
    other = CachedCodes(open_token_cache(toy.write_token_cache(tmp_path / "other", 20)))
    assert cached.fingerprint() != other.fingerprint()
    assert cached.fingerprint() == CachedCodes(cached.cache).fingerprint()
