"""Files that are seen whole or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A path to write a file to, which is flushed to the disk and then gets its name, `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        flush_to_disk(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)  # on a full disk it would be in the way
        raise
    flush_to_disk(path.parent)


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call write(binary file), flush it to the disk, then give it its name."""
    with written_aside(path) as part, part.open("wb") as file:
        write(file)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
