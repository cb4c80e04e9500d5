"""Listing and decoding image folders."""

import numpy as np
import pytest
from PIL import Image

from dataset.decode import BadImage, read_rgb
from dataset.images import ImageList, NoSuchSplit, list_images, to_float, to_uint8
from utils.errors import UserError


def test_every_mode_decodes_to_rgb(tmp_path):
    for mode in ("L", "CMYK", "P", "RGBA", "1", "I;16"):
        path = tmp_path / f"{mode.replace(';', '')}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (8, 8)).save(path)
        assert read_rgb(path).mode == "RGB"
    misnamed = tmp_path / "misnamed.JPEG"  # as one of ImageNet's
    Image.new("RGB", (8, 8)).save(misnamed, format="PNG")
    assert read_rgb(misnamed).size == (8, 8)


def test_listing(tmp_path):
    for name in ("b/2.png", "b/1.JPEG", "a/deep/er/3.png", "a/notes.txt"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    images = list_images(tmp_path, "train")
    assert images.classes == ("a", "b")
    assert images.paths == ("a/deep/er/3.png", "b/1.JPEG", "b/2.png")
    assert images.labels.tolist() == [0, 1, 1]


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match=r"not found: .*expected .*<class>/<image>"):
        list_images(tmp_path / "nowhere", "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="did you mean 'train'"):
        list_images(tmp_path, "tarin")
    with pytest.raises(UserError, match="holds no images"):
        list_images(tmp_path, "train")
    (tmp_path / "train" / "a").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        list_images(tmp_path, "train")


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_without_class_folders_there_is_one_class(tmp_path):
    touch(tmp_path, "train/2.png", "train/1.jpg", "train/notes.txt", "train/empty/folder/x.txt")
    images = list_images(tmp_path, "train")
    assert images.classes == ("all",)
    assert images.paths == ("1.jpg", "2.png")
    assert images.labels.tolist() == [0, 0]
    assert images.passed_over[".txt"] == 2
    with pytest.raises(NoSuchSplit):  # there is a split, so nothing is held out of it
        list_images(tmp_path, "val")


@pytest.mark.parametrize("folder", ["", "cats/"])
def test_without_splits_every_twentieth_image_is_held_out(tmp_path, folder, capfd):
    touch(tmp_path, *(f"{folder}{i:02d}.png" for i in range(41)))
    train, val = (list_images(tmp_path, split) for split in ("train", "validation"))
    assert val.paths == tuple(f"{folder}{i:02d}.png" for i in (0, 20, 40))
    assert len(train) == 38
    assert not {*train.paths} & {*val.paths}
    assert train.classes == val.classes == (("cats",) if folder else ("all",))
    assert capfd.readouterr().err.count("of its 41 images 3 are for validation, 38 for training") == 1
    with pytest.raises(NoSuchSplit):
        list_images(tmp_path, "test")


def test_folders_that_are_no_plain_folders(tmp_path):
    """A folder of data sets, and one image."""
    touch(tmp_path, "imagenet/train/a/1.png", "imagenet/train/a/2.png", "one/1.png")
    with pytest.raises(NoSuchSplit):
        list_images(tmp_path, "train")
    with pytest.raises(UserError, match="holds one image"):
        list_images(tmp_path / "one", "train")


def test_truncated_files_are_not_decoded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for suffix in ("png", "jpg"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(BadImage):
            read_rgb(path)


def test_evenly_spaced_images_keep_their_labels(tmp_path):
    images = ImageList(tmp_path, ("a", "b"), tuple(f"{i}" for i in range(10)), np.arange(10) // 5)
    some = images.evenly_spaced(4)
    assert some.paths == ("0", "3", "6", "9")
    assert some.labels.tolist() == [0, 0, 1, 1]
    assert some.fingerprint() != images.fingerprint()
    assert images.evenly_spaced(20).fingerprint() == images.fingerprint()


def test_pixels_in_tensors():
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    pixels = to_uint8(image)
    assert pixels.shape == (3, 2, 4)
    assert pixels[1, 1, 2] == (1 * 4 + 2) * 3 + 1
    assert to_float(pixels).max() == pytest.approx(23 / 255)
