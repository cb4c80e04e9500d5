"""Skip optimizer steps if loss or gradient is not finite."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.fsdp import gather_full
from training.preemption import StopRequest
from utils.config import option
from utils.errors import UserError
from utils.progress import tqdm


@dataclass
class GuardSettings:
    """Part of `training`."""

    max_grad_norm: float | None = option(1.0, "clip gradients to this norm; null: no clipping", above=0)
    max_bad_steps: int = option(20, "steps in a row without finite loss and gradient that end the run", min=1)


class StepGuard:
    """Clips gradients and updates the weights, unless loss or gradient is not finite."""

    def __init__(self, accelerator: Accelerator, settings: GuardSettings, stop: StopRequest):
        """stop: the ranks agree on it in the guard's own reduction."""
        self.accelerator = accelerator
        self.stop = stop
        self.max_grad_norm = float("inf") if settings.max_grad_norm is None else settings.max_grad_norm
        self.max_bad_steps = settings.max_bad_steps
        self.bad_in_a_row = 0

    def update(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Tensor,
        *,
        step: int,
        describe: Callable[[], str] = str,
        before_update: Callable[[], None] = lambda: None,
    ) -> tuple[float, bool]:
        """Returns the gradient norm before clipping, and whether the weights were updated.

        loss: this rank's mean over all micro-batches. describe: a description of this rank's batch, for the error.
        before_update: called just before an update. All ranks decide alike.
        Raises UserError after `max_bad_steps` skipped steps in a row.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        norm = gather_full(self.accelerator.clip_grad_norm_(parameters, self.max_grad_norm))
        bad = ~(torch.isfinite(norm) & torch.isfinite(loss.detach())).to(self.accelerator.device)
        flags = torch.stack([bad.to(norm.dtype), *self.stop.flags(norm.dtype)])
        if self.accelerator.num_processes > 1:
            flags = self.accelerator.reduce(flags)
        # Waits for the device; the only time in a step.
        bad, *stops, norm = torch.cat([flags, norm.to(flags.device)[None]]).tolist()
        self.stop.agree(stops)
        if not bad:
            before_update()
            optimizer.step()
            self.bad_in_a_row = 0
        else:
            self._skip(step, float(loss), describe)
        optimizer.zero_grad(set_to_none=True)
        return norm, not bad

    def _skip(self, step: int, loss: float, describe: Callable[[], str]) -> None:
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # it saw the overflow while clipping, and lowers its scale
        self.bad_in_a_row += 1
        if self.accelerator.is_main_process:
            tqdm.write(f"warning: step {step} skipped, its loss or gradient is not finite")
        if self.bad_in_a_row >= self.max_bad_steps:
            raise UserError(
                f"{self.bad_in_a_row} steps in a row up to step {step} had no finite loss and gradient; nothing new was"
                f" saved. Lower the learning rate, or resume from an older checkpoint. The last loss on this rank"
                f" was {loss:g}; {describe()}"
            )
