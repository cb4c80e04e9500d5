"""AR training on two hosts: two network namespaces with a virtual link, and torchrun's rendezvous over it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import toy
from tests.support.commands import train_ar
from tests.support.launch import ENVIRONMENT, command_line, run, wait_until
from tests.support.paths import ROOT
from tests.support.resuming import RESUME, assert_equal_checkpoints
from training.checkpoint_files import checkpoint_step, list_checkpoints

pytestmark = pytest.mark.slow

STEPS = 40


@dataclass
class Host:
    namespace: str
    interface: str
    address: str


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    if shutil.which("ip") is None:
        pytest.skip("no `ip` command (package iproute2) to make network namespaces with")
    tag = f"{os.getpid() % 100000}"
    pair = [Host(f"host{side}{tag}", f"v{side}{tag}", f"10.213.7.{n}") for n, side in enumerate("ab", 1)]
    try:
        for host in pair:
            ip("netns", "add", host.namespace)
        ip("link", "add", pair[0].interface, "type", "veth", "peer", "name", pair[1].interface)
        for host in pair:
            ip("link", "set", host.interface, "netns", host.namespace)
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", host.interface)
            ip("-n", host.namespace, "link", "set", host.interface, "up")
            ip("-n", host.namespace, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        for host in pair:
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True)
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    yield pair
    for host in pair:
        pull_the_plug(host)
        ip("netns", "del", host.namespace)


def pull_the_plug(host: Host) -> None:
    """Kill every process on a host: torchrun's workers are in sessions of their own."""
    listed = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True).stdout
    for process in listed.split():
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


def training(folder: Path, name: str) -> list[object]:
    config = toy.write_ar_config(folder / "ar.yaml", per_gpu_batch_size=4, max_train_steps=STEPS, use_ema=True)
    options = (RESUME, "experiment.save_every=2", "experiment.keep_checkpoints=100")
    return train_ar(config, folder / "cache", folder / name, *options)


def torchrun(host: Host, main: Host, port: int) -> list[str]:
    """torchrun's part of the command line on `host`; `main` runs the rendezvous."""
    return [
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc_per_node=1",
        f"--local_addr={host.address}",
        "--rdzv_backend=c10d",
        f"--rdzv_endpoint={main.address}:{port}",
        "--rdzv_id=test",
        # torchrun would derive this from the host name, which both namespaces share.
        f"--rdzv_conf=is_host={str(host is main).lower()}",
    ]


def launch(hosts: list[Host], folder: Path, port: int) -> list[subprocess.Popen]:
    """One process of torchrun on each host, as on two machines."""
    processes = []
    for host in hosts:
        command = command_line(*torchrun(host, hosts[0], port), *training(folder, "two_hosts"))
        processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", host.namespace, *command],
                cwd=ROOT,
                env=ENVIRONMENT | {"GLOO_SOCKET_IFNAME": host.interface},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
    return processes


def test_a_lost_host_and_the_resumed_job(hosts, tmp_path):
    """One host is lost, the job is started again on both: the result equals two processes on one machine."""
    toy.write_token_cache(tmp_path / "cache")
    run(*training(tmp_path, "one_host"), processes=2)
    output = tmp_path / "two_hosts"
    first = launch(hosts, tmp_path, 29611)

    def step_4_is_saved() -> bool:
        return any(checkpoint_step(p) >= 4 for p in list_checkpoints(output))

    wait_until(step_4_is_saved, *first)
    pull_the_plug(hosts[1])
    first[1].communicate()
    first[0].communicate(timeout=120)
    assert first[0].returncode != 0  # it notices and does not hang
    at_kill = checkpoint_step(list_checkpoints(output)[-1])
    assert 4 <= at_kill < STEPS
    second = launch(hosts, tmp_path, 29612)
    texts = [p.communicate(timeout=240)[0] for p in second]
    assert [p.returncode for p in second] == [0, 0], texts[0][-3000:] + texts[1][-3000:]
    assert any("resumed from" in text for text in texts)
    assert_equal_checkpoints(list_checkpoints(output)[-1], list_checkpoints(tmp_path / "one_host")[-1])
