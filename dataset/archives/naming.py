"""The class of each image in an archive, and its path in the list of images.

<class>/.../<file>          below a folder named like the split, if the archive has one; the path is the same as in
                            an image folder, so list, order and token cache are too
<key>.jpg and <key>.cls     webdataset; the class is the text of the .cls file, most often a number
n01440764_10026.JPEG        without folders: ImageNet's synset
<class>.tar                 without any of these: the archive's own name
ILSVRC2012_val_....JPEG     ImageNet's validation images, by a file with their labels
"""

import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from dataset.archives.imagenet_labels import EXPECTED, FLAT_NAME
from dataset.archives.locate import Archives
from dataset.archives.members import Member
from dataset.decode import IMAGE_SUFFIXES
from dataset.listing import HIDDEN, is_data, suffix
from utils.errors import UserError

SYNSET_NAME = re.compile(r"(n\d{8})_")
SHARD_NAME = re.compile(r"(.*[-_.])?\d+")  # train-000123: no class
NAMED_SUFFIXES = IMAGE_SUFFIXES | {".cls", ".tar"}  # other files may lie anywhere
MAX_CLASS_BYTES = 1024  # of a .cls file


class Entry(NamedTuple):
    """An image in an archive."""

    class_name: str
    path: str  # in the list of images
    start: int
    size: int
    deflated: bool


def name_members(
    found: list[tuple[str, Member]],
    archive: Path,
    archives: Archives,
    flat_classes: Callable[[], Mapping[int, str]],
    passed_over: Counter[str],
) -> list[Entry]:
    """The images of one archive.

    found: what `in_split` gives.
    flat_classes: called for the classes of ImageNet's validation images, if there are any.
    passed_over: counts the rest. Raises UserError for an image without a class.
    """
    classes = {_key(name): member for name, member in found if suffix(name) == ".cls"}
    images = []
    for name, member in found:
        # A webdataset sample may have more pictures, as <key>.mask.png.
        kind = f".{os.path.basename(name).lower().partition('.')[2]}" if classes else suffix(name)
        if kind in IMAGE_SUFFIXES:
            images.append((name, member))
        elif kind != ".cls":
            passed_over[kind if kind != "." else "without a suffix"] += 1
    if classes:
        return _webdataset(images, classes, archive)
    return [
        Entry(*_class_and_path(name, archive, archives, flat_classes), member.start, member.size, member.deflated)
        for name, member in images
    ]


def name_class_tar(members: list[Member], class_name: str, passed_over: Counter[str]) -> list[Entry]:
    """The images of a tar archive inside of another one, which is named for their class."""
    found = []
    for member in members:
        name = member.name.removeprefix("./")
        if not all(map(is_data, name.split("/"))):
            passed_over[HIDDEN] += 1
        elif suffix(name) in IMAGE_SUFFIXES:
            found.append(Entry(class_name, f"{class_name}/{name}", member.start, member.size, False))
        else:
            passed_over[suffix(name) or "without a suffix"] += 1
    return found


def in_split(members: list[Member], archives: Archives, passed_over: Counter[str]) -> list[tuple[str, Member]]:
    """The members of the split by their names below its folder.

    An archive that belongs whole to the split may lack the folder, and then every member counts by its whole name.
    Of several folders with the split's name in another archive the highest one counts: a deeper one is a class.
    """
    rows = []
    for member in members:
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        place = next((i for i, part in enumerate(parts[:-1]) if part in archives.names), None)
        if not archives.whole and place is None:
            continue
        if not all(map(is_data, parts)):
            passed_over[HIDDEN] += 1
            continue
        rows.append((parts, place, member))
    places = {place for _, place, member in rows if suffix(member.name) in NAMED_SUFFIXES}
    if archives.whole and None in places:
        return [("/".join(parts), member) for parts, _, member in rows]
    if not archives.whole:
        highest = min(places, default=None)
        rows = [row for row in rows if row[1] == highest]
    return [("/".join(parts if place is None else parts[place + 1 :]), member) for parts, place, member in rows]


def _key(name: str) -> str:
    """What the files of a webdataset sample share: the path up to the first dot of the file's name."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _webdataset(images: list[tuple[str, Member]], classes: dict[str, Member], archive: Path) -> list[Entry]:
    texts: dict[str, str] = {}
    with archive.open("rb") as file:
        for key, member in classes.items():
            data = os.pread(file.fileno(), min(member.size, MAX_CLASS_BYTES + 1), member.start)
            if member.deflated:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MAX_CLASS_BYTES + 1)
            if len(data) > MAX_CLASS_BYTES:
                raise UserError(f"{archive}: {member.name} has more than {MAX_CLASS_BYTES} bytes, no class")
            texts[key] = data.decode(errors="replace").strip().replace("/", "_")
    entries = []
    for name, member in images:
        class_name = texts.get(_key(name))
        if not class_name:
            raise UserError(f"{archive}: {name} has no class: {_key(name).lstrip('/')}.cls is missing or empty")
        # Keys may begin again in each shard.
        path = f"{class_name}/{archive.stem}/{name}"
        entries.append(Entry(class_name, path, member.start, member.size, member.deflated))
    return entries


def _class_and_path(
    name: str, archive: Path, archives: Archives, flat_classes: Callable[[], Mapping[int, str]]
) -> tuple[str, str]:
    class_name, slash, _ = name.partition("/")
    if slash:
        return class_name, name
    if match := SYNSET_NAME.match(name):
        return match[1], f"{match[1]}/{name}"
    if match := FLAT_NAME.match(name):
        class_name = flat_classes().get(int(match[1]), "")
        if not class_name:
            raise UserError(f"{archive}: no class for {name}: put {EXPECTED} beside it")
        return class_name, f"{class_name}/{name}"
    if archives.class_tars and not SHARD_NAME.fullmatch(archive.stem):
        return archive.stem, f"{archive.stem}/{name}"
    raise UserError(f"{archive}: {name} has no class: it lies in no folder, and there is no .cls file (docs/data.md)")
