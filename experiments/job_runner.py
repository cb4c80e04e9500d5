"""A pipeline as a list of commands, of which only those run whose results are not there yet."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from utils.atomic import write_atomically
from utils.errors import UserError

POLL = 0.05  # seconds between looks at the running commands


@dataclass(frozen=True)
class Step:
    """One command of Python. It waits for the steps before it whose outputs hold its inputs."""

    name: str
    command: tuple[str, ...]
    outputs: tuple[Path, ...] = ()  # without these the step is not done; removed when it must be done anew
    inputs: tuple[Path, ...] = ()  # files whose change makes the step run anew

    def key(self) -> str:
        """What the step would do: its command and the content of its inputs."""
        digest = hashlib.sha256(json.dumps(self.command).encode())
        for path in self.inputs:
            digest.update(path.read_bytes() if path.is_file() else b"absent")
        return digest.hexdigest()

    def remove_outputs(self) -> None:
        for path in self.outputs:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def needs(self, other: "Step") -> bool:
        """Whether one of the inputs is, or lies in, an output of `other`."""
        return any(i == o or o in i.parents for i in self.inputs for o in other.outputs)

    @property
    def script(self) -> str:
        return self.command[self.command[0] == "-m"]

    @property
    def slug(self) -> str:
        """The name as a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass
class _Running:
    step: Step
    process: subprocess.Popen
    record: dict[str, Any]
    begun: float
    slot: int


def run_steps(
    steps: list[Step],
    folder: Path,
    *,
    jobs: int = 1,
    capture: bool = False,
    finished: Callable[[Step], Any] | None = None,
) -> None:
    """Run what is not done of `steps`, whose records go to folder/steps/.

    A step is done if its last record has the same command and inputs and its outputs are there. With
    another command or other inputs its outputs are removed first; otherwise what an interrupted run
    left is there for it to go on with.
    jobs: steps at the same time, each with its share of the cores, or a GPU of its own.
    capture: output goes to folder/steps/NAME.log, and a line per step to this terminal.
    finished: called with each step that is done, also with those that were done before.
    Raises UserError when a step fails or the run is interrupted; running steps are told to stop first.
    """
    records = folder / "steps"
    records.mkdir(parents=True, exist_ok=True)
    if len({step.slug for step in steps}) < len(steps):
        raise ValueError("two steps have names that make the same file name")
    before = {step: [other for other in steps[:n] if step.needs(other)] for n, step in enumerate(steps)}
    labels = {step: f"[{n}/{len(steps)}] {step.name}" for n, step in enumerate(steps, 1)}
    waiting, running, done = list(steps), [], set()

    def finish(step: Step) -> None:
        done.add(step)
        if finished:
            finished(step)

    with _stopping(running):
        while waiting or running:
            ended = [item for item in running if item.process.poll() is not None]
            for item in sorted(ended, key=lambda item: item.process.returncode != 0):  # successes count in any case
                running.remove(item)
                _close(item, records, capture)
                if capture:
                    left = _seconds_left(steps, [*waiting, *(r.step for r in running)], records) / jobs
                    print(f"{labels[item.step]}: {item.record['seconds']:.0f} s{_about(left)}", flush=True)
                finish(item.step)
            while len(running) < jobs:
                step = next((s for s in waiting if done.issuperset(before[s])), None)
                if step is None:
                    break
                waiting.remove(step)
                key, record = step.key(), _read(records / f"{step.slug}.json")
                if record.get("key", key) != key:
                    step.remove_outputs()
                elif record.get("done") and step.outputs and all(path.exists() for path in step.outputs):
                    print(f"{labels[step]}: done before", flush=True)
                    finish(step)
                    continue
                slot = next(n for n in range(jobs) if n not in {r.slot for r in running})
                record = {"number": steps.index(step) + 1, "name": step.name, "command": step.command, "key": key}
                _start(running, step, record, labels[step], records, slot, jobs, capture)
            if running:
                time.sleep(POLL)


def step_seconds(folder: Path) -> dict[str, float]:
    """How long each finished step of `folder` took, by name, in the order of the list of steps."""
    found = [_read(path) for path in (folder / "steps").glob("*.json")]
    found = sorted((r for r in found if r.get("done") and "number" in r), key=lambda r: r["number"])
    return {r["name"]: r["seconds"] for r in found}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _write(path: Path, record: dict[str, Any]) -> None:
    write_atomically(path, lambda f: f.write(json.dumps(record).encode()))


def _start(
    running: list[_Running],
    step: Step,
    record: dict[str, Any],
    label: str,
    records: Path,
    slot: int,
    jobs: int,
    capture: bool,
) -> None:
    record |= {"done": False, "seconds": None}
    _write(records / f"{step.slug}.json", record)  # what is half done belongs to this key
    environment = os.environ | (_share(slot, jobs) if jobs > 1 else {})
    command, begun = [sys.executable, *step.command], time.perf_counter()
    if capture:
        with (records / f"{step.slug}.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    else:
        print(f"\n{label}\n  python {' '.join(step.command)}", flush=True)
        process = subprocess.Popen(command, env=environment)
    running.append(_Running(step, process, record, begun, slot))


def _share(slot: int, jobs: int) -> dict[str, str]:
    """The environment of one of several jobs: a GPU of its own if there are several, its share of the cores."""
    gpus = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
    share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // jobs)))}
    return share | ({"CUDA_VISIBLE_DEVICES": visible[slot % gpus]} if gpus > 1 else {})


def _close(item: _Running, records: Path, capture: bool) -> None:
    code = item.process.returncode
    if code:
        where = f" (the end of {records / f'{item.step.slug}.log'} says why)" if capture else ""
        raise UserError(
            f"'{item.step.name}' ended with exit code {code}{where}; once mended, the same command goes on from here"
        )
    item.record |= {"done": True, "seconds": round(time.perf_counter() - item.begun, 1)}
    _write(records / f"{item.step.slug}.json", item.record)


@contextmanager
def _stopping(running: list[_Running]):
    """Tell the running steps to stop, and wait for them, whatever ends this block."""

    def terminated(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except KeyboardInterrupt:
        raise UserError("interrupted; the same command goes on from here") from None
    finally:
        signal.signal(signal.SIGTERM, before)
        for item in running:
            item.process.terminate()  # trainings save what they have
        try:
            for item in running:
                item.process.wait()
        except KeyboardInterrupt:  # a second Ctrl-C means now
            for item in running:
                item.process.kill()
            raise UserError("killed; the same command goes on from here") from None


def _seconds_left(steps: list[Step], left: list[Step], records: Path) -> float:
    """Of the steps that are left, each as long as the finished ones of the same script took."""
    times: dict[str, list[float]] = {}
    for step in steps:
        record = _read(records / f"{step.slug}.json")
        if record.get("done"):
            times.setdefault(step.script, []).append(record["seconds"])
    known = [sum(t) / len(t) for t in times.values()]
    average = sum(known) / len(known)
    return sum(sum(t) / len(t) if (t := times.get(step.script)) else average for step in left)


def _about(seconds: float) -> str:
    return f", about {seconds / 60:.0f} min left" if seconds > 0 else ""
