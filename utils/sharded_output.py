"""Outputs made shard by shard, by any number of processes; a killed run is resumed by the same command."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from utils.atomic import part_of, read_json, write_json
from utils.errors import UserError, warn
from utils.folder_lock import LOCK_TIMEOUT, exclusive_lock

VISIBILITY_TIMEOUT = 60.0  # seconds for a shared file system to show the files of other machines
MADE_WITH = "made with"
MAX_VALUE_CHARACTERS = 40  # of a differing value in an error


class ShardedOutput:
    """Items 0 .. num_items - 1 in shards of `shard_size` items.

        progress/plan.json    the identity of the output that is being made
        progress/00000.json   one file for each finished shard (`suffix` decides its type)
        record                JSON with at least the identity; written last

    The output is complete when `record` and `result` exist. `progress` is removed then.
    """

    def __init__(
        self,
        record: Path,
        progress: Path,
        identity: dict[str, Any],
        num_items: int,
        shard_size: int,
        *,
        suffix: str = ".json",
        result: Path | None = None,
        circumstances: dict[str, Any] | None = None,
    ):
        """identity: what decides the content of the output, by name. result: the output, if it is not `record`.

        circumstances: what changes the content a little, by rounding. Runs that differ in it are all recorded, under
        "made with", and a resumed run warns.
        """
        self.record = record
        self.progress = progress
        self.identity = json.loads(json.dumps(identity))  # as it will be read: tuples become lists
        self.made_with = [] if circumstances is None else [json.loads(json.dumps(circumstances))]
        self.num_items = num_items
        self.shard_size = shard_size
        self.num_shards = -(-num_items // shard_size)
        self.suffix = suffix
        self.result = result or record

    @property
    def plan(self) -> Path:
        return self.progress / "plan.json"

    def shard_file(self, shard: int) -> Path:
        """This file is written last, so its presence marks the shard as finished."""
        return self.progress / f"{shard:05d}{self.suffix}"

    def items(self, shard: int) -> range:
        """The items of a shard."""
        return range(self.num_items)[shard * self.shard_size : (shard + 1) * self.shard_size]

    @contextmanager
    def locked(self, state: PartialState) -> Iterator[None]:
        """Hold the lock of the folder during the block; every process enters it, before `prepare`. Raises UserError."""
        with exclusive_lock(self.record.parent, LOCK_TIMEOUT) if state.is_main_process else nullcontext():
            state.wait_for_everyone()  # what is there may have changed while the main process waited for the lock
            yield

    def prepare(self, main: bool = True) -> bool:
        """Check the identity of what is there, or record it. Returns whether the output is complete.

        Every process calls it; only the main one writes. Raises UserError with the first difference, for
        files of something else, and if the disk is too small.
        """
        if self.record.is_file():
            self._check_identity(self.record)
        if self.record.is_file() and self.result.is_file():
            if main:  # left by a kill just before the end
                self._remove_progress()
            return True
        if self.plan.is_file():
            self._check_identity(self.plan)
        elif main and (foreign := self._foreign()):
            raise UserError(f"{foreign[0]} is there and was not made by this program: choose another place")
        if main:
            self._recall_circumstances()
            with explain_write_errors(self.plan):
                write_json(self.plan, self.description())
        folder = next(path for path in self.plan.parents if path.is_dir())
        needed, free = self.bytes_needed(), shutil.disk_usage(folder).free
        if free < needed:
            raise UserError(f"{self.record.parent}: {needed / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free")
        return False

    def description(self) -> dict[str, Any]:
        """The identity, and the circumstances of all runs if there are any."""
        return {**self.identity, MADE_WITH: self.made_with} if self.made_with else self.identity

    def _recall_circumstances(self) -> None:
        """Put those of earlier runs before this run's, and warn if this run is another."""
        earlier = read_json(self.plan).get(MADE_WITH, []) if self.plan.is_file() else []
        for now in self.made_with:
            if earlier and now not in earlier:
                before = earlier[-1]
                changed = [f"{k} is {v}, was {before.get(k)}" for k, v in now.items() if before.get(k) != v]
                warn(
                    f"warning: {self.record.parent} was begun otherwise ({', '.join(changed)}): rounding differs, so"
                    " the result is not exactly that of one run"
                )
        self.made_with = [*earlier, *(now for now in self.made_with if now not in earlier)]

    def prepare_together(self, state: PartialState) -> bool:
        """`prepare` on every process; the main one decides, as others may see files later on a shared disk."""
        (complete,) = broadcast_object_list([self.prepare(state.is_main_process)])
        return complete

    def bytes_needed(self) -> int:
        """What the missing shards and the result take on the disk, at least."""
        return 0

    def remains(self) -> list[Path]:
        """Files and folders that are there where this output writes. If nothing is begun yet, they are foreign."""
        return []

    def _foreign(self) -> list[Path]:
        """What is there of something else, if nothing has a plan yet: the plan is the first file that is written."""
        if self.progress.is_dir():
            return sorted(path for path in self.progress.iterdir() if path != part_of(self.plan))
        return [] if self.record.is_file() else self.remains()

    def _remove_progress(self) -> None:
        """Remove the files that are written there; the plan last, without which they are foreign."""
        own = [*map(self.shard_file, range(self.num_shards)), self.plan] if self.plan.is_file() else []
        for path in own:
            part_of(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        with suppress(OSError):  # files of something else stay
            self.progress.rmdir()

    def _check_identity(self, path: Path) -> None:
        try:
            earlier = read_json(path)
        except UserError as error:
            shards = [self.progress] if len(self.missing()) < self.num_shards else []  # without a plan they are foreign
            also = [str(other) for other in (self.remains() if path == self.record else shards) if other != path]
            raise UserError(", and also ".join([str(error), *also])) from error
        differing = [name for name, value in self.identity.items() if earlier.get(name) != value]
        if differing:
            name = differing[0]
            raise UserError(
                f"{self.record.parent} was made otherwise: {name} is {_short(earlier.get(name))} there,"
                f" {_short(self.identity[name])} now. Remove it or choose another folder"
            )

    def missing(self) -> list[int]:
        return [shard for shard in range(self.num_shards) if not self.shard_file(shard).is_file()]

    def claim(self, state: PartialState) -> list[int]:
        """This process's share of the missing shards; every process calls it after `prepare`.

        Only the main process looks: others might look later, when more shards are finished.
        """
        (missing,) = broadcast_object_list([self.missing()])
        if len(missing) < self.num_shards:
            state.print(f"{self.num_shards - len(missing)} of {self.num_shards} shards are there already")
        return missing[state.process_index :: state.num_processes]

    def wait_for_shards(self) -> None:
        """Wait until this machine sees all shards: a shared file system may lag. Raises UserError."""
        deadline = time.monotonic() + VISIBILITY_TIMEOUT
        while missing := self.missing():
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{self.shard_file(missing[0])} is not there: do all machines share {self.record.parent}?"
                    " Run the command again"
                )
            time.sleep(1)

    def mark_complete(self, record: dict[str, Any]) -> None:
        """record: the identity and other facts about the output."""
        write_json(self.record, record)
        self._remove_progress()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 3]}..."


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a UserError that says how to resume."""
    try:
        yield
    except OSError as error:
        reason = getattr(error.__cause__, "strerror", None) or error.strerror or error
        raise UserError(
            f"{path} could not be written ({reason}): free space and run the same command again, which keeps the"
            " finished shards"
        ) from error


@contextmanager
def background_writer() -> Iterator[Callable[..., None]]:
    """Yield `submit(function, *arguments)`, which runs one call at a time in a thread.

    It first waits for the call before, so at most two shards are in memory: one is written while the
    next one is made. The next `submit` and the end of the block raise the errors of the thread.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        pending: Future | None = None

        def submit(function: Callable[..., Any], *arguments: Any) -> None:
            nonlocal pending
            if pending is not None:
                pending.result()
            pending = thread.submit(function, *arguments)

        yield submit
        if pending is not None:
            pending.result()
