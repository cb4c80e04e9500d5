"""GPU or CPU: a machine with a GPU that torch cannot use is an error, not a slow program."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from utils.errors import UserError

ASKS_FOR_CPU = "ACCELERATE_USE_CPU"  # accelerate's own variable; `accelerate launch --cpu` sets it
ANY_CUDA_12_DRIVER = 525  # the oldest driver that runs programs of every CUDA 12
NEEDED_DRIVER = {"12": ANY_CUDA_12_DRIVER, "13": 580}  # by the major version of CUDA
WHEELS = "https://download.pytorch.org/whl/cu126"


def use_cpu(device: str | None = None) -> bool:
    """Whether a program runs on the CPU. device: "cuda" or "cpu" if the user named one.

    Raises UserError if there is a GPU that torch cannot use, unless the CPU was asked for: by `device`, by
    ACCELERATE_USE_CPU=1, or by an empty CUDA_VISIBLE_DEVICES.
    """
    if device == "cpu" or os.environ.get(ASKS_FOR_CPU, "").lower() in ("1", "true", "yes"):
        return True
    if torch.cuda.is_available():
        return False
    if problem := unusable_gpu(os.environ, Path("/"), torch.version.cuda):
        raise UserError(problem)
    if device == "cuda":
        raise UserError("--device cuda: there is no GPU here")
    return True


def unusable_gpu(environment: Mapping[str, str], root: Path, cuda: str | None) -> str:
    """What is wrong if this machine has a GPU, although torch sees none; empty if it has none.

    root: of the file system with dev/ and proc/; cuda: the version that torch was built for, None if for none.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return ""
    devices = sorted(path for path in (root / "dev").glob("nvidia[0-9]*"))
    signs = [f"/dev/{devices[0].name}"] if devices else []
    signs += [f"SLURM_GPUS_ON_NODE={n}" for n in [environment.get("SLURM_GPUS_ON_NODE", "")] if n not in ("", "0")]
    signs += [f"CUDA_VISIBLE_DEVICES={visible}"] if visible else []
    if not signs:
        return ""
    driver = driver_version(root)
    versions = (
        f"driver {driver or 'not found'}, torch {torch.__version__} for {f'CUDA {cuda}' if cuda else 'CPUs only'}"
    )
    return (
        f"there is a GPU ({signs[0]}), but torch cannot use it ({versions}): {_remedy(driver, cuda)}; or ask for the"
        f" CPU with {ASKS_FOR_CPU}=1"
    )


def driver_version(root: Path) -> str:
    """The version of the NVIDIA driver that the kernel has loaded, for example "535.104.05"; empty if none."""
    try:
        text = (root / "proc" / "driver" / "nvidia" / "version").read_text()
    except OSError:
        return ""
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found[0] if found else ""


def _remedy(driver: str, cuda: str | None) -> str:
    if not driver:
        return "install NVIDIA's driver, or start the container with its GPUs (docker: --gpus all)"
    version = int(driver.partition(".")[0])
    if version < ANY_CUDA_12_DRIVER:
        return f"update the driver to {ANY_CUDA_12_DRIVER} or newer"
    if cuda is None or version < NEEDED_DRIVER.get(cuda.partition(".")[0], 0):
        needed = f" (CUDA {cuda} needs driver {NEEDED_DRIVER[cuda.partition('.')[0]]})" if cuda else ""
        return f"pip install --force-reinstall torch torchvision --index-url {WHEELS}{needed}"
    return "see what nvidia-smi says"
