"""Save a training's state, and resume from it."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from omegaconf import MISSING, OmegaConf
from safetensors import SafetensorError
from torch import Tensor

from training.checkpoint_files import (
    checkpoint_step,
    find_resume,
    has_weights,
    list_checkpoints,
    load_checkpoint_weights,
    load_training_state,
    save_checkpoint,
)
from training.fsdp import full_state, load_optimizer_state, optimizer_state
from training.record import write_record
from training.state import TrainState
from utils.atomic import write_text
from utils.config import option
from utils.errors import UserError, first_line
from utils.folder_lock import LOCK_TIMEOUT, exclusive_lock
from utils.progress import tqdm
from utils.weights import WRITTEN_FILES, export_weights, load_strict

CONFIG_FILE = "config.yaml"
CONFIG_HEADER = "# All values of this training, which writes this file again at each start.\n"


@dataclass
class CheckpointSettings:
    """Part of `experiment`."""

    output_dir: str = option(MISSING, "folder for checkpoints, logs and final weights", path="write")
    resume: str | None = option(
        "auto", "auto: from the newest checkpoint in output_dir | path of a checkpoint | false", path="read"
    )
    save_every: int = option(5000, "steps between checkpoints", min=1)
    keep_checkpoints: int = option(2, "older ones are removed, except milestones", min=1)
    milestone_every: int = option(0, "steps between checkpoints that are never removed; 0: none", min=0)


class Checkpointer:
    """Writes and reads the checkpoints of one training; holds the lock of its output folder."""

    def __init__(
        self, state: TrainState, settings: CheckpointSettings, accelerator: Accelerator, sharded: bool = False
    ):
        """sharded: whether each rank holds only a part of the weights."""
        self.state = state
        self.settings = settings
        self.accelerator = accelerator
        self.sharded = sharded
        self.output_dir = Path(settings.output_dir)
        self.lock = ExitStack()  # lock of the output folder, to the end of the run
        self._saved: dict[str, Any] = {}  # the checkpoint's state, kept until the optimizers are loaded
        if accelerator.is_main_process:  # before the work, and before reading: another run may be writing
            self.lock.enter_context(exclusive_lock(self.output_dir, LOCK_TIMEOUT))
        accelerator.wait_for_everyone()

    # -- resume -----------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Load the checkpoint that `experiment.resume` names. Returns False if there is none."""
        if not self.resume_models():
            return False
        self.resume_optimizers()
        return True

    def resume_models(self) -> bool:
        """Load weights and counters of the checkpoint to resume from, if there is one.

        Models that the checkpoint lacks keep their initial weights: a configuration may add the GAN or the
        moving average later. Raises UserError if the checkpoint was trained on codes of another tokenizer,
        or with other names of the classes.
        """
        folder = find_resume(self.settings.resume, self.output_dir)
        if folder is None:
            return False
        self._saved = load_training_state(folder)
        for name, model in self.state.models.items():
            if name == "model" or has_weights(folder, name):
                load_strict(model, load_checkpoint_weights(folder, name), folder)
                continue
            self.accelerator.print(f"{folder} has no '{name}': it starts fresh")
            if name == "ema":
                model.load_state_dict(self.state.models["model"].state_dict())
        self.state.load_counters(self._saved)
        self._compare_data()
        self.accelerator.print(f"resumed from {folder}")
        return True

    def _compare_data(self) -> None:
        then, now = (facts.get("tokenizer_sha256") for facts in (self._saved, self.state.data))
        if then and now and then != now:
            raise UserError(
                "experiment.resume: the checkpoint was trained on codes of another tokenizer than this token cache"
                f" holds (SHA-256 {then[:12]} and {now[:12]})"
            )
        then, now = (facts.get("classes") or [] for facts in (self._saved, self.state.data))
        for number, (before, after) in enumerate(zip(then, now, strict=False)):
            if type(before) is type(after) and before != after:  # numbers and names cannot be compared
                raise UserError(
                    f"experiment.resume: class {number} is '{after}' in the training data, it was '{before}' before:"
                    " the generator would mix two classes. Give the data the classes they had"
                )
        then, now = (facts.get("num_images") for facts in (self._saved, self.state.data))
        if None not in (then, now) and then != now:
            self.accelerator.print(f"warning: {then} training images before, {now} now")

    def resume_optimizers(self) -> None:
        """Load the optimizers' states; after `resume_models`, and after sharding if there is any."""
        for name, (model, optimizer) in self.state.optimizers.items():
            if name in self._saved:
                try:
                    load_optimizer_state(model, optimizer, self._saved[name])
                except (ValueError, KeyError) as error:
                    raise UserError(f"experiment.resume: {name} does not fit the model ({error})") from error
        if self.accelerator.scaler is not None and "scaler" in self._saved:
            self.accelerator.scaler.load_state_dict(self._saved["scaler"])
        self._saved = {}

    def require_own_folder(self) -> None:
        """Raise UserError if the run would mix with checkpoints of a later step, or replace files of something else."""
        later = [p.name for p in list_checkpoints(self.output_dir) if checkpoint_step(p) > self.state.step]
        if later:
            raise UserError(
                f"{self.output_dir} holds a checkpoint of a later step ({later[-1]}): set experiment.resume=auto to"
                " resume from it, remove it, or choose another experiment.output_dir"
            )
        config = self.output_dir / CONFIG_FILE
        foreign = [path for name in WRITTEN_FILES if (path := self.output_dir / name).exists()]
        foreign += [config] if config.exists() and not config.read_bytes().startswith(CONFIG_HEADER.encode()) else []
        if self.state.step == 0 and foreign:
            raise UserError(
                f"{foreign[0]} is there and not of this training, which starts fresh and would replace it: move it"
                " away, or choose another experiment.output_dir"
            )

    def write_config(self, config: Any) -> None:
        """Record the whole configuration and the facts of the run in the output folder; on the main process."""
        write_text(self.output_dir / CONFIG_FILE, CONFIG_HEADER + OmegaConf.to_yaml(OmegaConf.structured(config)))
        write_record(self.output_dir, self.accelerator, self.state)

    # -- save -------------------------------------------------------------------------------------

    def is_milestone(self, step: int) -> bool:
        every = self.settings.milestone_every
        return every > 0 and step % every == 0

    def save(self, *, milestone: bool = False, required: bool = False) -> bool:
        """Write the checkpoint of the current step; every rank calls this. Returns whether it was written.

        A full disk is only a warning unless the checkpoint is `required`: a later one may succeed, while
        ending the run would lose the steps since the last one.
        """
        failure, main = None, self.accelerator.is_main_process
        if main or self.sharded:  # sharded: every rank takes part in the gathers
            saved = {name: optimizer_state(*pair, keep=main) for name, pair in self.state.optimizers.items()}
            weights = {name: full_state(model, keep=main) for name, model in self.state.models.items()}
        if main:
            if self.accelerator.scaler is not None:
                saved["scaler"] = self.accelerator.scaler.state_dict()
            saved |= self.state.counters()
            keep = self.settings.keep_checkpoints
            try:
                save_checkpoint(self.output_dir, self.state.step, weights, saved, keep=keep, milestone=milestone)
            except (OSError, RuntimeError, SafetensorError) as error:
                failure = first_line(error)
        self.accelerator.wait_for_everyone()
        if failure:
            self._report_failure(failure, required)
        return not failure

    def _report_failure(self, failure: str, required: bool) -> None:
        kept = list_checkpoints(self.output_dir)
        newest = f"the newest one is of step {checkpoint_step(kept[-1])}" if kept else "there is none yet"
        message = f"the checkpoint of step {self.state.step} could not be written ({failure}); {newest}"
        if required:
            raise UserError(f"{message}. Free space in {self.output_dir} and run again with experiment.resume=auto")
        tqdm.write(f"warning: {message}. Free space in {self.output_dir}", file=sys.stderr)

    def export(self, state: dict[str, Tensor]) -> None:
        """Write the weights that users of the training load; on the main process."""
        try:
            export_weights(self.output_dir, state, self.state.step)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"the weights could not be written to {self.output_dir} ({first_line(error)}); the checkpoint is"
                " complete: free space, and run again with experiment.resume=auto"
            ) from error
