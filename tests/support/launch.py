"""The scripts as a user runs them: subprocesses, one or several under torchrun."""

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.paths import ROOT

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def command_line(*command: object, processes: int = 1) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    return [*launcher, *map(str, command)]


def start(*command: object, processes: int = 1) -> subprocess.Popen:
    """Start a script and return at once; its output goes nowhere."""
    return subprocess.Popen(
        command_line(*command, processes=processes),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a signal to its group is not one to the tests
    )


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to a launcher and all below it: torchrun starts each rank in a session of its own."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = [process.pid]
    for pid in family:  # grows while it is walked
        family += [child for child, parent in parents.items() if parent == pid]
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def run(
    *command: object, processes: int = 1, check: bool = True, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run a script of the repository to its end; `environment` is added to this process's."""
    result = subprocess.run(
        command_line(*command, processes=processes),
        cwd=ROOT,
        env=ENVIRONMENT | (environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    if check:
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen]:
    """Another process holds the lock of `folder`, until it is killed at the end."""
    code = "import sys, time; from pathlib import Path; from utils.folder_lock import exclusive_lock\n"
    code += "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        command_line("-c", code, folder), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """This process may write no file larger than `size` bytes within: a disk that takes no more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def peak_memory() -> int:
    """Bytes that this process has had in memory at most. (getrusage would count its parent's before exec, too.)"""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
