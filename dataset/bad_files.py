"""Keeping count of the files of a data set that cannot be decoded."""

from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from dataset.image_folder import ImageList
from utils.atomic import write_atomically
from utils.errors import UserError

SHOWN = 5


class BadFiles:
    """Undecodable files met by any rank: reported once each, listed in a file, too many end the run."""

    def __init__(self, images: ImageList, max_fraction: float, report: Path):
        """max_fraction: of all files; more raise UserError. report: text file of their paths."""
        self.images = images
        self.max_fraction = max_fraction
        self.report = report
        self.indices: set[int] = set()  # as of the last `share`, those of all ranks
        self._written = 0

    def add(self, failures: list[tuple[int, str]]) -> None:
        """Failures of this rank: index and error of each file."""
        for index, error in failures:
            if index not in self.indices:
                tqdm.write(f"warning: {self.images.path(index)} cannot be decoded ({error}); skipped")
                self.indices.add(index)

    def share(self, accelerator: Accelerator) -> int:
        """Tell all ranks what each has met, and return how many files that is; every rank calls it.

        Raises UserError on all ranks if they are too many.
        """
        if accelerator.num_processes > 1:
            counts = accelerator.gather(torch.tensor([len(self.indices)], device=accelerator.device))
            mine = torch.full((int(counts.max()),), -1, dtype=torch.int64)
            mine[: len(self.indices)] = torch.tensor(sorted(self.indices), dtype=torch.int64)
            if len(mine):
                gathered = accelerator.gather(mine.to(accelerator.device))
                self.indices = set(gathered[gathered >= 0].tolist())
        if accelerator.is_main_process and len(self.indices) != self._written:
            self._write()
        if len(self.indices) > self.max_fraction * len(self.images):
            some = ", ".join(str(self.images.path(i)) for i in sorted(self.indices)[:SHOWN])
            raise UserError(
                f"{len(self.indices)} of {len(self.images)} files cannot be decoded, more than"
                f" dataset.params.max_bad_fraction={self.max_fraction} allows: {some}; {self.report} lists all"
            )
        return len(self.indices)

    def _write(self) -> None:
        lines = "".join(f"{self.images.path(i)}\n" for i in sorted(self.indices))
        try:
            write_atomically(self.report, lambda f: f.write(lines.encode()))
        except OSError as error:  # a full disk must not end a training
            tqdm.write(f"warning: {self.report} could not be written ({error})")
        self._written = len(self.indices)
