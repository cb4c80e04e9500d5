"""Photographs or icons out of Debian packages, as image folders of small squares for experiments.

    python -m dataset.debian_pictures photographs --output data/photographs_64
    python -m dataset.debian_pictures photographs --by_picture --output data/photographs_64_by_picture
    python -m dataset.debian_pictures icons --output data/icons_64
    python -m dataset.debian_pictures folder --source PICTURES --output data/my_crops_64

Photographs are cut into crops at random places and scales. Every fifth picture is kept for validation, so that no
validation crop shows a picture of the training. The licences are in the packages (usr/share/doc/*/copyright):
GPL-2+ (mate-backgrounds), CC-BY 4.0, CC-BY-SA 3.0 and 4.0, CC0 (lomiri-wallpapers), LGPL-3+ (oxygen-icon-theme).
"""

import argparse
import io
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.debian_package import SOURCE_ERRORS, DebianPackage, download, unpack, verified
from dataset.decode import IMAGE_SUFFIXES, BadImage, read_rgb
from dataset.listing import files_below
from utils.arguments import HelpFormatter, at_least, file_path
from utils.atomic import atomic_folder
from utils.errors import UserError, entry_point
from utils.folder_lock import exclusive_lock
from utils.progress import tqdm

MATE = DebianPackage(
    "m/mate-backgrounds/mate-backgrounds_1.26.0-1_all.deb",
    "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
)
LOMIRI_16 = DebianPackage(
    "l/lomiri-wallpapers/lomiri-wallpapers-16.04_20.04.0-2_all.deb",
    "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
)
LOMIRI_20 = DebianPackage(
    "l/lomiri-wallpapers/lomiri-wallpapers-20.04_20.04.0-2_all.deb",
    "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709",
)
OXYGEN = DebianPackage(
    "o/oxygen-icons5/oxygen-icon-theme_5.103.0-1_all.deb",
    "3e49023e148906e41457a98a19a09858ddd761ef4f212fa356232924b3cebcce",
)
DRAWINGS = ("analogpattern", "umang", "Fossa", "Painting-Colors")  # in the packages of photographs
SPLITS = ("train", "val")
KEPT_FOR_VALIDATION = 5  # one picture in this many
WHITE = (255, 255, 255)
Make = Callable[[Image.Image, int, np.random.Generator], Image.Image]  # an image of this size out of a picture


def _wanted_photograph(path: str) -> bool:
    below = path.partition("usr/share/backgrounds/")[2]
    in_folder = "/" not in below or below.startswith("mate/nature/")
    return below.endswith(".jpg") and in_folder and not Path(path).name.startswith(DRAWINGS)


def _wanted_icon(path: str) -> bool:
    return "/base/128x128/" in path and path.endswith(".png")


PACKAGES = {
    "photographs": ((MATE, LOMIRI_16, LOMIRI_20), _wanted_photograph),
    "icons": ((OXYGEN,), _wanted_icon),
}


def fetch(kind: str) -> list[Image.Image]:
    """The pictures of a kind, in the order of their paths. Raises UserError."""
    packages, wanted = PACKAGES[kind]
    found: dict[str, bytes] = {}
    for package in packages:
        try:
            found.update(unpack(verified(download(package.url), package.sha256, package.url), wanted))
        except SOURCE_ERRORS as error:
            raise UserError(
                f"{package.url}: {error}. Pictures of your own will do: `folder --source FOLDER`"
            ) from error
    return [Image.open(io.BytesIO(found[path])) for path in sorted(found)]


def read_folder(source: Path) -> list[Image.Image]:
    paths = [source / path for path in sorted(files_below(source, IMAGE_SUFFIXES, Counter()))]
    if len(paths) < KEPT_FOR_VALIDATION:
        raise UserError(f"{source} holds {len(paths)} pictures, but at least {KEPT_FOR_VALIDATION} are needed")
    return [_read(path) for path in paths]


def _read(path: Path) -> Image.Image:
    try:
        return read_rgb(path)
    except BadImage as error:
        raise UserError(f"{path} cannot be read ({error}): remove it") from error


def crop(picture: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A square at a random place, (size, size). Its side is log-uniform between `size` and the shorter side."""
    shorter = min(picture.size)
    side = round(math.exp(rng.uniform(math.log(min(size, shorter)), math.log(shorter))))
    left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
    return picture.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side), reducing_gap=3)


def on_background(icon: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """An icon, at 60 to 100 % of the image's side and at a random place, on white or on a random colour."""
    side = int(rng.integers(round(0.6 * size), size + 1))
    colour = WHITE if rng.random() < 0.5 else tuple(int(c) for c in rng.integers(0, 256, 3))
    left, top = (int(v) for v in rng.integers(0, size - side + 1, 2))
    small = icon.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)
    image = Image.new("RGB", (size, size), colour)
    image.paste(small, (left, top), small)
    return image


def held_out(pictures: list[Image.Image]) -> tuple[list[Image.Image], list[Image.Image]]:
    """Pictures for training, pictures for validation."""
    return [p for i, p in enumerate(pictures) if i % KEPT_FOR_VALIDATION], pictures[::KEPT_FOR_VALIDATION]


def write_split(
    pictures: list[Image.Image], make: Make, folder: Path, count: int, size: int, seed: int, by_picture: bool
) -> None:
    """Write `count` images, equally many of each picture. The folder appears when it is complete.

    by_picture: a class folder for each picture, not one for all.
    """
    rng = np.random.default_rng(seed)
    classes = [f"{i:04d}" if by_picture else "pictures" for i in range(len(pictures))]
    with atomic_folder(folder) as part:
        for name in set(classes):
            (part / name).mkdir()
        for i in tqdm(range(count), desc=f"writing {folder.name}", mininterval=1.0):
            image = make(pictures[i % len(pictures)], size, rng)
            image.save(part / classes[i % len(pictures)] / f"{i:06d}.png", compress_level=1)


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    parser.add_argument("kind", choices=("photographs", "icons", "folder"), help="folder: pictures of your own")
    parser.add_argument("--source", type=file_path, help="with `folder`: where the pictures are, at any depth")
    parser.add_argument("--output", type=file_path, required=True, help="image folder to write")
    parser.add_argument("--size", type=at_least(1), default=64, help="side of the images in pixels")
    parser.add_argument("--count", type=at_least(1), default=20000, help="training images; a tenth for val")
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of places and scales")
    parser.add_argument(
        "--by_picture",
        action="store_true",
        help="a class for each training picture, in both splits: for a classifier that tells them apart",
    )
    args = parser.parse_args()
    if (args.kind == "folder") != (args.source is not None):
        raise UserError("--source belongs to the kind `folder`, and `folder` needs it")
    folders = {split: args.output / split for split in SPLITS}
    if all(folder.is_dir() for folder in folders.values()):
        print(f"{args.output} is complete")
        return
    with exclusive_lock(args.output):
        pictures = read_folder(args.source) if args.kind == "folder" else fetch(args.kind)
        if args.kind == "photographs":
            pictures = [picture.convert("RGB") for picture in pictures]
        make = on_background if args.kind == "icons" else crop
        training, validation = held_out(pictures)
        if args.by_picture:
            validation = training
        print(f"{len(training)} pictures for training, {len(validation)} for validation")
        jobs = (("train", training, args.count), ("val", validation, max(1, args.count // 10)))
        for number, (split, chosen, count) in enumerate(jobs):
            if not folders[split].is_dir():
                write_split(chosen, make, folders[split], count, args.size, args.seed + number, args.by_picture)


if __name__ == "__main__":
    main()
