"""Data sets as people bring them: small inputs with what goes wrong in practice."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("a-first", "b-second", "c-third")
RESOURCE_FORK = bytes.fromhex("00051607 00020000") + b"Mac OS X        " + bytes(50)


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A bright rectangle on black. size: width, height."""
    rng = np.random.default_rng(seed)
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = rng.integers(0, (height // 2, width // 2))
    pixels[top : top + height // 2, left : left + width // 2] = rng.integers(60, 255, 3)
    return Image.fromarray(pixels)


def image_folder(root: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 6) -> Path:
    """Three classes of `count` PNG files of 32x32 pixels. Returns `root`."""
    for s, split in enumerate(splits):
        for c, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(100 * s + 10 * c + i).save(folder / f"{i}.png")
    return root


def with_hidden_folders(root: Path) -> Path:
    """Copies of images in folders that editors and archivers leave behind."""
    image_folder(root)
    for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "c-third/.ipynb_checkpoints", "a-first/__MACOSX/deep"):
        (root / "train" / folder).mkdir(parents=True)
        picture(1).save(root / "train" / folder / "0-checkpoint.png")
    return root


def with_resource_forks(root: Path) -> Path:
    image_folder(root)
    for name in ("0.png", "1.png"):
        (root / "train" / "a-first" / f"._{name}").write_bytes(RESOURCE_FORK)
    (root / "train" / ".DS_Store").touch()
    (root / "train" / "b-second" / "Thumbs.db").touch()
    return root


def with_loops(root: Path) -> Path:
    """Folders that link to themselves, to each other, and to the whole; and an honest link."""
    image_folder(root)
    train = root / "train"
    (train / "a-first" / "again").symlink_to(train / "a-first")
    (train / "a-first" / "all").symlink_to(root)
    (train / "everything").symlink_to(train)
    (train / "b-second" / "self").symlink_to(train / "b-second" / "self")
    one, other = root / "one", root / "other"
    one.mkdir()
    other.mkdir()
    (one / "other").symlink_to(other)
    (other / "one").symlink_to(one)
    picture(1).save(other / "linked.png")
    (train / "c-third" / "one").symlink_to(one)
    return root


def deep_pixels(root: Path) -> Path:
    """Grey ramps: 16 bits in PNG, TIFF and PGM, 32-bit integers, floats in [0, 1]."""
    ramp = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1))
    folder = root / "train" / "a-first"
    folder.mkdir(parents=True)
    Image.fromarray(ramp).save(folder / "0-16bit.png")
    Image.fromarray(ramp).save(folder / "1-16bit.tif")
    (folder / "2-16bit.pgm").write_bytes(b"P5 32 32 65535\n" + ramp.astype(">u2").tobytes())
    Image.fromarray(ramp.astype(np.int32)).save(folder / "3-int32.tif")
    Image.fromarray((ramp / 65535).astype(np.float32)).save(folder / "4-float.tif")
    return root


def split_without_class(root: Path) -> Path:
    image_folder(root)
    shutil.rmtree(root / "val" / "a-first")
    return root


def other_suffixes(root: Path) -> Path:
    """Images that Pillow reads under rarer names, in a class of their own too; a note beside them."""
    image_folder(root, ("train",))
    for i in range(3):
        picture(50 + i).convert("L").save(root / "train" / "a-first" / f"x{i}.pgm", format="PPM")
        picture(60 + i).save(root / "train" / "b-second" / f"x{i}.jfif", format="JPEG")
        picture(70 + i).save(root / "train" / "c-third" / f"x{i}.JPE", format="JPEG")
    (root / "train" / "d-fourth").mkdir()
    picture(80).convert("L").save(root / "train" / "d-fourth" / "only.pgm", format="PPM")
    (root / "train" / "a-first" / "notes.txt").touch()
    (root / "train" / "e-empty").mkdir()
    return root
