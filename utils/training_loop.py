"""The loop both trainings run: data by step, logging, validation, checkpoints, stopping, finishing."""

import sys
import time
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dataset.sampler import ShuffledBatches
from utils.accelerator import NonFiniteGuard, build_accelerator, seed_step
from utils.checkpoint import (
    checkpoint_step,
    find_resume,
    list_checkpoints,
    load_training_state,
    save_checkpoint,
)
from utils.errors import UserError
from utils.meters import Meters
from utils.plots import plot_curves
from utils.stop_signal import StopSignal, ignore_stop_signals
from utils.tracking import Tracker


class TrainingLoop(ABC):
    """A training whose step n is a function of configuration, seed, n and the state before it.

    Subclasses build models in their constructor, set `step` when they resume, and fill in the
    abstract parts. `run` trains to `total_steps`.
    """

    total_steps: int
    dataset: Dataset
    curves: tuple[tuple[str, ...], ...] = ()

    def __init__(self, config: Any):
        self.config = config
        self.accelerator: Accelerator = build_accelerator(config.training)
        self.guard = NonFiniteGuard(self.accelerator, config.training.max_grad_norm)
        self.output_dir = Path(config.experiment.output_dir)
        self.step = 0

    @abstractmethod
    def to_device(self, batch: Any) -> Any:
        """One micro-batch of the dataset, moved and converted."""

    @abstractmethod
    def optimize(self, batches: list[Any]) -> dict[str, Any]:
        """One optimizer step of step number `self.step`; returns the values to log."""

    @abstractmethod
    def state(self) -> tuple[dict[str, dict], dict[str, Any]]:
        """What a checkpoint holds: weights by file stem, and everything else."""

    @abstractmethod
    def restore(self, folder: Path, state: dict[str, Any]) -> None:
        """Take over what `state()` gave when the checkpoint `folder` was written."""

    @abstractmethod
    def evaluate(self, tracker: Tracker) -> dict[str, float]:
        """Validate on all ranks; log and draw on the main one."""

    @abstractmethod
    def export(self) -> None:
        """Write the final weights (main process)."""

    def extras(self, tracker: Tracker) -> None:
        """Anything else that is due at `self.step`; nothing by default."""
        return

    def train_step(self, batches: list[Any]) -> dict[str, Any]:
        """One optimizer step on this rank's micro-batches; advances `step`."""
        seed_step(self.config.training.seed, self.step, self.accelerator.process_index)
        values = self.optimize(batches)
        self.step += 1
        return values

    def resume(self) -> bool:
        """Go on from the checkpoint that `experiment.resume` names, if any; before `prepare`."""
        folder = find_resume(self.config.experiment.resume, self.output_dir)
        if folder is None:
            return False
        state = load_training_state(folder)
        self.restore(folder, state)
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.accelerator.print(f"resumed from {folder}")
        return True

    def save(self) -> None:
        """Write the checkpoint of the current step; every rank calls it."""
        if self.accelerator.is_main_process:
            weights, state = self.state()
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            save_checkpoint(self.output_dir, self.step, weights, state, self.config.experiment.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def loader(self) -> DataLoader:
        """This rank's micro-batches from the current step on."""
        accumulation = self.config.training.gradient_accumulation_steps
        batches = ShuffledBatches(
            len(self.dataset),
            self.config.training.per_gpu_batch_size,
            seed=self.config.training.seed,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            start=self.step * accumulation,
            stop=self.total_steps * accumulation,
        )
        return DataLoader(
            self.dataset,
            sampler=batches,
            batch_size=None,  # the dataset makes a whole batch at a time
            num_workers=self.config.dataset.params.num_workers_per_gpu,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=ignore_stop_signals,
        )

    def check_resumed_together(self) -> None:
        """Raise UserError unless all ranks start at the same step; called once models are loaded."""
        steps = self.accelerator.gather(torch.tensor([self.step], device=self.accelerator.device))
        if steps.min() != steps.max():
            raise UserError(
                f"ranks found checkpoints of different steps ({steps.tolist()}): experiment.output_dir must be a"
                " folder that all machines share"
            )

    @property
    def images_per_step(self) -> int:
        training = self.config.training
        return training.per_gpu_batch_size * training.gradient_accumulation_steps * self.accelerator.num_processes

    def run(self) -> None:
        """Train to the last step, then export. Exits with 128 + signal after a wish to stop."""
        config, accelerator = self.config, self.accelerator
        self.check_resumed_together()
        if self.step >= self.total_steps and (self.output_dir / "model.safetensors").is_file():
            accelerator.print(f"{self.output_dir} is trained already ({self.total_steps} steps)")
            return
        later = [p.name for p in list_checkpoints(self.output_dir) if checkpoint_step(p) > self.step]
        if later:
            raise UserError(
                f"{self.output_dir} holds a checkpoint of a later step ({later[-1]}): set experiment.resume=auto to"
                " go on from it, remove it, or choose another experiment.output_dir"
            )
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.structured(config), self.output_dir / "config.yaml")
        tracker = Tracker(
            self.output_dir,
            asdict(config),
            use_wandb=config.training.enable_wandb,
            enabled=accelerator.is_main_process,
        )
        with StopSignal(accelerator) as stop:
            self._train(tracker, stop)
            if accelerator.is_main_process and self.step >= self.total_steps:
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
        meters = Meters()
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            desc=experiment.name,
            disable=not self.accelerator.is_main_process,
            mininterval=1.0,
        )
        while self.step < self.total_steps:
            waiting = time.perf_counter()
            batches = [self.to_device(next(loader)) for _ in range(self.config.training.gradient_accumulation_steps)]
            waited = time.perf_counter() - waiting
            values = self.train_step(batches)
            meters.add(self.images_per_step, waited, **values)
            bar.update()
            last = self.step == self.total_steps

            def due(every: int, last: bool = last) -> bool:
                return last or (every > 0 and self.step % every == 0)

            if due(experiment.log_every):
                means = meters.pop(self.accelerator) | {"skipped_steps": self.guard.skipped}
                if not due(getattr(experiment, "log_grad_norm_every", 1)):
                    means.pop("grad_norm", None)
                tracker.log(self.step, means)
                bar.set_postfix(loss=f"{means.get('loss', float('nan')):.4f}")
            if due(experiment.eval_every):
                shown = {k: f"{v:.3f}" for k, v in self.evaluate(tracker).items()}
                bar.set_postfix(shown)
            self.extras(tracker)
            stopping = stop.requested(self.step)
            if due(experiment.save_every) or stopping:
                self.save()
                if self.accelerator.is_main_process:
                    plot_curves(self.output_dir, self.curves, self.output_dir / "curves.png", experiment.name)
            if stopping:
                break
        bar.close()
