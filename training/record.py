"""training.json: what was trained, how and on what, for the model card and for whoever finds the folder later."""

import os
import shlex
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from training.state import TrainState
from utils.atomic import write_json

RECORD_FILE = "training.json"


def write_record(output_dir: Path, accelerator: Accelerator, state: TrainState) -> None:
    """Write the command, the hardware and the facts about the data; on the main process."""
    device = accelerator.device
    facts = {
        "command": _command(accelerator.num_processes),
        "processes": accelerator.num_processes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in state.models["model"].parameters()),
        "data": state.data,
    }
    write_json(output_dir / RECORD_FILE, facts)


def _command(num_processes: int) -> str:
    """The command line of this process, with a launcher for several processes."""
    words = [*sys.argv]
    launcher = ["python"]
    if num_processes > 1:
        local = os.environ.get("LOCAL_WORLD_SIZE", str(num_processes))
        launcher = ["torchrun", f"--nnodes={num_processes // int(local)}", f"--nproc_per_node={local}"]
    if words and Path(words[0]).is_relative_to(Path.cwd()):
        words[0] = str(Path(words[0]).relative_to(Path.cwd()))
    return shlex.join([*launcher, *words])
