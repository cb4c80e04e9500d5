"""Where each line of a file of published codes begins, and its class: checked once, then kept beside the file.

A line is a JSON object, {"class_id": int, "tokens": [int, ...]}. The index of codes.jsonl is
codes.jsonl.index.npy, int64 (2 + n, 2) for n lines:

(size in bytes, time of modification in nanoseconds) of the indexed file
(tokens of every line, row of the first line with the largest token)
(first byte, class id) of each line
"""

import json
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.atomic import write_npy
from utils.errors import UserError
from utils.file_lock import one_process
from utils.progress import tqdm

INDEX_SUFFIX = ".index.npy"
HEADER_ROWS = 2
CLASS_LIMIT = 2**31  # class ids are below
LINES_PER_UPDATE = 1000  # of the progress bar


def place(path: Path, row: int) -> str:
    """A line for a message; rows count from 0, line numbers from 1."""
    return f"{path}, line {row + 1}"


def parse_line(line: bytes, path: Path, row: int) -> tuple[int, np.ndarray]:
    """The class id and the tokens (T,) int64 of a line, T >= 1. Raises UserError with the line's number."""
    try:
        record = json.loads(line)
        class_id, tokens = record["class_id"], np.array(record["tokens"])
    except KeyError as error:
        raise UserError(f"{place(path, row)}: no key {error}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f'{place(path, row)}: not {{"class_id": int, "tokens": [int, ...]}}') from error
    if type(class_id) is not int or not 0 <= class_id < CLASS_LIMIT:
        raise UserError(f"{place(path, row)}: class_id is {class_id}, it must be an integer from 0 on")
    if tokens.ndim != 1 or tokens.dtype != np.int64 or tokens.min() < 0:
        raise UserError(f"{place(path, row)}: tokens must be a list of integers from 0 on")
    return class_id, tokens


@dataclass(frozen=True)
class LineIndex:
    """The array that the index file holds, memory-mapped if there is such a file."""

    array: np.ndarray

    @property
    def num_tokens(self) -> int:
        return int(self.array[1, 0])

    @property
    def largest_row(self) -> int:
        """Row of the first line with the largest token."""
        return int(self.array[1, 1])

    @property
    def class_ids(self) -> np.ndarray:
        """(n,) int64."""
        return self.array[HEADER_ROWS:, 1]

    def __len__(self) -> int:
        return len(self.array) - HEADER_ROWS

    def span(self, row: int) -> tuple[int, int]:
        """The bytes of a line: first, and one after the last."""
        at = HEADER_ROWS + row
        end = self.array[at + 1, 0] if at + 1 < len(self.array) else self.array[0, 0]
        return int(self.array[at, 0]), int(end)


def load_index(path: Path) -> LineIndex:
    """The index of a file, made if it is not there or the file has changed since.

    Of several processes one makes it and the others wait. Where it cannot be written it stays in memory.
    Raises UserError for the first line that is wrong.
    """
    target = path.with_name(path.name + INDEX_SUFFIX)
    index = _read_index(target, path)
    if index is not None:
        return index
    made = None
    try:
        with one_process(target):
            index = _read_index(target, path)  # another process may have made it while this one waited
            if index is not None:
                return index
            made = _make_index(path)
            write_npy(target, made)
    except OSError as error:
        tqdm.write(f"warning: {target} cannot be written ({error}): every process indexes {path.name} for itself")
    return _read_index(target, path) or LineIndex(_make_index(path) if made is None else made)


def _signature(path: Path) -> tuple[int, int]:
    """What tells a changed file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _read_index(target: Path, path: Path) -> LineIndex | None:
    """None if there is no index, or it is that of another state of the file."""
    try:
        found = np.load(target, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.dtype == np.int64 and found.ndim == 2 and len(found) > HEADER_ROWS and found.shape[1] == 2
    return LineIndex(found) if whole and tuple(found[0]) == _signature(path) else None


def _make_index(path: Path) -> np.ndarray:
    """Read and check all lines of a file. Raises UserError for the first line that is wrong."""
    size, modified = _signature(path)
    rows = array("q", (size, modified, 0, 0))
    start = num_tokens = largest_row = 0
    largest = -1
    with (
        path.open("rb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc=f"indexing {path.name}", mininterval=1.0) as bar,
    ):
        for row, line in enumerate(file):
            class_id, tokens = parse_line(line, path, row)
            num_tokens = num_tokens or len(tokens)
            if len(tokens) != num_tokens:
                raise UserError(f"{place(path, row)}: {len(tokens)} tokens, but {num_tokens} on line 1")
            if tokens.max() > largest:
                largest, largest_row = int(tokens.max()), row
            rows.extend((start, class_id))
            start += len(line)
            if row % LINES_PER_UPDATE == 0:
                bar.update(start - bar.n)
        bar.update(start - bar.n)
    if not start:
        raise UserError(f"{path} is empty")
    rows[2:4] = array("q", (num_tokens, largest_row))
    return np.frombuffer(rows, np.int64).reshape(-1, 2)
