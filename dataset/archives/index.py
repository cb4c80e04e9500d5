"""Where each image of some archives is: found once, then kept in a file.

BESIDE/.image_index/<split>-<hash>.npz, or if that folder cannot be written the user's cache folder:

header   JSON as bytes: what was indexed (`_signature`), class names, what was passed over
paths    all paths as bytes, with a zero byte between
labels, archive, start, size, deflated   (n,), see `Places`

<split>-<hash>.<hash>.copies beside it holds images that a table stores compressed. The index is made again if the
size or the time of modification of an archive changes.
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dataset.archives.build import Builder, Listing
from dataset.archives.imagenet_labels import label_files
from dataset.archives.locate import Archives
from dataset.archives.places import Places
from utils.atomic import write_atomically
from utils.errors import UserError
from utils.file_lock import one_process
from utils.progress import tqdm

VERSION = 1
INDEX_FOLDER = ".image_index"
PLACES = ("archive", "start", "size", "deflated")


def load_listing(archives: Archives, data_path: Path) -> Listing:
    """The images of a split in archives, from the index, which is made if need be.

    Of several processes one makes it and the others wait. Raises UserError for a damaged archive, an image without a
    class, or if the index can be written nowhere.
    """
    around = [data_path if data_path.is_dir() else data_path.parent, archives.files[0].parent]
    label_places = list(dict.fromkeys(around))
    signature = _signature(archives, label_places)
    targets = [folder / index_name(archives) for folder in _folders(archives.files[0].parent)]
    for target in targets:
        if (listing := _read(target, archives, signature)) is not None:
            return listing
    errors = []
    for target in targets:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with one_process(target):
                # Another process may have made it while this one waited.
                return _read(target, archives, signature) or _make(target, archives, label_places, signature)
        except OSError as error:
            errors.append(f"{target.parent} ({error.strerror})")
    raise UserError(f"the index of {archives.files[0]} can be written neither to {' nor to '.join(errors)}")


def index_name(archives: Archives) -> str:
    """The same archives have another index for a data path that gives their images other classes."""
    names = [path.name for path in archives.files]
    return f"{archives.names[0]}-{_digest([names, archives.whole, archives.class_tars])}.npz"


def _folders(beside: Path) -> tuple[Path, Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return beside / INDEX_FOLDER, cache / "image_index" / _digest(str(beside.resolve()))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def _signature(archives: Archives, label_places: list[Path]) -> list[Any]:
    """What decides the content of an index."""
    files = [*archives.files, *label_files(label_places)]
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    # As JSON will give it back.
    return json.loads(json.dumps([VERSION, archives.names, archives.whole, archives.class_tars, states]))


def _copies(target: Path, signature: list[Any]) -> Path:
    """Named by the content, so that an older index never reads the bytes of a newer one."""
    return target.with_suffix(f".{_digest(signature)}.copies")


def _make(target: Path, archives: Archives, label_places: list[Path], signature: list[Any]) -> Listing:
    copies = _copies(target, signature)
    for older in {*target.parent.glob(f"{target.stem}.*.copies")} - {copies}:  # another process may use this one
        older.unlink(missing_ok=True)
    listing = Builder(archives, label_places, copies).build()
    header = {"signature": signature, "classes": listing.classes, "passed_over": listing.passed_over}
    arrays = {name: getattr(listing.places, name) for name in PLACES}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    arrays["paths"] = np.frombuffer("\0".join(listing.paths).encode(errors="surrogateescape"), np.uint8)
    write_atomically(target, lambda file: np.savez(file, labels=listing.labels, **arrays))
    tqdm.write(f"indexed {len(listing.paths)} images of {len(archives.files)} archives: {target}")
    return listing


def _read(target: Path, archives: Archives, signature: list[Any]) -> Listing | None:
    """None if there is no index, it is damaged, or the archives have changed."""
    try:
        with np.load(target, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["signature"] != signature:
                return None
            paths = arrays["paths"].tobytes().decode(errors="surrogateescape").split("\0")[: len(arrays["labels"])]
            places = Places((*archives.files, _copies(target, signature)), *(arrays[name] for name in PLACES))
            labels = arrays["labels"]
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None
    copied = places.archive == len(archives.files)
    if copied.any() and not places.files[-1].is_file():
        return None
    return Listing(tuple(header["classes"]), tuple(paths), labels, places, Counter(header["passed_over"]))
