"""Write files so that a reader sees the whole file or none of it."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from utils.errors import UserError, WriteError, first_line


def part_of(path: Path) -> Path:
    """The temporary path of a file or folder that is being written."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def _whole_or_not_at_all(path: Path, remove: Callable[[Path], Any]) -> Iterator[None]:
    """If the block fails, remove the partial file: it would keep a full disk full. Raises WriteError for an OSError."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            remove(part_of(path))
        if isinstance(error, OSError) and not isinstance(error, WriteError):
            raise WriteError(f"{path} could not be written ({error.strerror or error})") from error
        raise


@contextmanager
def atomic_path(path: str | Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path; on success flush that file to disk and rename it to `path`. Raises WriteError.

    flush: False for one of many small files, where the caller calls `os.sync` once after the last.
    """
    path = Path(path)
    with _whole_or_not_at_all(path, Path.unlink):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        yield part
        if flush:
            flush_to_disk(part)
        os.replace(part, path)
        if flush:
            flush_to_disk(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success flush its files and rename it to `path`. Raises WriteError."""
    part = part_of(path)
    with _whole_or_not_at_all(path, partial(shutil.rmtree, ignore_errors=True)):
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        part.mkdir(parents=True)
        yield part
        os.sync()
        os.replace(part, path)
        flush_to_disk(path.parent)


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write(file)` on a temporary binary file, then rename that file to `path`."""
    with atomic_path(path) as part, part.open("wb") as file:
        write(file)


def write_text(path: str | Path, text: str) -> None:
    """UTF-8; bytes in file names that are none are written as they are."""
    write_atomically(path, lambda file: file.write(text.encode(errors="surrogateescape")))


def write_json(path: str | Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2))


def read_json(path: str | Path) -> dict[str, Any]:
    """An object that `write_json` wrote. Raises UserError that says which file to remove if it is damaged."""
    try:
        content = json.loads(Path(path).read_text())
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}): remove it and run again") from error
    return content


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """The bytes of np.save, which itself loses the end of a file without an error on a full disk."""
    array, header = np.ascontiguousarray(array), io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))

    def write(file: IO[bytes]) -> None:
        file.write(header.getvalue())
        file.write(array.data)

    write_atomically(path, write)


def flush_to_disk(path: Path) -> None:
    """fsync a file, or a folder's list of names, so that it survives a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
