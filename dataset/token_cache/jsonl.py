"""Read the published codes of MaskGIT-VQ: a JSON object a line, without file names."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset.token_cache.line_index import LineIndex, load_index, parse_line, place
from dataset.token_cache.metadata import CacheMetadata
from utils.errors import UserError


class LineNames(Sequence):
    """Names for the lines, in place of paths: <class id>/<line number>."""

    def __init__(self, classes: Sequence[str], class_ids: np.ndarray):
        self.classes = classes
        self.class_ids = class_ids
        self.width = len(str(len(class_ids)))

    def __len__(self) -> int:
        return len(self.class_ids)

    def __getitem__(self, row: int) -> str:
        return f"{self.classes[self.class_ids[row]]}/{row + 1:0{self.width}d}"


class JsonlTokenCache:
    """Each line is an image with one view. Lines are read from the file as they are asked for."""

    metadata: CacheMetadata | None = None
    codebook_size: int | None = None
    num_views = 1

    def __init__(self, path: Path, index: LineIndex | None = None):
        """index: of the file; None: read it from the file beside it, or make it."""
        self.path = path
        self.index = index or load_index(path)
        self.file = path.open("rb")
        self.num_codes = self.index.num_tokens
        self.labels = np.asarray(self.index.class_ids)
        self.num_classes = int(self.labels.max()) + 1
        width = len(str(self.num_classes - 1))
        self.classes = tuple(f"{class_id:0{width}d}" for class_id in range(self.num_classes))

    def __reduce__(self) -> tuple:
        """Data workers that are not forked map the index file themselves, if there is one."""
        in_memory = not isinstance(self.index.array, np.memmap)
        return JsonlTokenCache, (self.path, self.index if in_memory else None)

    def __len__(self) -> int:
        return len(self.index)

    def views(self, index: int) -> np.ndarray:
        """(1, T) int64."""
        start, end = self.index.span(index)
        # Not seek and read: forked workers share the file's position.
        return parse_line(os.pread(self.file.fileno(), end - start, start), self.path, index)[1][None]

    def codes(self, index: int, view: int) -> np.ndarray:
        """(T,) int64."""
        return self.views(index)[view]

    def paths(self) -> Sequence[str]:
        """Names that stand for paths, in the order of the lines."""
        return LineNames(self.classes, self.labels)

    def require_fit(self, num_codes: int, codebook_size: int, num_classes: int) -> None:
        """Raise UserError with a line that does not fit a tokenizer and generator with these sizes."""
        if self.num_codes != num_codes:
            raise UserError(f"{place(self.path, 0)}: {self.num_codes} tokens, the tokenizer makes {num_codes} codes")
        row = self.index.largest_row
        largest = self.views(row).max()
        if largest >= codebook_size:
            raise UserError(f"{place(self.path, row)}: token {largest} is outside the codebook of {codebook_size}")
        if self.num_classes > num_classes:
            row = int(self.labels.argmax())
            raise UserError(
                f"{place(self.path, row)}: class_id {self.labels[row]} is out of range, the classes are"
                f" 0 to {num_classes - 1}"
            )
