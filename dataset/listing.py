"""Find the files of a data set in a folder. Names that are no data are passed over and counted."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from utils.errors import UserError

# Written by systems, beside names that begin with a dot (among them macOS's resource forks, ._name).
SYSTEM_NAMES = {
    *("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    *("Thumbs.db", "desktop.ini"),
}
HIDDEN = "hidden or system names"
LOOPS = "links to a folder around them"
MAX_KINDS = 8  # of what is passed over, in a message


def is_data(name: str) -> bool:
    """Whether a file or folder of this name can be part of a data set."""
    return not name.startswith(".") and name not in SYSTEM_NAMES


def suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def subfolders(folder: str | Path, passed_over: Counter[str]) -> list[str]:
    """Sorted names of the folders in a folder, links included. Counts in `passed_over` what is no data."""
    return sorted(entry.name for entry in _entries(str(folder), (), passed_over) if _is_folder(entry))


def files_below(folder: str | Path, suffixes: Collection[str], passed_over: Counter[str]) -> Iterator[str]:
    """Paths below a folder, with forward slashes, of the files with one of the suffixes. Links are followed.

    passed_over: counts the other files by suffix, what is no data, and folders that link to themselves.
    Raises UserError for a folder that cannot be read.
    """
    yield from _files(str(folder), "", (), suffixes, passed_over)


def _files(folder: str, prefix: str, links: tuple[str, ...], suffixes: Collection[str], passed_over: Counter[str]):
    for entry in _entries(folder, links, passed_over):
        if _is_folder(entry):
            inner = (*links, os.path.realpath(folder)) if entry.is_symlink() else links
            yield from _files(entry.path, f"{prefix}{entry.name}/", inner, suffixes, passed_over)
        elif suffix(entry.name) in suffixes:
            yield f"{prefix}{entry.name}"
        else:
            passed_over[suffix(entry.name) or "without a suffix"] += 1


def _entries(folder: str, links: tuple[str, ...], passed_over: Counter[str]) -> Iterator[os.DirEntry]:
    """What is data in a folder. links: the real folders with the links that led here."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from error
    for entry in entries:
        if not is_data(entry.name):
            passed_over[HIDDEN] += 1
        elif entry.is_symlink() and _is_folder(entry) and _is_loop(entry.path, (*links, os.path.realpath(folder))):
            passed_over[LOOPS] += 1
        else:
            yield entry


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_loop(link: str, around: tuple[str, ...]) -> bool:
    """Whether a link leads to one of the folders `around` it, or to a folder that holds one of them."""
    target = os.path.realpath(link)
    return any(os.path.commonpath((target, folder)) == target for folder in around)


def describe(passed_over: Counter[str]) -> str:
    """What was passed over, for a message; the most frequent first."""
    parts = [f"{count} {kind}" for kind, count in sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))]
    more = [f"{len(parts) - MAX_KINDS} more kinds"] if len(parts) > MAX_KINDS else []
    return ", ".join([*parts[:MAX_KINDS], *more])
