"""Find the archives that hold a split: by their names, or by folders inside of them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from dataset.listing import is_data
from utils.errors import UserError, first_line

SYNONYMS = {"val": ("validation", "valid"), "validation": ("val", "valid"), "train": ("training",)}
SPLIT_WORDS = {"train", "training", "val", "validation", "valid", "test", "dev"}
TABLES = (".parquet", ".arrow")
KINDS = (*TABLES, ".zip", ".tar")  # a folder with files of several kinds: the first one counts
IMAGENET = "ILSVRC2012_img_{}.tar"  # beside it there may be ILSVRC2012_img_train_t3.tar, of another task
SAVED_STATE = "state.json"  # of datasets.save_to_disk


@dataclass(frozen=True)
class Archives:
    files: tuple[Path, ...]
    names: tuple[str, ...]  # what the split may be called
    whole: bool  # everything in them belongs to the split; else what lies below a folder with its name
    class_tars: bool = False  # each tar may hold the images of the class that it is named for


def split_names(split: str) -> tuple[str, ...]:
    """A split's name and its synonyms."""
    return (split, *SYNONYMS.get(split, ()))


def find_archives(data_path: Path, split: str) -> Archives | None:
    """The archives of a split, or None. data_path: an archive, or a folder with archives, SPLIT/ or data/.

    Raises UserError for a file that is no archive.
    """
    names = split_names(split)
    if data_path.is_file():
        if data_path.suffix.lower() not in KINDS:
            hint = "; a compressed tar must be uncompressed, so that its images can be found"
            raise UserError(f"{data_path} is no archive of these kinds: {', '.join(KINDS)}{hint}")
        return _choose([data_path], names)
    for name in names:
        files = _archives_in(data_path / name)
        if files:
            return Archives(tuple(files), names, whole=True, class_tars=True)
    # An archive beside folders of splits may be anything, unless its name says more.
    has_splits = any((data_path / word).is_dir() for word in SPLIT_WORDS)
    for folder in (data_path, data_path / "data"):
        exact = [folder / IMAGENET.format(name) for name in names]
        chosen = _choose([p for p in exact if p.is_file()], names) or _choose(_archives_in(folder), names)
        if chosen and (chosen.whole or not has_splits):
            return chosen
    return None


def _archives_in(folder: Path) -> list[Path]:
    """Sorted archives of one kind."""
    if not folder.is_dir():
        return []
    if (folder / SAVED_STATE).is_file():
        try:
            return [folder / e["filename"] for e in json.loads((folder / SAVED_STATE).read_text())["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / SAVED_STATE} is no record of a saved data set ({first_line(error)})") from error
    files = sorted(p for p in folder.iterdir() if is_data(p.name) and p.is_file())
    return next((found for kind in KINDS if (found := [p for p in files if p.suffix.lower() == kind])), [])


def _choose(files: list[Path], names: tuple[str, ...]) -> Archives | None:
    """Of some archives those that are named for the split, else those that are named for none or for several."""
    words = {path: {*re.split(r"[^a-z0-9]+", path.name.lower())} for path in files if path.suffix.lower() in KINDS}
    splits = {path: words[path] & SPLIT_WORDS for path in words}
    named = [path for path in words if words[path] & {*names} and splits[path] <= {*names}]
    if named:
        return Archives(tuple(named), names, whole=True)
    mixed = [p for p in words if (not splits[p] or splits[p] & {*names}) and p.suffix.lower() not in TABLES]
    return Archives(tuple(mixed), names, whole=False) if mixed else None
