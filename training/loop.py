"""The training loop: data, step, log, checkpoint, validate, stop, export."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from accelerate import Accelerator

from training.checkpoint import Checkpointer
from training.compare import CurveWatch, make_watch
from training.distributed import require_agreement
from training.guard import StepGuard
from training.logging import Logger
from training.meters import StepStats
from training.plots import plot_curves
from training.preemption import StoppedWaiting
from training.source_fingerprint import source_fingerprint
from utils.config import flatten_keys, option
from utils.errors import warn
from utils.progress import tqdm
from utils.weights import exported_step

BAR = "{desc}{n_fmt}/{total_fmt}|{bar}| {elapsed}<{remaining}, {rate_fmt}{postfix}"  # long trainings fit 80 columns


@dataclass
class BatchSettings:
    """Part of `training`."""

    per_gpu_batch_size: int = option(48, "images per process and micro-batch", min=1)
    gradient_accumulation_steps: int = option(1, "micro-batches of a step", min=1)


@dataclass
class EvalSettings:
    """Part of `experiment`."""

    eval_every: int = option(5000, "steps between validations", min=1)


def shown(means: dict[str, float]) -> dict[str, str]:
    """What the progress bar has room for."""
    formats = {"loss": ("loss", ".3g"), "accuracy": ("acc", ".1%")}
    return {short: format(means[name], how) for name, (short, how) in formats.items() if name in means}


def images_per_step(settings: BatchSettings, num_processes: int) -> int:
    return settings.per_gpu_batch_size * settings.gradient_accumulation_steps * num_processes


def check_agreement(accelerator: Accelerator, config: Any, facts: dict[str, str]) -> None:
    """Raise UserError unless all ranks have the same configuration, source code and `facts`.

    Call it before the ranks do anything together: ranks that differ would wait for each other.
    """
    facts = {**flatten_keys(asdict(config)), "the source code": source_fingerprint(), **facts}
    advice = "All machines need the same command, the same checkout, and a shared experiment.output_dir"
    require_agreement(accelerator, facts, advice)


def train(
    *,
    config: Any,  # with `experiment` (ExperimentSettings) and `training` (TrainingSettings)
    accelerator: Accelerator,
    checkpointer: Checkpointer,
    guard: StepGuard,
    total_steps: int,
    batches: Iterator[list[Any]],  # micro-batches of each step from the current one on, on the device
    train_step: Callable[[list[Any]], dict[str, Any]],  # one step, which advances the state; returns the values to log
    validate: Callable[[Logger], dict[str, float]],  # on all ranks; logs and draws on the main one
    export: Callable[[], None],  # writes the final weights, on all ranks
    curves: tuple[tuple[str, ...], ...],  # panels of curves.png: names of logged values
    on_start: Callable[[Logger], None] = lambda logger: None,  # before the first step, and after a resume
    after_step: Callable[[Logger], None] = lambda logger: None,  # whatever else is due
    finish_log: Callable[[dict[str, float]], dict[str, float]] = lambda means: means,  # what to log, from the means
    is_milestone: Callable[[int], bool] | None = None,  # whether a step's checkpoint is kept forever
) -> None:
    """Train from the checkpointer's state to `total_steps`, then export.

    Step n depends only on configuration, seed, n and the state before it. Exits with 128 + signal if
    SIGTERM or SIGINT asks to stop.
    """
    state, experiment, output_dir = checkpointer.state, config.experiment, checkpointer.output_dir
    is_milestone = is_milestone or checkpointer.is_milestone
    if state.step >= total_steps and exported_step(output_dir) == state.step:
        accelerator.print(f"{output_dir} is trained already ({state.step} steps)")
        return
    checkpointer.require_own_folder()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        checkpointer.write_config(config)
    watch = make_watch(config.training.compare)
    logger = Logger(
        output_dir,
        asdict(config),
        use_wandb=config.training.enable_wandb,
        enabled=accelerator.is_main_process,
        first_step=state.step,
        watch=watch and watch.add,
    )
    per_step = images_per_step(config.training, accelerator.num_processes)
    stats = StepStats(latest=("lr", "epoch"))
    save_due = milestone_due = False
    bar = tqdm(
        total=total_steps,
        initial=state.step,
        desc=experiment.name,
        unit="step",
        bar_format=BAR,
        disable=not accelerator.is_main_process,
    )
    with guard.stop as stop, bar:
        on_start(logger)
        if state.step >= total_steps:  # killed between the last checkpoint and the last validation
            validate(logger)
            _plot(checkpointer, curves, experiment.name, watch)
        while state.step < total_steps:
            start = time.perf_counter()
            try:
                with stop.waiting_for_data():
                    micro_batches = next(batches)
            except StoppedWaiting:
                # Other ranks may be inside the step, so only a single process can save.
                if accelerator.num_processes == 1 and state.step and guard.bad_in_a_row == 0:
                    checkpointer.save(required=True)
                break
            waited = time.perf_counter() - start
            values = train_step(micro_batches)
            stats.add(per_step, waited, **values)
            bar.update()
            last = state.step == total_steps

            def due(every: int, last: bool = last) -> bool:
                return last or state.step % every == 0

            if due(experiment.log_every):
                means = stats.pop(accelerator)
                means["skipped_steps"] = state.skipped_steps
                means = finish_log(means)
                means["eta_hours"] = (total_steps - state.step) * per_step / means["images_per_second"] / 3600
                logger.log(state.step, means)
                bar.set_postfix(shown(means))

            # Save before validation: if validation fails, no steps are lost.
            stopping, milestone = stop.requested(), is_milestone(state.step)
            save_due |= milestone or due(experiment.save_every)
            milestone_due |= milestone
            sound = guard.bad_in_a_row == 0  # never checkpoint right after a skipped step; wait for a finite one
            if last or stopping or (save_due and sound):
                with stats.pause():
                    saved = checkpointer.save(milestone=milestone_due, required=last or stopping)
                save_due = False
                milestone_due &= not saved  # on a full disk the next checkpoint becomes the milestone
            if stopping and not last:
                break
            with stats.pause():
                validating = due(experiment.eval_every) or milestone
                if validating:
                    measured = validate(logger)
                    if accelerator.is_main_process:  # a line of its own, as the bar has no room
                        numbers = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
                        tqdm.write(f"step {state.step}: {numbers}", file=sys.stderr)
                after_step(logger)
                if validating:  # last: the curves show what the step has logged
                    _plot(checkpointer, curves, experiment.name, watch)
        if state.step >= total_steps:
            if accelerator.is_main_process and watch and (problem := watch.nothing_compared()):
                warn(f"warning: {problem}")
            export()
        logger.close()
    if state.step < total_steps:
        accelerator.print(
            f"stopped at step {state.step} of {total_steps}; run the same command with experiment.resume=auto to resume"
        )
        sys.exit(stop.exit_code)


def _plot(
    checkpointer: Checkpointer, curves: tuple[tuple[str, ...], ...], title: str, watch: CurveWatch | None
) -> None:
    if checkpointer.accelerator.is_main_process:
        try:
            folder, limits = checkpointer.output_dir, watch and watch.reference.limits
            plot_curves(folder, curves, folder / "curves.png", title, limits)
        except OSError as error:  # a full disk; saving has warned about it
            tqdm.write(f"warning: no plot of the curves ({error})", file=sys.stderr)
