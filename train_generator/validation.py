"""Validate a generator during its training."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch.compiler import set_stance

from dataset.code_dataset import CodeBatch, CodeSource
from dataset.position_pictures import PositionValues, position_picture
from modeling.interfaces import Generator
from train_generator.loss_noise import loss_noise
from training.logging import Logger


class Validation:
    """Loss and accuracy over the first view of every held-out image."""

    def __init__(
        self,
        data: CodeSource,
        to_device: Callable[[CodeBatch], CodeBatch],
        accelerator: Accelerator,
        batch_size: int,
    ):
        """to_device: moves a batch to the device, and encodes its images if it has no codes."""
        self.data = data
        self.to_device = to_device
        self.accelerator = accelerator
        self.batch_size = batch_size

    @torch.no_grad()
    def run(self, model: Generator, step: int, logger: Logger) -> dict[str, float]:
        """Metrics of all ranks by name; the main one logs them and draws the accuracy by position."""
        sums, by_position = self._sums(model.eval())
        total, accuracy, count = self.accelerator.reduce(sums).tolist()
        right, asked = self.accelerator.reduce(by_position).cpu().numpy()
        metrics = {"val_loss": total / count, "val_accuracy": accuracy / count}
        logger.log(step, metrics)
        if self.accelerator.is_main_process:
            accuracies = np.divide(100 * right, asked, out=np.full_like(right, np.nan), where=asked > 0)
            panel = PositionValues(f"top-1 accuracy, %, step {step}", accuracies)
            picture = position_picture([panel], model.layout)
            logger.image(step, "accuracy_by_position", picture, "accuracy_by_position.png")
        return metrics

    def _sums(self, model: Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's sums of loss and accuracy and its number of images (3,), and at each position how many codes
        were predicted right and how many were asked for (2, T)."""
        world, device = self.accelerator.num_processes, self.accelerator.device
        mine = np.arange(self.accelerator.process_index, len(self.data), world)
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        by_position = torch.zeros(2, model.layout.num_codes, dtype=torch.float64, device=device)
        longest = -(-len(self.data) // world)
        for start in range(0, longest, self.batch_size):  # equally often on each rank: all gather sharded weights
            chosen = mine[start : start + self.batch_size]
            indices = chosen if len(chosen) else np.zeros(1, int)
            # Drop decode failures here: only training files count towards max_bad_fraction.
            batch = self.data[indices, np.zeros((len(indices), 1)), indices]._replace(failures=[])
            batch = self.to_device(batch)
            noise = loss_noise(0, batch.sample_numbers, model.loss_noise).to(device)
            # Compiled blocks would be compiled again for the smaller last batch.
            eager = set_stance("force_eager") if len(indices) < self.batch_size else nullcontext()
            with self.accelerator.autocast(), eager:
                loss = model.loss(batch.codes, batch.class_ids, None, noise)
            n = len(chosen)
            sums += torch.stack([loss.value.double() * n, loss.accuracy.double() * n, torch.tensor(n, device=device)])
            hits = loss.hits[:n].double()
            by_position += torch.stack([hits.nansum(0), (~hits.isnan()).sum(0)])
        return sums, by_position
