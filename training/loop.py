"""The loop both trainings run: data by step, logging, validation, checkpoints, stopping, finishing."""

import sys
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset.bad_files import BadFiles
from dataset.code_dataset import CodeSource
from dataset.data_order import ShuffledBatches
from dataset.image_dataset import TrainingImages
from training.checkpoint import (
    checkpoint_step,
    find_resume,
    has_weights,
    list_checkpoints,
    load_checkpoint_weights,
    load_training_state,
    save_checkpoint,
)
from training.distributed import NonFiniteGuard, build_accelerator, require_agreement, seed_step
from training.fsdp import full_state, load_optimizer_state, optimizer_state
from training.logging import Tracker
from training.meters import Meters
from training.plots import plot_curves
from training.preemption import StopSignal
from training.source_fingerprint import code_fingerprint
from utils.config import flat
from utils.errors import UserError, first_line
from utils.folder_lock import exclusive_lock
from utils.process import ignore_stop_signals
from utils.weights import export_weights, exported_step, load_strict

LOCK_PATIENCE = 120  # seconds; a machine that died holds its locks on network file systems for about 90


class TrainingLoop(ABC):
    """A training whose step n is a function of configuration, seed, n and the state before it.

    Subclasses fill `models` and `optimizers` in their constructor, call `resume` and then, before
    anything that ranks do together, `check_agreement`, and fill in the abstract parts. `run` trains
    to `total_steps`.
    """

    total_steps: int
    dataset: TrainingImages | CodeSource
    curves: tuple[tuple[str, ...], ...] = ()

    def __init__(self, config: Any):
        self.config = config
        self.accelerator: Accelerator = build_accelerator(config.training)
        self.guard = NonFiniteGuard(self.accelerator, config.training.max_grad_norm, config.training.max_bad_steps)
        self.output_dir = Path(config.experiment.output_dir)
        # What a checkpoint holds, with what `counters` returns: everything that decides how a
        # resumed run goes on. Random states are none of it, see `seed_step`.
        self.models: dict[str, nn.Module] = {}
        self.optimizers: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {}
        self.sharded = False  # whether each rank holds a part of the weights only
        self._resumed: dict[str, Any] = {}
        self._lock = ExitStack()  # of the output folder, from before a resume to the end of `run`
        self.step = 0  # optimizer steps done
        self.samples_seen = 0  # by all ranks together
        self.bad_files: BadFiles | None = None  # where files are decoded during training
        self.stopping = False
        self.ema: Any = None  # timm's ModelEmaV3

    @abstractmethod
    def to_device(self, batch: Any) -> Any:
        """One micro-batch of the dataset, moved and converted."""

    @abstractmethod
    def optimize(self, batches: list[Any]) -> dict[str, Any]:
        """One optimizer step of step number `self.step`; returns the values to log."""

    @abstractmethod
    def evaluate(self, tracker: Tracker) -> dict[str, float]:
        """Validate on all ranks; log and draw on the main one."""

    @abstractmethod
    def export(self) -> None:
        """Write the final weights; called on every rank, to be done by the main process."""

    def extras(self, tracker: Tracker) -> None:
        """Anything else that is due after a step; nothing by default."""
        return

    def begin(self, tracker: Tracker) -> None:
        """Called once before the first step, and after a resume; nothing by default."""
        return

    def log_values(self, means: dict[str, float]) -> dict[str, float]:
        """More values for each log line, whose means are given; called on every rank."""
        return {}

    def is_milestone(self, step: int) -> bool:
        """Whether a checkpoint of `step` is due whatever `save_every` says, never to be removed."""
        every = self.config.experiment.milestone_every
        return every > 0 and step % every == 0

    def counters(self) -> dict[str, Any]:
        """Numbers, strings and lists of them that go into a checkpoint."""
        bad = sorted(self.bad_files.indices) if self.bad_files else []
        return {"samples_seen": self.samples_seen, "skipped_steps": self.guard.skipped, "undecodable": bad}

    def restore_counters(self, state: dict[str, Any]) -> None:
        self.samples_seen = state["samples_seen"]
        self.guard.skipped = state["skipped_steps"]
        if self.bad_files:
            self.bad_files.indices.update(state["undecodable"])

    def describe(self, batches: list[Any]) -> str:
        """Which images some micro-batches hold, for a message."""
        indices = [i for batch in batches for i in batch.indices.tolist()]
        return f"its images were {self.dataset.describe(indices)}"

    def common_facts(self) -> dict[str, str]:
        """More that all ranks must have in common, by name, where they would wait for each other otherwise."""
        return {}

    def average_weights(self, model: nn.Module) -> None:
        """Keep a moving average of `model`, where `training.use_ema` asks for one."""
        if self.config.training.use_ema:
            from timm.utils import ModelEmaV3  # a second of every start, for those who need it

            self.ema = ModelEmaV3(model, self.config.training.ema_decay)
            self.models["ema"] = self.ema.module

    @property
    def inference_model(self) -> Any:
        """The averaged weights where there are any."""
        return self.models.get("ema", self.models["model"])

    def train_step(self, batches: list[Any]) -> dict[str, Any]:
        """One optimizer step on this rank's micro-batches; advances `step`."""
        seed_step(self.config.training.seed, self.step, self.accelerator.process_index)
        values = self.optimize(batches)
        self.step += 1
        self.samples_seen += self.images_per_step
        return values

    def resume(self) -> bool:
        """Go on from the checkpoint that `experiment.resume` names, if any; before `prepare`."""
        return self.resume_models() and self.resume_optimizers()

    def resume_models(self) -> bool:
        """Take the output folder's lock, then weights and counters of the checkpoint to go on from, if there is one.

        Models that the checkpoint does not hold start as they are: a configuration may add the
        GAN or the moving average on the way.
        """
        if self.accelerator.is_main_process:  # first: what another run does meanwhile would not be seen
            self._lock.enter_context(exclusive_lock(self.output_dir, LOCK_PATIENCE))
        self.accelerator.wait_for_everyone()
        folder = find_resume(self.config.experiment.resume, self.output_dir)
        if folder is None:
            return False
        self._resumed = load_training_state(folder)
        for name, model in self.models.items():
            if name == "model" or has_weights(folder, name):
                load_strict(model, load_checkpoint_weights(folder, name), folder)
                continue
            self.accelerator.print(f"{folder} holds no '{name}': it starts anew")
            if name == "ema":
                model.load_state_dict(self.models["model"].state_dict())
        self.step = self._resumed["step"]
        self.restore_counters(self._resumed)
        self.accelerator.print(f"resumed from {folder}")
        return True

    def resume_optimizers(self) -> bool:
        """Their states, after `resume_models` and, where weights are sharded, after that."""
        for name, (model, optimizer) in self.optimizers.items():
            if name in self._resumed:
                try:
                    load_optimizer_state(model, optimizer, self._resumed[name])
                except (ValueError, KeyError) as error:
                    raise UserError(f"experiment.resume: {name} does not fit the model ({error})") from error
        if self.accelerator.scaler is not None and "scaler" in self._resumed:
            self.accelerator.scaler.load_state_dict(self._resumed["scaler"])
        self._resumed = {}
        return True

    def save(self, milestone: bool = False) -> bool:
        """Write the checkpoint of the current step; every rank calls it. False where the main one could not.

        A disk that takes no more costs a warning before the last step: a later checkpoint may
        succeed, and stopping would lose the work since the last one for certain.
        """
        failure, main = None, self.accelerator.is_main_process
        if main or self.sharded:  # then every rank has a part to give
            state = {name: optimizer_state(*pair, keep=main) for name, pair in self.optimizers.items()}
            weights = {name: full_state(model, keep=main) for name, model in self.models.items()}
        if main:
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            try:
                save_checkpoint(
                    self.output_dir,
                    self.step,
                    weights,
                    state | self.counters(),
                    keep=self.config.experiment.keep_checkpoints,
                    milestone=milestone,
                )
            except (OSError, RuntimeError, SafetensorError) as error:
                failure = first_line(error)
        self.accelerator.wait_for_everyone()
        if failure:
            kept = list_checkpoints(self.output_dir)
            newest = f"the newest one is of step {checkpoint_step(kept[-1])}" if kept else "there is none yet"
            message = f"the checkpoint of step {self.step} could not be written ({failure}); {newest}"
            if self.step >= self.total_steps or self.stopping:
                raise UserError(f"{message}. Free space in {self.output_dir} and run again with experiment.resume=auto")
            tqdm.write(f"warning: {message}. Free space in {self.output_dir}", file=sys.stderr)
        return not failure

    def write_result(self, state: dict[str, Tensor]) -> None:
        """The weights that users of the training load; for the main process."""
        try:
            export_weights(self.output_dir, state, self.step)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"the weights could not be written to {self.output_dir} ({first_line(error)}); the checkpoint is"
                " there: free space, and run again with experiment.resume=auto"
            ) from error

    def loader(self) -> DataLoader:
        """This rank's micro-batches from the current step on."""
        training = self.config.training
        batches = ShuffledBatches(
            len(self.dataset),
            training.per_gpu_batch_size,
            seed=training.seed,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            seen=self.samples_seen,
            num_batches=(self.total_steps - self.step) * training.gradient_accumulation_steps,
        )
        return DataLoader(
            self.dataset,
            sampler=batches,
            batch_size=None,  # the dataset makes a whole batch at a time
            num_workers=self.config.dataset.params.num_workers_per_gpu,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=ignore_stop_signals,
        )

    def check_agreement(self) -> None:
        """Raise UserError unless all ranks have the same configuration, data, code and starting step."""
        require_agreement(
            self.accelerator,
            {
                **flat(asdict(self.config)),
                "the starting step": str(self.step),
                "the data": self.dataset.fingerprint(),
                "the code": code_fingerprint(),
                **self.common_facts(),
            },
            "All machines need the same command, the same checkout, and a shared experiment.output_dir",
        )

    @property
    def images_per_step(self) -> int:
        training = self.config.training
        return training.per_gpu_batch_size * training.gradient_accumulation_steps * self.accelerator.num_processes

    def run(self) -> None:
        """Train to the last step, then export. Exits with 128 + signal after a wish to stop."""
        if self.step >= self.total_steps and exported_step(self.output_dir) == self.step:
            self.accelerator.print(f"{self.output_dir} is trained already ({self.step} steps)")
            return
        with self._lock:
            self._run()

    def _run(self) -> None:
        config, accelerator = self.config, self.accelerator
        later = [p.name for p in list_checkpoints(self.output_dir) if checkpoint_step(p) > self.step]
        if later:
            raise UserError(
                f"{self.output_dir} holds a checkpoint of a later step ({later[-1]}): set experiment.resume=auto to"
                " go on from it, remove it, or choose another experiment.output_dir"
            )
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            OmegaConf.save(OmegaConf.structured(config), self.output_dir / "config.yaml")
        tracker = Tracker(
            self.output_dir,
            asdict(config),
            use_wandb=config.training.enable_wandb,
            enabled=accelerator.is_main_process,
            first_step=self.step,
        )
        with StopSignal(accelerator) as stop:
            self._train(tracker, stop)
            if self.step >= self.total_steps:
                self.export()
            tracker.close()
        if self.step < self.total_steps:
            accelerator.print(
                f"stopped at step {self.step} of {self.total_steps}; run the same command with"
                " experiment.resume=auto to go on"
            )
            sys.exit(stop.exit_code)

    def _train(self, tracker: Tracker, stop: StopSignal) -> None:
        experiment = self.config.experiment
        loader = iter(self.loader())
        meters = Meters(latest=("lr", "epoch"))
        save_due = milestone_due = False
        with tqdm(
            total=self.total_steps,
            initial=self.step,
            desc=experiment.name,
            disable=not self.accelerator.is_main_process,
            mininterval=1.0,
        ) as bar:
            self.begin(tracker)
            if self.step >= self.total_steps:  # ended between its last checkpoint and the last validation
                self.evaluate(tracker)
                self._plot()
            while self.step < self.total_steps:
                waiting = time.perf_counter()
                batches = [
                    self.to_device(next(loader)) for _ in range(self.config.training.gradient_accumulation_steps)
                ]
                waited = time.perf_counter() - waiting
                values = self.train_step(batches)
                meters.add(self.images_per_step, waited, **values)
                bar.update()
                last = self.step == self.total_steps
                milestone = self.is_milestone(self.step)

                def due(every: int, last: bool = last) -> bool:
                    return last or (every > 0 and self.step % every == 0)

                if due(experiment.log_every):
                    means = meters.pop(self.accelerator) | {"skipped_steps": self.guard.skipped}
                    if self.bad_files:
                        means["undecodable_files"] = self.bad_files.sync_across_ranks()
                    means |= self.log_values(means)
                    left = (self.total_steps - self.step) * self.images_per_step
                    means["eta_hours"] = left / means["images_per_second"] / 3600
                    if not due(getattr(experiment, "log_grad_norm_every", 1)):
                        means.pop("grad_norm", None)
                    tracker.log(self.step, means)
                    bar.set_postfix(loss=f"{means.get('loss', float('nan')):.4f}")
                self.stopping = stop.requested()
                milestone_due |= milestone
                save_due |= milestone or due(experiment.save_every)
                # Amid bad steps the older checkpoints may be the better ones to go back to: the next good step's.
                sound = self.guard.in_a_row == 0
                # Before validation, whose failure would otherwise cost the steps since the last one.
                if last or self.stopping or (save_due and sound):
                    with meters.pause():
                        saved = self.save(milestone_due)
                    save_due = False
                    milestone_due &= not saved  # on a full disk it is the next one that is kept
                if self.stopping and not last:
                    break
                with meters.pause():
                    if due(experiment.eval_every) or milestone:
                        bar.set_postfix({k: f"{v:.4g}" for k, v in self.evaluate(tracker).items()})
                        self._plot()
                    self.extras(tracker)

    def _plot(self) -> None:
        if self.accelerator.is_main_process:
            try:
                plot_curves(self.output_dir, self.curves, self.output_dir / "curves.png", self.config.experiment.name)
            except OSError as error:  # a full disk, of which `save` has warned
                tqdm.write(f"warning: no plot of the curves ({error})", file=sys.stderr)
