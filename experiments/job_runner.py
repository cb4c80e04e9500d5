"""Run a list of commands: skip the finished ones, resume interrupted ones, run several at a time."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import BinaryIO

import torch

from utils.atomic import read_json, write_json
from utils.errors import UserError
from utils.yaml_files import with_bases

POLL_SECONDS = 0.05
RESUME = "run the same command to resume"


@dataclass(frozen=True)
class Job:
    """A Python command. It starts after the earlier jobs that write its inputs."""

    name: str
    command: tuple[str, ...]  # arguments of the Python interpreter
    outputs: tuple[Path, ...] = ()  # files and folders; the job runs again if one is missing
    inputs: tuple[Path, ...] = ()  # files; the outputs are removed and made again if the content of one changed

    @classmethod
    def from_templates(cls, name: str, command: str, outputs: str = "", inputs: str = "", **values: object) -> "Job":
        """Split the texts at white space, then fill in each `{key}`: values may hold spaces."""
        parts = [[part.format_map(values) for part in text.split()] for text in (command, outputs, inputs)]
        return cls(name.format_map(values), tuple(parts[0]), tuple(map(Path, parts[1])), tuple(map(Path, parts[2])))

    @property
    def file_name(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def script(self) -> str:
        return self.command[self.command[0] == "-m"]

    def key(self) -> str:
        """Hash of the command and of the content of the inputs, and of the files that a YAML file is based on."""
        digest = hashlib.sha256(json.dumps(self.command).encode())
        files = (with_bases(path) if path.suffix == ".yaml" else [path] for path in self.inputs)
        for path in chain.from_iterable(files):
            digest.update(path.read_bytes() if path.is_file() else b"absent")
        return digest.hexdigest()

    def needs(self, other: "Job") -> bool:
        """Whether an input is an output of `other`, or a file in such a folder."""
        return any(output in (path, *path.parents) for path in self.inputs for output in other.outputs)


def start_process(command: tuple[str, ...], environment: dict[str, str], log: BinaryIO | None) -> subprocess.Popen:
    """`python COMMAND`, with its output in `log` or on the terminal."""
    stderr = subprocess.STDOUT if log else None
    return subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=stderr)


@dataclass
class JobRunner:
    """Runs the jobs that are not done. FOLDER/jobs/ holds a record of each.

    A job is done if its record has the same command and input contents, and its outputs exist. If the command or an
    input changed, its outputs are removed first. Otherwise outputs of an interrupted run stay, for the job to resume.
    """

    jobs: list[Job]
    folder: Path
    parallel: int = 1  # jobs at a time, each with a share of the cores, or a GPU of its own if there are several
    log_to_files: bool = False  # write output to FOLDER/jobs/NAME.log, and one line per job to the terminal
    on_done: Callable[[Job], object] = lambda job: None  # called for each finished job, also if it was done before

    def run(self) -> None:
        """Raises UserError if a job fails or on SIGINT or SIGTERM, after telling the running jobs to stop."""
        if len({job.file_name for job in self.jobs}) < len(self.jobs):
            raise ValueError("two jobs have the same file name")
        self._waiting, self._running, self._done, self._records = list(self.jobs), {}, set(), {}
        self._labels = {job: f"[{n}/{len(self.jobs)}] {job.name}" for n, job in enumerate(self.jobs, 1)}
        needed = {job: {other for other in self.jobs[:n] if job.needs(other)} for n, job in enumerate(self.jobs)}
        with self._stop_on_exit():
            while self._waiting or self._running:
                self._collect_ended()
                ready = (job for job in self._waiting if needed[job] <= self._done)
                if len(self._running) < self.parallel and (job := next(ready, None)):
                    self._waiting.remove(job)
                    self._skip_or_start(job)
                else:
                    time.sleep(POLL_SECONDS)

    def _skip_or_start(self, job: Job) -> None:
        key, path = job.key(), self._path(job, "json")
        record = self._records[job] = read_json(path) if path.is_file() else {}
        if record.get("key", key) != key:
            for output in job.outputs:
                shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)
        elif record.get("done") and job.outputs and all(output.exists() for output in job.outputs):
            print(f"{self._labels[job]}: done before", flush=True)
            self._finish(job)
            return
        slot = min(set(range(self.parallel)) - {self._records[other]["slot"] for other in self._running})
        record = {"number": self.jobs.index(job), "name": job.name, "command": job.command, "key": key, "done": False}
        self._records[job] = record | {"slot": slot, "started": time.time()}
        write_json(path, self._records[job])  # before the start: partial outputs belong to this key
        if not self.log_to_files:
            print(f"\n{self._labels[job]}\n  python {' '.join(job.command)}", flush=True)
        with self._path(job, "log").open("ab") if self.log_to_files else nullcontext() as log:
            self._running[job] = start_process(job.command, self._environment(slot), log)

    def _environment(self, slot: int) -> dict[str, str]:
        if self.parallel == 1:
            return dict(os.environ)
        gpus = torch.cuda.device_count()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        share = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // self.parallel))}
        return share | os.environ | ({"CUDA_VISIBLE_DEVICES": visible[slot % gpus]} if gpus > 1 else {})

    def _collect_ended(self) -> None:
        ended = {job: code for job, process in self._running.items() if (code := process.poll()) is not None}
        for job in sorted(ended, key=lambda job: ended[job] != 0):  # successes first, since a failure raises
            del self._running[job]
            if ended[job]:
                where = f" (its output is in {self._path(job, 'log')})" if self.log_to_files else ""
                raise UserError(f"'{job.name}' failed with exit code {ended[job]}{where}; once fixed, {RESUME}")
            seconds = round(time.time() - self._records[job]["started"], 1)
            self._records[job] |= {"done": True, "seconds": seconds}
            write_json(self._path(job, "json"), self._records[job])
            if self.log_to_files:
                print(f"{self._labels[job]}: {seconds:.0f} s{self._time_left()}", flush=True)
            self._finish(job)

    def _finish(self, job: Job) -> None:
        self._done.add(job)
        self.on_done(job)

    def _time_left(self) -> str:
        """An estimate: a job takes as long as the finished jobs of its script, or else of all scripts."""
        finished = {job: record["seconds"] for job, record in self._records.items() if record.get("done")}
        left = 0.0
        for job in [*self._waiting, *self._running]:
            same_script = [seconds for other, seconds in finished.items() if other.script == job.script]
            left += mean(same_script or finished.values())
        return f", about {left / self.parallel / 60:.0f} min left" if left else ""

    @contextmanager
    def _stop_on_exit(self) -> Iterator[None]:
        """At the end of the block, tell the running jobs to stop, and wait: trainings save first."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt, as SIGINT does
        try:
            yield
        except KeyboardInterrupt:
            raise UserError(f"interrupted; {RESUME}") from None
        finally:
            signal.signal(signal.SIGTERM, before)
            for process in self._running.values():
                process.terminate()
            for process in self._running.values():
                process.wait()

    def _path(self, job: Job, suffix: str) -> Path:
        return self.folder / "jobs" / f"{job.file_name}.{suffix}"


def job_seconds(folder: Path) -> dict[str, float]:
    """Duration of each finished job of `folder`, by name, in the order of the list of jobs."""
    records = [read_json(path) for path in (folder / "jobs").glob("*.json")]
    return {r["name"]: r["seconds"] for r in sorted(records, key=lambda r: r["number"]) if r["done"]}
