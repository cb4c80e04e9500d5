"""Training the autoregressive generator on cached codes."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataset.token_cache import CachedCodes, TokenCache, open_token_cache
from modeling.build import build_generator, build_tokenizer, check_fit, load_tokenizer
from modeling.interfaces import Generator
from modeling.sampler import image_noise, sample_codes
from utils.accelerator import synchronized
from utils.errors import UserError
from utils.images import grid, preview_scale, save_png
from utils.lr_schedule import warmup_cosine
from utils.schema import ARConfig
from utils.tracking import Tracker
from utils.training_loop import TrainingLoop
from utils.weights import export_weights

PREVIEW_CLASSES = 10
PREVIEWS_PER_CLASS = 4


class LossModule(nn.Module):
    """The generator's loss as a forward, which is what DDP wraps."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, codes: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.generator.loss(codes, class_ids)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices alone: not on biases, norms and embeddings."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed, plain = [], []
    for parameter in model.parameters():
        matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
        (decayed if matrix else plain).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def check_cache(cache: TokenCache, generator: Generator, path: str) -> None:
    """Raise UserError unless the cache's codes are what the generator predicts."""
    for what, cached, expected, fits in (
        ("codes per image", cache.num_codes, generator.num_codes, cache.num_codes == generator.num_codes),
        (
            "codebook size",
            cache.codebook_size,
            generator.codebook_size,
            cache.codebook_size in (None, generator.codebook_size),
        ),
        ("classes", cache.num_classes, generator.num_classes, cache.num_classes <= generator.num_classes),
    ):
        if not fits:
            raise UserError(f"token cache {path} does not fit: {what} {cached} there, {expected} in the configuration")


class GeneratorTrainer(TrainingLoop):
    """Model, optimizer, average and caches of an AR training."""

    curves = (("loss", "val_loss"), ("accuracy", "val_accuracy"), ("grad_norm",), ("lr",), ("images_per_second",))

    def __init__(self, config: ARConfig):
        super().__init__(config)
        if config.optimizer.name != "adamw" or config.lr_scheduler.scheduler != "cosine":
            raise UserError("optimizer.name must be adamw and lr_scheduler.scheduler cosine")
        self.total_steps = config.training.max_train_steps
        self.generator = build_generator(config.model.generator).to(self.accelerator.device)
        with torch.device("meta"):  # its sizes are all that is asked for
            check_fit(build_tokenizer(config.model.vq_model), self.generator)
        params = config.dataset.params
        cache = open_token_cache(params.pretokenization)
        check_cache(cache, self.generator, params.pretokenization)
        self.dataset = CachedCodes(cache, config.experiment.max_train_examples)
        self.val_cache = None
        if params.pretokenization_val:
            self.val_cache = open_token_cache(params.pretokenization_val)
            check_cache(self.val_cache, self.generator, params.pretokenization_val)
        optimizer = config.optimizer.params
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.generator, optimizer.weight_decay),
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            fused=True,
        )
        self.models["model"] = self.generator
        self.average_weights(self.generator)
        self.optimizers["optimizer"] = self.optimizer
        self.resume()
        self.model, self.optimizer = self.accelerator.prepare(LossModule(self.generator), self.optimizer)
        self._tokenizer = None

    def learning_rate(self) -> float:
        schedule = self.config.lr_scheduler.params
        return warmup_cosine(
            self.step,
            base=schedule.learning_rate or self.config.optimizer.params.learning_rate,
            end=schedule.end_lr,
            warmup_steps=schedule.warmup_steps,
            total_steps=self.total_steps,
        )

    def to_device(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        codes, class_ids = (x.to(self.accelerator.device, non_blocking=True) for x in batch)
        return codes, class_ids

    def optimize(self, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        self.generator.train()
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, accuracies = [], []
        for i, (codes, class_ids) in enumerate(batches):
            with synchronized(self.accelerator, self.model, i == len(batches) - 1):
                loss, accuracy = self.model(codes, class_ids)
                self.accelerator.backward(loss / len(batches))
            losses.append(loss.detach())
            accuracies.append(accuracy)
        loss = torch.stack(losses).mean()
        norm = self.guard.step(self.generator, self.optimizer, loss, step=self.step)
        if self.ema is not None:
            self.ema.update(self.generator)
        return {
            "loss": loss,
            "accuracy": torch.stack(accuracies).mean(),
            "grad_norm": norm,
            "lr": rate,
            "epoch": (self.samples_seen + self.images_per_step) / len(self.dataset),
        }

    @torch.no_grad()
    def evaluate(self, tracker: Tracker) -> dict[str, float]:
        """Loss and accuracy over the first view of every held-out image."""
        if self.val_cache is None:
            return {}
        model, device = self.inference_model.eval(), self.accelerator.device
        batch_size = self.config.training.per_gpu_batch_size
        indices = range(self.accelerator.process_index, len(self.val_cache), self.accelerator.num_processes)
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            codes = torch.stack([torch.from_numpy(self.val_cache.codes(i, 0).astype("int64")) for i in chosen])
            class_ids = torch.from_numpy(self.val_cache.labels[chosen.start : chosen.stop : chosen.step])
            with self.accelerator.autocast():
                loss, accuracy = model.loss(codes.to(device), class_ids.to(device))
            n = len(codes)
            sums += torch.stack([loss.double() * n, accuracy.double() * n, torch.tensor(n, device=device).double()])
        sums = self.accelerator.reduce(sums)
        metrics = {"val_loss": float(sums[0] / sums[2]), "val_accuracy": float(sums[1] / sums[2])}
        tracker.log(self.step, metrics)
        return metrics

    def extras(self, tracker: Tracker) -> None:
        every = self.config.experiment.generate_every
        due = every > 0 and (self.step % every == 0 or self.step == self.total_steps)
        if due and self.accelerator.is_main_process:
            self.preview(tracker)

    def preview(self, tracker: Tracker) -> None:
        """Samples of fixed classes from fixed noise, so that progress shows from grid to grid."""
        settings = self.config.model.generator
        checkpoint = self.config.experiment.tokenizer_checkpoint
        if self._tokenizer is None:
            if not Path(checkpoint).is_file():
                print(f"warning: no previews, as experiment.tokenizer_checkpoint {checkpoint} is not there")
                self.config.experiment.generate_every = 0
                return
            self._tokenizer = load_tokenizer(self.config.model.vq_model, checkpoint, self.accelerator.device)
        model = self.inference_model.eval()
        classes = torch.linspace(0, model.num_classes - 1, min(PREVIEW_CLASSES, model.num_classes)).long()
        class_ids = classes.repeat(PREVIEWS_PER_CLASS).to(self.accelerator.device)
        with self.accelerator.autocast():
            codes = sample_codes(
                model,
                class_ids,
                image_noise(settings.seed, range(len(class_ids)), model.num_codes),
                scale=settings.guidance_scale,
                power=settings.guidance_scale_pow,
                temperature=settings.randomize_temperature,
            )
            images = self._tokenizer.decode(codes)
        picture = grid(images, columns=len(classes), scale=preview_scale(self._tokenizer.image_size))
        save_png(picture, self.output_dir / "previews" / f"step_{self.step:08d}.png")
        tracker.image(self.step, "samples", picture)

    def export(self) -> None:
        export_weights(self.output_dir, self.inference_model.state_dict())
