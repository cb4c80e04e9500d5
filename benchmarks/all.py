"""Everything that docs/benchmarks.md wants to know of a machine, the most important parts first.

python -m benchmarks.all --minutes 20 --output output/benchmarks
python -m benchmarks.tables output/benchmarks                    # the results as tables of docs/benchmarks.md

Data and weights are synthetic, and nothing is downloaded. Each part runs in a process of its own with a time limit:
a part that fails or is too slow loses only itself. OUTPUT/NAME.json holds its results, also those before it was
stopped, and OUTPUT/logs/NAME.log its output. The same command again runs only the parts that did not finish.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, describe_machine, this_device
from benchmarks.parts import PARTS, Part
from benchmarks.tables import tables
from utils.atomic import read_json, write_json
from utils.errors import UserError, entry_point
from utils.folder_lock import exclusive_lock

POLL_SECONDS = 0.1
SECONDS_TO_STOP = 10  # between SIGTERM and SIGKILL
LAST_LINES = 5  # of a failed part's output, kept with its results
SAME_MACHINE = ("device", "torch", "driver")


def start_process(command: list[str], log: Path) -> subprocess.Popen:
    """Start a Python module, with its output in `log`, in a session of its own: it may have workers."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-u", *command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


class Benchmarks:
    """Runs parts one after another within a total time."""

    def __init__(
        self,
        folder: Path,
        minutes: float,
        parts: Iterable[Part] = PARTS,
        toy: bool = False,
        start: Callable[[list[str], Path], Any] = start_process,
    ):
        """start(command, log) starts `python COMMAND` in a session of its own and returns it as `Popen` does."""
        self.folder, self.minutes, self.parts, self.toy, self.start = folder, minutes, list(parts), toy, start

    def run(self) -> list[str]:
        """Returns the names of the parts that did not finish. Raises UserError for results of another machine."""
        machine = describe_machine()
        self._check_machine(machine)
        waiting = [part for part in self.parts if not self._is_done(part)]
        if len(waiting) < len(self.parts):
            print(f"{len(self.parts) - len(waiting)} of {len(self.parts)} parts were finished before", flush=True)
        deadline, unfinished = time.monotonic() + 60 * self.minutes, []
        for number, part in enumerate(waiting):
            # What earlier parts did not use is shared by the later ones.
            share = part.weight / sum(other.weight for other in waiting[number:])
            limit = max(0.0, deadline - time.monotonic()) * share
            print(f"\n[{number + 1}/{len(waiting)}] {part.name}, at most {limit:.0f} s", flush=True)
            status = self._run_part(part, limit, machine)
            print(f"[{number + 1}/{len(waiting)}] {part.name}: {status}", flush=True)
            if status != "done":
                unfinished.append(part.name)
        return unfinished

    def _command(self, part: Part) -> list[str]:
        module, *arguments = (part.toy if self.toy else part.command).split()
        return ["-m", f"benchmarks.{module}", *arguments]

    def _check_machine(self, machine: dict[str, Any]) -> None:
        for part in self.parts:
            path = self.folder / f"{part.name}.json"
            earlier = read_json(path)["machine"] if path.is_file() else machine
            for key in SAME_MACHINE:
                if earlier[key] != machine[key]:
                    raise UserError(
                        f"{path} was measured with {key} {earlier[key]}, and here it is {machine[key]}: choose another"
                        " --output"
                    )

    def _is_done(self, part: Part) -> bool:
        path = self.folder / f"{part.name}.json"
        content = read_json(path) if path.is_file() else {}
        return content.get("status") == "done" and content["command"] == self._command(part)

    def _run_part(self, part: Part, limit: float, machine: dict[str, Any]) -> str:
        """Returns "done", or what happened: "failed", "out of time"."""
        rows, log = self.folder / "rows" / f"{part.name}.json", self.folder / "logs" / f"{part.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        rows.unlink(missing_ok=True)
        began = time.monotonic()
        process = self.start([*self._command(part), "--json", str(rows.resolve())], log)
        try:
            status = _wait(process, log, began + limit)
        finally:
            _stop(process)
        content = read_json(rows) if rows.is_file() else {"machine": machine, "rows": []}
        lines = log.read_text(errors="replace").strip().splitlines()
        result = {
            "part": part.name,
            "status": status,
            "seconds": round(time.monotonic() - began, 1),
            "command": self._command(part),
            **content,
            "last_lines": [] if status == "done" else lines[-LAST_LINES:],
        }
        write_json(self.folder / f"{part.name}.json", result)
        return status


def _wait(process: Any, log: Path, deadline: float) -> str:
    """Show the output of the process until it ends or the time is over."""
    shown = 0
    while True:
        code = process.poll()
        text = log.read_bytes()[shown:] if log.is_file() else b""
        sys.stdout.write(text.decode(errors="replace"))
        sys.stdout.flush()
        shown += len(text)
        if code is not None:
            return "done" if code == 0 else f"failed with exit code {code}"
        if time.monotonic() > deadline:
            return "out of time"
        time.sleep(POLL_SECONDS)


def _stop(process: Any) -> None:
    """End the process and its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # its session has ended
            os.killpg(process.pid, number)
        stop = time.monotonic() + SECONDS_TO_STOP
        while process.poll() is None and time.monotonic() < stop:
            time.sleep(POLL_SECONDS)


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20, help="time for all parts together")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--toy", action="store_true", help="toy sizes: a rehearsal on a CPU")
    args = parser.parse_args()
    if this_device().type == "cpu" and not args.toy:
        raise UserError("there is no GPU here, and these sizes are for one: --toy rehearses them on a CPU")
    parts = [part for part in PARTS if part.name in args.parts]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt, as SIGINT does
    with exclusive_lock(args.output):
        try:
            unfinished = Benchmarks(args.output, args.minutes, parts, args.toy).run()
        except KeyboardInterrupt:
            raise UserError("interrupted; run the same command to resume") from None
    print(f"\n{tables(args.output)}", flush=True)
    if unfinished:
        raise UserError(f"not finished: {', '.join(unfinished)}; the same command runs only these again")


if __name__ == "__main__":
    main()
