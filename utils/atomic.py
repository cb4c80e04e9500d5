"""Write files so that a reader sees the whole file or none of it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; on success flush that file to disk and rename it to `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        flush_to_disk(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)  # a partial file would keep a full disk full
        raise
    flush_to_disk(path.parent)


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write(file)` on a temporary binary file, then rename that file to `path`."""
    with atomic_path(path) as part, part.open("wb") as file:
        write(file)


def write_text(path: str | Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: str | Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2))


def flush_to_disk(path: Path) -> None:
    """fsync a file, or a folder's list of names, so that it survives a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
