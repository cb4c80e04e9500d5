"""Keep count of the files of a data set that cannot be decoded."""

from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from dataset.images import ImageList
from utils.atomic import write_text
from utils.errors import UserError
from utils.progress import tqdm

MAX_PATHS_IN_ERROR = 5


class BadFiles:
    """Undecodable files of all ranks: each is reported once and listed in a file; too many end the run."""

    def __init__(self, images: ImageList, max_fraction: float, report: Path, indices: set[int]):
        """max_fraction: of all files; more raise UserError. report: text file for their paths.

        indices: updated in place. Its owner may save and restore it.
        """
        self.images = images
        self.max_fraction = max_fraction
        self.report = report
        self.indices = indices
        self._reported = 0  # number of files in the report

    def add(self, failures: list[tuple[int, str]]) -> None:
        """failures: of this rank, index and error of each file."""
        for index, error in failures:
            if index not in self.indices:
                tqdm.write(f"warning: {self.images.path(index)} cannot be decoded ({error}); skipped")
                self.indices.add(index)

    def sync_across_ranks(self) -> int:
        """Gather the files of all ranks, and return how many there are; every rank calls it.

        Raises UserError on all ranks if there are too many.
        """
        self.indices.update(gather_object(sorted(self.indices)))
        self.indices.intersection_update(range(len(self.images)))  # a resumed training may have fewer images
        count = len(self.indices)
        if PartialState().is_main_process and count != self._reported:
            self._write_report()
        if count > self.max_fraction * len(self.images):
            some = ", ".join(str(self.images.path(i)) for i in sorted(self.indices)[:MAX_PATHS_IN_ERROR])
            raise UserError(
                f"{count} of {len(self.images)} files cannot be decoded, more than"
                f" dataset.params.max_bad_fraction={self.max_fraction} allows: {some}; {self.report} lists all"
            )
        return count

    def _write_report(self) -> None:
        try:
            write_text(self.report, "".join(f"{self.images.path(i)}\n" for i in sorted(self.indices)))
        except OSError as error:  # a full disk must not end a training
            tqdm.write(f"warning: {self.report} could not be written ({error})")
        self._reported = len(self.indices)
