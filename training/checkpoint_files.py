"""Checkpoint folders: written whole or not at all, found again after a crash.

OUTPUT/checkpoints/step_00001000/model.safetensors       weights of the model being trained
                                 ema.safetensors         moving average, if there is one
                                 training_state.pt       everything else that a resumed run needs
                                 milestone               empty; marks a checkpoint that is never removed
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from utils.atomic import flush_to_disk
from utils.errors import UserError, first_line
from utils.weights import read_state_dict

STATE_FILE = "training_state.pt"
MILESTONE_FILE = "milestone"


def checkpoint_folder(output_dir: str | Path, step: int) -> Path:
    return Path(output_dir) / "checkpoints" / f"step_{step:08d}"


def checkpoint_step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def save_checkpoint(
    output_dir: str | Path,
    step: int,
    weights: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    *,
    keep: int,
    milestone: bool = False,
) -> Path:
    """Write the checkpoint of `step`, then remove all but the `keep` newest and the milestones.

    weights: file stem -> state dict; state: tensors, numbers, strings and containers of them.
    A kill at any moment leaves the previous checkpoint, or this one, complete. If there is a checkpoint of
    this step, the run was resumed from it, and it stays.
    Raises OSError or SafetensorError if the disk is full; older checkpoints stay.
    """
    folder = checkpoint_folder(output_dir, step)
    if folder in list_checkpoints(output_dir):
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # incomplete, made by another program
    part.mkdir(parents=True)
    try:
        for name, tensors in weights.items():
            plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            safetensors.torch.save_file(plain, part / f"{name}.safetensors")
        with (part / STATE_FILE).open("wb") as file:
            torch.save({**state, "step": step}, file)
        if milestone:
            (part / MILESTONE_FILE).touch()
        for path in (*part.iterdir(), part):
            flush_to_disk(path)
        os.replace(part, folder)
        flush_to_disk(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # a partial checkpoint would keep a full disk full
        raise
    for old in list_checkpoints(output_dir)[:-keep]:
        if not (old / MILESTONE_FILE).exists():
            _remove(old)
    return folder


def _remove(folder: Path) -> None:
    """Rename first: an interrupted delete must not look like a checkpoint."""
    part = folder.with_name(folder.name + ".part")
    os.replace(folder, part)
    shutil.rmtree(part, ignore_errors=True)


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = (Path(output_dir) / "checkpoints").glob("step_*")
    return sorted(p for p in found if re.fullmatch(r"step_\d{8}", p.name) and (p / STATE_FILE).is_file())


def find_resume(resume: str | None, output_dir: str | Path) -> Path | None:
    """The checkpoint that `experiment.resume` names: auto | PATH | false.

    `auto` is the newest one in `output_dir`, or None for a fresh start.
    """
    resume = resume or "false"
    if resume.lower() in ("false", "no", "off", "none", "null"):
        return None
    if resume.lower() in ("auto", "true", "yes", "on"):
        found = list_checkpoints(output_dir)
        return found[-1] if found else None
    path = Path(resume)
    if not (path / STATE_FILE).is_file():
        raise UserError(f"experiment.resume: {path} is not a checkpoint folder (it has no {STATE_FILE})")
    return path


def load_training_state(folder: Path) -> dict[str, Any]:
    try:
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{folder / STATE_FILE} is damaged ({first_line(error)}); remove {folder}") from error
    if not isinstance(state, dict) or not state.keys() >= {"step", "samples_seen", "skipped_steps", "undecodable"}:
        raise UserError(f"{folder / STATE_FILE} is not the state of a training of this project; remove {folder}")
    return state


def has_weights(folder: Path, name: str) -> bool:
    return (folder / f"{name}.safetensors").is_file()


def load_checkpoint_weights(folder: Path, name: str) -> dict[str, Tensor]:
    try:
        return read_state_dict(folder / f"{name}.safetensors")
    except UserError as error:
        raise UserError(f"{error}; remove {folder} to resume from an earlier checkpoint") from error
