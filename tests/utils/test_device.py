"""A GPU that torch cannot use is named with the versions and a remedy."""

from pathlib import Path

import pytest

from utils.device import driver_version, unusable_gpu, use_cpu
from utils.errors import UserError

PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed Aug 23 2023\nGCC version: gcc version 12.3.0\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (builder@host)\n"


def machine(root: Path, driver: str = "", text: str = PROPRIETARY, gpus: int = 1) -> Path:
    """A folder that looks like a machine with GPUs, and a driver if a version is given."""
    (root / "dev").mkdir()
    for name in ("null", "nvidiactl", *(f"nvidia{i}" for i in range(gpus))):
        (root / "dev" / name).touch()
    if driver:
        file = root / "proc" / "driver" / "nvidia" / "version"
        file.parent.mkdir(parents=True)
        file.write_text(text.format(driver))
    return root


@pytest.mark.parametrize("text", [PROPRIETARY, OPEN])
def test_the_drivers_version(tmp_path, text):
    assert driver_version(machine(tmp_path, "535.104.05", text)) == "535.104.05"


@pytest.mark.parametrize(
    ("driver", "cuda", "remedy"),
    [
        ("535.104.05", "13.0", "--index-url https://download.pytorch.org/whl/cu126 (CUDA 13.0 needs driver 580)"),
        ("470.82.01", "13.0", "update the driver to 525 or newer"),
        ("580.65.06", None, "--index-url https://download.pytorch.org/whl/cu126;"),
        ("580.65.06", "13.0", "see what nvidia-smi says"),
        ("535.104.05", "12.6", "see what nvidia-smi says"),
        ("", "13.0", "install NVIDIA's driver"),
    ],
)
def test_versions_and_remedy_are_named(tmp_path, driver, cuda, remedy):
    problem = unusable_gpu({}, machine(tmp_path, driver), cuda)
    assert problem.startswith("there is a GPU (/dev/nvidia0), but torch cannot use it (driver ")
    assert (driver or "driver not found") in problem
    assert (f"for CUDA {cuda})" if cuda else "for CPUs only)") in problem
    assert remedy in problem
    assert "ACCELERATE_USE_CPU=1" in problem
    assert "\n" not in problem


@pytest.mark.parametrize("name", ["SLURM_GPUS_ON_NODE", "CUDA_VISIBLE_DEVICES"])
def test_the_environment_promises_a_gpu(tmp_path, name):
    assert f"({name}=4)" in unusable_gpu({name: "4"}, machine(tmp_path, gpus=0), "13.0")


@pytest.mark.parametrize("environment", [{"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}])
def test_the_cpu_was_asked_for(tmp_path, environment):
    assert unusable_gpu(environment, machine(tmp_path), "13.0") == ""


def test_a_machine_without_a_gpu(tmp_path):
    assert unusable_gpu({"SLURM_GPUS_ON_NODE": "0"}, machine(tmp_path, gpus=0), "13.0") == ""


def test_programs_ask(monkeypatch):
    """CUDA_VISIBLE_DEVICES is empty in all tests."""
    assert use_cpu()
    with pytest.raises(UserError, match="there is no GPU here"):
        use_cpu("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"there is a GPU .*but torch cannot use it"):
        use_cpu()
    assert use_cpu("cpu")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert use_cpu()
