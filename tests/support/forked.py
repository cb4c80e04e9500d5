"""Scripts in processes that are forked from one with the libraries loaded: a start takes 0.2 s in place of 3."""

import atexit
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
from pathlib import Path

from tests.support.paths import ROOT

LIBRARIES = ["torch", "torchvision", "accelerate", "torch.utils.tensorboard", "torch.distributed.fsdp", "omegaconf"]
LIBRARIES += ["matplotlib.figure", "scipy.linalg", "safetensors.torch", "torch.utils.data", "tqdm", "PIL.Image"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)


def _run_script(command: list[str], environment: dict[str, str], limits: dict, output: str, errors: str) -> None:
    """What the interpreter does with `command`, in a session of its own and with a standard start method."""
    os.setsid()
    os.chdir(ROOT)
    for descriptor, path in ((1, output), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # several ranks share it
        os.dup2(file, descriptor)
        os.close(file)
    for name, limit in limits.items():
        resource.setrlimit(name, limit)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    try:
        if command[0] == "-c":
            sys.argv = ["-c", *command[2:]]
            sys.path.insert(0, str(ROOT))
            exec(command[1], {"__name__": "__main__"})
        elif command[0] == "-m":
            sys.argv = command[1:]
            sys.path.insert(0, str(ROOT))
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str((ROOT / command[0]).parent))
            runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    finally:
        atexit._run_exitfuncs()


class Script:
    """A script that runs; the methods are those of `subprocess.Popen`."""

    def __init__(self, command: list[str], environment: dict[str, str], output: Path, errors: Path):
        limits = {resource.RLIMIT_FSIZE: resource.getrlimit(resource.RLIMIT_FSIZE)}
        arguments = (command, environment, limits, str(output), str(errors))
        self._process = _context.Process(target=_run_script, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    returncode = property(poll)

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutError if the script is still running after `timeout` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"the script runs longer than {timeout} s")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Ranks:
    """A script in `num` processes that find each other by torchrun's variables; the first failure ends them all.

    `poll`, `wait` and `kill` are those of `Script`.
    """

    def __init__(
        self, command: list[str], num: int, port: int, environment: dict[str, str], output: Path, errors: Path
    ):
        group = {"WORLD_SIZE": f"{num}", "LOCAL_WORLD_SIZE": f"{num}"}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        ranks = [environment | group | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} for rank in range(num)]
        self._scripts = [Script(command, own, output, errors) for own in ranks]

    def poll(self) -> int | None:
        codes = [script.poll() for script in self._scripts]
        if failed := next((code for code in codes if code), None):
            self.kill()
            return failed
        return None if None in codes else 0

    def wait(self, timeout: float) -> int:
        """Raises TimeoutError if a rank is still running after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the script runs longer than {timeout} s")
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        for script in self._scripts:
            script.kill()
