"""Images in the tables of Hugging Face's `datasets`: parquet and Arrow files with columns for image and label.

pyarrow reads the tables once, to find where the bytes of each image are in the file; workers then read them
without it. What a table holds compressed is in no file as it is: it is copied once, beside the index.
"""

import json
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError, first_line

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class")


class Row(NamedTuple):
    """An image of a table."""

    label: Any
    start: int  # first byte in the file; -1: they are not there as they are
    content: bytes


def table_rows(path: Path, advance: Callable[[int], None]) -> tuple[list[str] | None, Iterator[Row]]:
    """Names of the classes if the table tells them, and the rows in order. Raises UserError.

    advance: called with the number of bytes that were passed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow: pip install pyarrow") from error
    with _explain_errors(path):
        if path.suffix.lower() == ".parquet":
            table = pq.ParquetFile(path)
            image, label, names = _columns(table.schema_arrow, path)
            return names, _rows(path, _row_groups(table, image, label), image, label, advance)
        stream = pa.ipc.open_stream(pa.memory_map(str(path)))
        image, label, names = _columns(stream.schema, path)
        whole = (0, path.stat().st_size)
        return names, _rows(path, ((batch, whole) for batch in stream), image, label, advance)


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{path} cannot be read as a table ({first_line(error)})") from error


def _columns(schema: Any, path: Path) -> tuple[str, str, list[str] | None]:
    """The columns of image and label, by the features that `datasets` records, else by their names."""
    stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = stored.get("info", {}).get("features", {})
    kinds = {name: features.get(name, {}).get("_type") for name in schema.names if isinstance(features.get(name), dict)}
    chosen = []
    for kind, usual in (("Image", IMAGE_COLUMNS), ("ClassLabel", LABEL_COLUMNS)):
        found = [name for name, stored_kind in kinds.items() if stored_kind == kind]
        found += [name for name in usual if name in schema.names]
        if not found:
            raise UserError(f"{path} has no column for the {kind} (there are {', '.join(schema.names)})")
        chosen.append(found[0])
    return *chosen, features.get(chosen[1], {}).get("names")


def _row_groups(table: Any, image: str, label: str) -> Iterator[tuple[Any, tuple[int, int]]]:
    """Each row group of a parquet file, and the bytes of the file with its images; (0, 0) if they are compressed."""
    for group in range(table.num_row_groups):
        metadata = table.metadata.row_group(group)
        columns = [metadata.column(i) for i in range(metadata.num_columns)]
        column = next(c for c in columns if c.path_in_schema in (image, f"{image}.bytes"))
        start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        place = (start, start + column.total_compressed_size) if column.compression == "UNCOMPRESSED" else (0, 0)
        yield table.read_row_group(group, columns=[image, label]), place


def _rows(path: Path, batches: Any, image: str, label: str, advance: Callable[[int], None]) -> Iterator[Row]:
    cursor = 0
    with (
        _explain_errors(path),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw,
    ):
        for batch, (first, end) in batches:
            cursor, columns = max(cursor, first), batch.select([image, label])
            columns.validate(full=True)  # pyarrow trusts offsets, and reads out of bounds in a damaged file
            for row in columns.to_pylist():
                content = row[image]["bytes"] if isinstance(row[image], dict) else row[image]
                if not content or not isinstance(content, bytes):
                    raise UserError(f"{path} holds no images in column '{image}', only their paths: embed the files")
                start = raw.find(content, cursor, end)
                if start < 0:  # equal values stand in the file only once
                    start = raw.find(content, first, end)
                if start < 0:
                    end = first  # compressed: look no further
                else:
                    cursor = start + len(content)
                advance(len(content))
                yield Row(row[label], start, content)
