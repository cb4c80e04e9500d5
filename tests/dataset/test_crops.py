"""Crops, against torchvision and a direct transcription of ADM's rule."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from dataset.crops import center_crop, cut_views, random_crop, resize_center_crop, source_size
from dataset.images import to_uint8

SIZES = [(40, 40), (64, 48), (48, 64), (200, 31), (31, 200), (9, 7), (400, 300)]


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def adm_rule(image: Image.Image, size: int) -> np.ndarray:
    """ADM's centre crop, transcribed with arrays for the last cut."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC)
    array = np.array(image)
    y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[y : y + size, x : x + size]


@pytest.mark.parametrize("size", SIZES)
def test_center_crop_is_adms(size):
    image = picture(*size)
    assert (np.array(center_crop(image, 20)) == adm_rule(image, 20)).all()


@pytest.mark.parametrize("size", SIZES)
def test_ten_crop_is_torchvisions(size):
    side = source_size(30, ten_crop=True)
    assert side == 33
    crop = center_crop(picture(*size), side)
    expected = torch.stack([to_uint8(c) for c in transforms.TenCrop(30)(crop)])
    assert torch.equal(cut_views(to_uint8(crop)[None], 30, ten_crop=True)[0], expected)


def test_published_ten_crop_geometry():
    assert source_size(256, ten_crop=True) == 281
    image = torch.arange(281 * 281).reshape(1, 1, 281, 281)
    views = cut_views(image, 256, ten_crop=True)[0, :, 0]
    corners = [int(v[0, 0]) for v in views]
    assert corners[:5] == [0, 25, 25 * 281, 25 * 281 + 25, 12 * 281 + 12]  # 12.5 rounds half to even
    mirrored = cut_views(image.flip(-1), 256, ten_crop=True)[0, :, 0]
    assert torch.equal(views[5:], mirrored[:5])


def test_two_views_without_ten_crop():
    image = to_uint8(picture(20, 20))[None]
    views = cut_views(image, 20, ten_crop=False)
    assert views.shape == (1, 2, 3, 20, 20)
    assert torch.equal(views[0, 0], image[0])
    assert torch.equal(views[0, 1], image[0].flip(-1))


def test_training_crop():
    image = picture(60, 40)
    whole = transforms.functional.resize(image, 20)
    assert whole.size == (30, 20)
    for u, left in ((0.0, 0), (0.999, 10)):
        crop = random_crop(image, 20, (0.5, u, 0.9), flip=True)
        assert (np.array(crop) == np.array(whole)[:, left : left + 20]).all()
        mirrored = random_crop(image, 20, (0.5, u, 0.1), flip=True)
        assert (np.array(mirrored) == np.array(crop)[:, ::-1]).all()
    assert resize_center_crop(image, 20).size == (20, 20)


def test_the_resize_of_titok():
    image, size = picture(60, 40), transforms.InterpolationMode.BICUBIC
    whole = transforms.functional.resize(image, 20, size)
    crop = random_crop(image, 20, (0.5, 0.0, 0.9), flip=True, resize="bicubic")
    assert (np.array(crop) == np.array(whole)[:, :20]).all()
    assert (np.array(resize_center_crop(image, 20, "bicubic")) == np.array(whole)[:, 5:25]).all()
    assert (np.array(resize_center_crop(image, 20)) != np.array(whole)[:, 5:25]).any()
