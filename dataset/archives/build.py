"""Read the tables of contents of all archives of a split, many at a time."""

import os
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from dataset.archives.imagenet_labels import read_classes
from dataset.archives.locate import TABLES, Archives
from dataset.archives.members import Member, tar_members, zip_members
from dataset.archives.naming import Entry, in_split, name_class_tar, name_members
from dataset.archives.places import Places
from dataset.archives.tables import table_rows
from dataset.classes import are_numbers
from dataset.listing import suffix
from utils.errors import UserError
from utils.progress import tqdm

MAX_THREADS = 16  # they wait for the disk most of the time


@dataclass(frozen=True)
class Listing:
    """The images of a split in archives, in the order of an image list."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray  # (n,) int64
    places: Places
    passed_over: Counter[str]


class Builder:
    """Lists the archives once; `copies` is the file for what has to be copied out of compressed tables.

    Where a file system has no locks several processes write it: each writes a file of its own, then renames it.
    """

    def __init__(self, archives: Archives, label_places: list[Path], copies: Path):
        self.archives = archives
        self.label_places = label_places
        self.copies = copies
        self._part = copies.with_name(f"{copies.name}.{socket.gethostname()}.{os.getpid()}.part")
        self.passed_over: Counter[str] = Counter()
        self.names: list[str] | None = None  # of the classes, if a table tells them
        self.numbered = False  # classes are numbers, and no names of folders
        self._lock = threading.Lock()
        self._copied = 0
        self.flat_classes = cache(self._read_flat_classes)

    def build(self) -> Listing:
        """Raises UserError for a damaged archive and for an image without a class."""
        try:
            listing = self._assemble(self._list())
            if self._copied:
                os.replace(self._part, self.copies)
            return listing
        finally:
            self._part.unlink(missing_ok=True)

    def _list(self) -> list[tuple[int, Entry]]:
        """The images of all archives, each with the number of its archive."""
        files = self.archives.files
        total = sum(path.stat().st_size for path in files)
        tables = any(path.suffix.lower() in TABLES for path in files)
        with (
            # Tables one after the other: the order of the copies is that of the files.
            ThreadPoolExecutor(1 if tables else MAX_THREADS) as threads,
            tqdm(
                total=total, unit="B", unit_scale=True, desc=f"indexing {files[0].name}", mininterval=1.0
            ) as self._bar,
        ):
            found = list(threads.map(self._list_archive, range(len(files))))
            nested = [(number, member) for number, (_, members) in enumerate(found) for member in members]
            inner = list(threads.map(lambda task: self._list_nested(*task), nested))
        rows = [(number, entry) for number, (entries, _) in enumerate(found) for entry in entries]
        return rows + [(number, entry) for (number, _), entries in zip(nested, inner, strict=True) for entry in entries]

    def _advance(self, count: int) -> None:
        with self._lock:
            self._bar.update(count)

    def _list_archive(self, number: int) -> tuple[list[Entry], list[Member]]:
        """The images of an archive, and the archives inside of it."""
        path, passed_over = self.archives.files[number], Counter()
        kind, nested = path.suffix.lower(), []
        if kind in TABLES:
            return self._list_table(path), []
        if kind == ".zip":
            members = list(zip_members(path, self._advance))
        else:
            members = list(tar_members(path, passed_over, advance=self._advance))
        found = in_split(members, self.archives, passed_over)
        if kind == ".tar":
            nested = [member for name, member in found if suffix(name) == ".tar"]
            found = [(name, member) for name, member in found if suffix(name) != ".tar"]
        entries = name_members(found, path, self.archives, self.flat_classes, passed_over)
        with self._lock:
            self.passed_over.update(passed_over)
            self.numbered |= any(suffix(name) == ".cls" for name, _ in found)
        return entries, nested

    def _list_nested(self, number: int, member: Member) -> list[Entry]:
        passed_over: Counter[str] = Counter()
        members = list(tar_members(self.archives.files[number], passed_over, member.start))
        entries = name_class_tar(members, Path(member.name).stem, passed_over)
        with self._lock:
            self.passed_over.update(passed_over)
        return entries

    def _list_table(self, path: Path) -> list[Entry]:
        names, rows = table_rows(path, self._advance)
        with self._lock:
            if self.names not in (None, names):
                raise UserError(f"{path} names other classes than the tables before it")
            self.names, self.numbered = names, True
        entries = []
        for number, row in enumerate(rows):
            label = str(row.label)
            if row.label is None or label == "-1" or (names and not 0 <= row.label < len(names)):
                raise UserError(f"{path}, row {number}: its label is {label}, no class")
            start = row.start if row.start >= 0 else ~self._copy(row.content)
            entries.append(Entry(label, f"{label}/{path.stem}-{number:06d}", start, len(row.content), False))
        return entries

    def _copy(self, content: bytes) -> int:
        """Append bytes to the copies. Returns where they begin."""
        with self._part.open("ab" if self._copied else "wb") as file:
            file.write(content)
        self._copied += len(content)
        return self._copied - len(content)

    def _read_flat_classes(self) -> Mapping[int, str]:
        return read_classes([*self.archives.files, *self.label_places])

    def _assemble(self, rows: list[tuple[int, Entry]]) -> Listing:
        """Number the classes, and sort the images by class and path."""
        files = self.archives.files
        found = {entry.path: (number, entry) for number, entry in rows}
        if len(found) < len(rows):  # several archives hold the same path; within one archive the last one counts
            found = {_with_archive(entry, files[number]): (number, entry) for number, entry in rows}
        names = sorted({entry.class_name for _, entry in found.values()})
        if self.names or (self.numbered and are_numbers(names)):
            numbers = {name: int(name) for name in names}
            classes = self.names or [str(number) for number in range(max(numbers.values(), default=-1) + 1)]
        else:
            numbers, classes = {name: number for number, name in enumerate(names)}, names
        order = sorted((numbers[entry.class_name], path) for path, (_, entry) in found.items())
        chosen = [found[path] for _, path in order]
        starts = np.array([entry.start for _, entry in chosen], dtype=np.int64)
        copied = starts < 0
        places = Places(
            (*files, self.copies),
            np.where(copied, len(files), [number for number, _ in chosen]).astype(np.int32),
            np.where(copied, ~starts, starts),
            np.array([entry.size for _, entry in chosen], dtype=np.int64),
            np.array([entry.deflated for _, entry in chosen], dtype=bool),
        )
        labels = np.array([label for label, _ in order], dtype=np.int64)
        return Listing(_unique(classes), tuple(path for _, path in order), labels, places, self.passed_over)


def _with_archive(entry: Entry, archive: Path) -> str:
    return f"{entry.class_name}/{archive.stem}/{entry.path.partition('/')[2]}"


def _unique(names: list[str]) -> tuple[str, ...]:
    """The names, with its number behind a name that is there twice: two of ImageNet's classes are called "crane"."""
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names))
