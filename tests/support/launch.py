"""Run the scripts as a user does: in subprocesses, one or several under torchrun."""

import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from tests.support.forked import Ranks, Script
from tests.support.paths import ROOT

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
TIMEOUT = 300  # seconds


def command_line(*command: object, processes: int = 1) -> list[str]:
    """The words that start a script of the repository with this interpreter."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={_free_port()}"]
    return [*launcher, *map(str, command)]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(
    *command: object,
    processes: int = 1,
    fresh: bool = False,
    check: bool = True,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """Run a script to its end. `check` asserts exit code 0; `environment` is added to this process's.

    fresh: start new interpreters, several with torchrun, as users do. Otherwise they are forked from one with the
    libraries loaded, which saves 3 s each.
    """
    environment = ENVIRONMENT | (environment or {})
    if not fresh:
        result = _run_forked([str(word) for word in command], processes, environment)
    else:
        line = command_line(*command, processes=processes)
        result = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    if check:
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def _run_forked(command: list[str], processes: int, environment: dict[str, str]) -> subprocess.CompletedProcess:
    with TemporaryDirectory() as folder:
        outputs = Path(folder, "stdout"), Path(folder, "stderr")
        if processes == 1:
            script = Script(command, environment, *outputs)
        else:
            script = Ranks(command, processes, _free_port(), environment, *outputs)
        try:
            script.wait(TIMEOUT)
        finally:
            script.kill()
        return subprocess.CompletedProcess(command, script.poll(), *(path.read_text() for path in outputs))


def run_here(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: object, folder: Path = ROOT) -> None:
    """A script as `python script arguments` runs it in `folder`, but in this process, which knows more families."""
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.setattr(sys, "path", list(sys.path))
        gradients = torch.is_grad_enabled()
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        finally:
            torch.set_grad_enabled(gradients)  # sample.py switches them off


def start(*command: object, processes: int = 1) -> subprocess.Popen | Script:
    """Start a script and return at once; its output is discarded."""
    if processes == 1:
        return Script([str(word) for word in command], ENVIRONMENT, Path(os.devnull), Path(os.devnull))
    return subprocess.Popen(
        command_line(*command, processes=processes),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that a signal to its process group does not reach the tests
    )


def wait_until(condition: Callable[[], object], *processes: subprocess.Popen | Script, timeout: float = 120) -> None:
    """Poll `condition` until it is true. Fails if one of the processes ends first, or after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert all(process.poll() is None for process in processes), "a process ended too early"
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.005)


def kill(process: subprocess.Popen | Script) -> None:
    """SIGKILL to a launcher and all its descendants: torchrun starts each rank in a session of its own."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = [process.pid]
    for pid in family:  # the list grows inside the loop
        family += [child for child, parent in parents.items() if parent == pid]
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@contextmanager
def started(*command: object) -> Iterator[subprocess.Popen]:
    """Inside, a process runs; its stdout can be read. It is killed at the end."""
    process = subprocess.Popen(command_line(*command), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen]:
    """Inside, another process holds the lock of `folder`; it is killed at the end."""
    code = "import sys, time; from pathlib import Path; from utils.folder_lock import exclusive_lock\n"
    code += "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with started("-c", code, folder) as process:
        assert process.stdout.readline() == "held\n"
        yield process


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Inside, this process and the ones it starts write no file above `size` bytes: stands for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def peak_memory() -> int:
    """Peak resident memory of this process in bytes. (getrusage also counts its parent's before exec.)"""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
