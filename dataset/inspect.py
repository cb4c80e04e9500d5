"""Say what a data set holds before anyone trains on it: images, classes, sizes, modes, files that cannot be decoded.

python -m dataset.inspect data/imagenet
python -m dataset.inspect imagenet-object-localization-challenge.zip --split val --images all --num_workers 8
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from dataset.crops import center_crop
from dataset.data_order import evenly_spaced
from dataset.decode import FORMATS, ORIENTATION, BadImage, read_rgb
from dataset.images import ImageList, NoSuchSplit, list_images, to_float, to_uint8
from utils.arguments import at_least, file_path
from utils.errors import UserError, entry_point, first_line, warn
from utils.images import grid, labelled_rows, save_png
from utils.output_file import PNG, output_file
from utils.progress import tqdm
from utils.workers import Loader

SPLITS = ("train", "val", "test")
SAMPLED = 1000  # images that are decoded, unless the command line says otherwise
MAX_LISTED = 10  # classes, sizes or files in a line
SHEET_CLASSES, SHEET_COLUMNS, THUMBNAIL = 12, 10, 96  # rows and columns of the contact sheet, pixels
MAX_NAME = 30  # characters of a class name beside its row


class Facts(NamedTuple):
    """About one image; `error` is empty if it can be decoded."""

    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)  # width, height
    turned: bool = False
    transparent: bool = False
    error: str = ""


class Inspection(Dataset):
    """Facts about images, each by its index in the list."""

    def __init__(self, images: ImageList):
        self.images = images

    def __getitem__(self, index: int) -> tuple[int, Facts]:
        try:
            read_rgb(self.images.file(index))  # first: it says best what is wrong
            with Image.open(self.images.file(index), formats=FORMATS) as image:
                facts = Facts(image.format, image.mode, image.size, transparent=image.has_transparency_data)
                with suppress(Exception):  # damaged EXIF data do no harm
                    facts = facts._replace(turned=image.getexif().get(ORIENTATION, 1) != 1)
            return index, facts
        except Exception as error:  # decoders raise anything for damaged files
            return index, Facts(error=first_line(error))


def inspect(images: ImageList, count: int | None, num_workers: int) -> dict[int, Facts]:
    """Facts about `count` images, evenly spaced over the classes; None: all. By index."""
    chosen = evenly_spaced(len(images), count or len(images)).tolist()
    loader = Loader(Inspection(images), batch_size=None, sampler=chosen, num_workers=num_workers)
    return dict(tqdm(loader, "decoding", total=len(chosen), leave=False, mininterval=1.0))


def class_lines(images: ImageList) -> list[str]:
    """Number of classes and of their images; the classes themselves if they are few."""
    counts = np.bincount(images.labels, minlength=len(images.classes))
    spread = f"{counts.min()} to {counts.max()} images each, median {int(np.median(counts))}"
    lines = [f"{len(images)} images in {len(images.classes)} classes: {spread}"]
    order = np.argsort(counts, kind="stable")
    parts = {"": range(len(counts))} if len(counts) <= MAX_LISTED else {"fewest: ": order[:5], "most: ": order[:-6:-1]}
    for title, numbers in parts.items():
        lines.append(title + ", ".join(f"{n} {images.classes[n]} ({counts[n]})" for n in numbers))
    return lines


def file_lines(images: ImageList, facts: dict[int, Facts]) -> list[str]:
    """Formats, modes and sizes of the inspected images, and those that cannot be decoded."""
    good = [found for found in facts.values() if not found.error]
    bad = {index: found.error for index, found in facts.items() if found.error}
    scope = "all" if len(facts) == len(images) else f"{len(facts)} of {len(images)}"
    lines = [f"decoded {scope} images: {len(bad)} cannot be decoded"]
    lines += [f"  {images.path(index)}: {error}" for index, error in list(bad.items())[:MAX_LISTED]]
    lines += [f"  and {len(bad) - MAX_LISTED} more"] if len(bad) > MAX_LISTED else []
    if good:
        lines.append(f"formats: {_frequent(found.format for found in good)}")
        lines.append(f"modes: {_frequent(found.mode for found in good)}")
        sides = np.array([found.size for found in good])
        spread = [f"{side.min()} to {side.max()}, median {int(np.median(side))}" for side in sides.T]
        lines.append(f"width: {spread[0]}; height: {spread[1]}")
        lines.append(f"sizes: {_frequent(f'{w}x{h}' for w, h in sides)}")
        for name, what in (("turned", "are turned by their EXIF tag"), ("transparent", "have transparency")):
            count = sum(getattr(found, name) for found in good)
            lines += [f"{count} {what}"] if count else []
    return lines


def _frequent(values) -> str:
    counts = Counter(values)
    listed = [f"{value} ({count})" for value, count in counts.most_common(MAX_LISTED)]
    return ", ".join(listed + ([f"{len(counts) - MAX_LISTED} others"] if len(counts) > MAX_LISTED else []))


def contact_sheet(images: ImageList) -> Image.Image:
    """Centre crops as trainings see them: a row for each of some classes; grey where an image cannot be decoded."""
    used = np.unique(images.labels)
    chosen = used[evenly_spaced(len(used), SHEET_CLASSES)]
    rows = []
    for number in chosen:
        members = np.flatnonzero(images.labels == number)
        crops = [_thumbnail(images, int(i)) for i in members[evenly_spaced(len(members), SHEET_COLUMNS)]]
        rows += crops + [torch.ones_like(crops[0])] * (SHEET_COLUMNS - len(crops))
    picture = grid(torch.stack(rows), columns=SHEET_COLUMNS)
    return labelled_rows(picture, [images.classes[number][:MAX_NAME] for number in chosen])


def _thumbnail(images: ImageList, index: int) -> torch.Tensor:
    try:
        return to_float(to_uint8(center_crop(images.read(index), THUMBNAIL)))
    except BadImage:
        return torch.full((3, THUMBNAIL, THUMBNAIL), 0.5)


def splits_of(data_path: str, split: str | None) -> dict[str, ImageList]:
    """The split that was asked for, or all that can be listed. Raises UserError if there is none.

    ImageNet's test images, for one, have no classes.
    """
    found = {}
    for name in [split] if split else SPLITS:
        try:
            found[name] = list_images(data_path, name)
        except NoSuchSplit:
            continue
        except UserError as error:
            if split:
                raise
            warn(f"{name} is left out: {error}")
    if not found:
        raise UserError(f"{data_path} holds no split {split or ', '.join(SPLITS)}: docs/data.md names the layouts")
    return found


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data_path", metavar="PATH", help="a data set as for dataset.params.data_path")
    add("--split", help=f"only this split (default: those of {', '.join(SPLITS)} that are there)")
    count = lambda text: None if text == "all" else at_least(1)(text)  # noqa: E731
    add("--images", type=count, default=SAMPLED, help=f"decode this many of each split, or all (default: {SAMPLED})")
    add("--num_workers", type=at_least(0), default=4, help="decoding processes (default: 4)")
    add("--sheet", type=file_path, default=Path("contact_sheet.png"), help="PNG to write (default: contact_sheet.png)")
    return parser.parse_args(argv)


@entry_point
def main() -> None:
    args = parse_arguments()
    found = splits_of(args.data_path, args.split)
    several = len(found) > 1
    sheets = {s: args.sheet.with_name(f"{args.sheet.stem}_{s}.png") if several else args.sheet for s in found}
    with ExitStack() as places:
        for sheet in sheets.values():
            places.enter_context(output_file(sheet, "--sheet", PNG))
        for split, images in found.items():
            print(f"\n{split}: {images.root}")
            for line in class_lines(images) + file_lines(images, inspect(images, args.images, args.num_workers)):
                print(line)
        for split, sheet in sheets.items():
            save_png(contact_sheet(found[split]), sheet)
            print(f"wrote {sheet}")
    training = found.get("train")
    for split, images in found.items():
        if training is not None and split != "train":
            images.numbered_like(training)  # raises for a class that the training split lacks
            missing = len(training.classes) - len(np.unique(images.labels))
            print(f"\n{split}: its classes are among those of train" + (f", without {missing}" if missing else ""))


if __name__ == "__main__":
    main()
