"""The place of a result file: checked before the work, and held by one program during it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.atomic import part_of
from utils.errors import UserError
from utils.folder_lock import open_locked, probe_disk, remove_locked

# How the files begin that the programs write.
PNG = b"\x89PNG"
ZIP = b"PK"  # .npz, and the weights that torch writes


@contextmanager
def output_file(path: Path | None, option: str, beginning: bytes) -> Iterator[None]:
    """Hold the place of a file that the block writes with `utils.atomic`. None: nothing to hold.

    option: the flag that names it. beginning: of the files that this program writes; another file is not replaced.
    Raises UserError if a file cannot be written there, or another program is writing it.
    """
    if path is None:
        yield
        return
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: name a file in it")
    part = part_of(path)
    try:
        if path.exists() and path.stat().st_size and _first_bytes(path, len(beginning)) != beginning:
            raise UserError(f"{option} {path} is a file of something else: choose another name, or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_locked(part, fcntl.flock)
        if file is None:
            raise UserError(f"{option} {path}: another program is writing it")
        probe_disk(file)
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written ({error.strerror or error})") from error
    with file:
        try:
            yield
        finally:
            remove_locked(file, part)


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)
