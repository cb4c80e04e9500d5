"""The scripts as a user runs them: subprocesses, one or several under torchrun."""

import os
import socket
import subprocess
import sys

from tests.conftest import ROOT

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
        start_new_session=True,  # so that a test can kill launcher and ranks at once
    )


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
