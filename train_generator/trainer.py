"""Training the autoregressive generator on cached codes."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset.bad_files import BadFiles
from dataset.code_dataset import CachedCodes, CodeBatch, CodeSource, RandomViews
from dataset.image_folder import list_images, to_float
from dataset.token_cache.metadata import UNKNOWN
from dataset.token_cache.reader import TokenCache, open_token_cache
from modeling.alitok.generator import AliTokGenerator
from modeling.build import build_generator, build_tokenizer, check_fit, load_tokenizer
from modeling.interfaces import Generator, Tokenizer
from modeling.layers.precision import full_float32
from sampling.autoregressive import SamplingSettings, image_noise, sample_codes
from train_generator.model_flops import training_flops
from training.distributed import synchronized
from training.fsdp import full_state, shard
from training.logging import Tracker
from training.loop import TrainingLoop
from training.lr_schedule import warmup_cosine
from training.peak_flops import matmul_peak
from utils.errors import UserError, first_line
from utils.images import grid, preview_scale
from utils.schema import ARConfig

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


def tokenizer_of(cache: TokenCache) -> str:
    """SHA-256 of the tokenizer that made the codes, empty where that is unknown."""
    made_by = cache.metadata.tokenizer_sha256 if cache.metadata else UNKNOWN
    return "" if made_by == UNKNOWN else made_by


def check_same_tokenizer(one: TokenCache, two: TokenCache) -> None:
    """Raise UserError if two caches are known to hold codes of different tokenizers."""
    made_by = [tokenizer_of(cache) for cache in (one, two)]
    if all(made_by) and made_by[0] != made_by[1]:
        raise UserError(
            f"{one.folder} and {two.folder} were made with different tokenizers (SHA-256 {made_by[0][:12]} and"
            f" {made_by[1][:12]}): their codes mean different things"
        )


class GeneratorTrainer(TrainingLoop):
    """Model, optimizer, average and caches of an AR training."""

    curves = (
        ("loss", "val_loss"),
        ("accuracy", "val_accuracy"),
        ("grad_norm",),
        ("lr",),
        ("images_per_second",),
        ("mfu", "data_wait"),
    )

    def __init__(self, config: ARConfig):
        super().__init__(config)
        if config.optimizer.name != "adamw" or config.lr_scheduler.scheduler != "cosine":
            raise UserError("optimizer.name must be adamw and lr_scheduler.scheduler cosine")
        self.total_steps = config.training.max_train_steps
        self.generator = build_generator(config.model.generator)
        self.sharded = config.training.fsdp and self.accelerator.num_processes > 1
        if not self.sharded:  # else block by block, as a whole it may be too large
            self.generator.to(self.accelerator.device)
        with torch.device("meta"):  # its sizes are all that is asked for
            check_fit(build_tokenizer(config.model.vq_model), self.generator)
        self._open_data()
        self.models["model"] = self.generator
        self.average_weights(self.generator)
        if config.training.compile:
            getattr(self.generator, "compile_blocks", self.generator.compile)()
        resumed = self.resume_models()
        self._open_tokenizer()
        self.check_agreement()
        self.model = LossModule(self.generator)
        if self.sharded:
            self._shard()
        optimizer = config.optimizer.params
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.generator, optimizer.weight_decay),
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            fused=True,
        )
        self.optimizers["optimizer"] = (self.generator, self.optimizer)
        if resumed:
            self.resume_optimizers()
        self.optimizer = self.accelerator.prepare(self.optimizer)
        if not self.sharded:
            self.model = self.accelerator.prepare(self.model)
        self.flops_per_image = training_flops(self.generator) if isinstance(self.generator, AliTokGenerator) else 0
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.training.mixed_precision, torch.float32)
        self.peak = matmul_peak(self.accelerator.device, dtype) if self.accelerator.is_main_process else 0.0

    def _shard(self) -> None:
        """FSDP: each rank holds a part of weights, gradients, optimizer state and average."""
        if self.accelerator.scaler is not None:
            raise UserError("training.fsdp goes with mixed_precision bf16 or no, not with fp16")
        if not isinstance(self.generator, AliTokGenerator):
            raise UserError("training.fsdp knows the blocks of the generator 'alitok' only")
        dtype = torch.bfloat16 if self.config.training.mixed_precision == "bf16" else None
        for model in self.models.values():
            shard(model, model.blocks, self.accelerator.device.type, methods=("step",), dtype=dtype)

    # -- data ---------------------------------------------------------------------------------

    def _open_data(self) -> None:
        """The cached codes, or where there is no cache the images, encoded as they come."""
        config, params = self.config, self.config.dataset.params
        limit = config.experiment.max_train_examples
        self.val_data: CodeSource | None = None
        if params.pretokenization:
            cache = open_token_cache(params.pretokenization)
            check_cache(cache, self.generator, params.pretokenization)
            self.dataset: CodeSource = CachedCodes(cache, limit)
            if params.pretokenization_val:
                val_cache = open_token_cache(params.pretokenization_val)
                check_cache(val_cache, self.generator, params.pretokenization_val)
                check_same_tokenizer(cache, val_cache)
                self.val_data = CachedCodes(val_cache)
            return
        if not params.data_path:
            raise UserError("dataset.params: set pretokenization to a token cache, or data_path to an image folder")
        images = list_images(params.data_path, params.train_split)
        if len(images.classes) > self.generator.num_classes:
            raise UserError(
                f"{params.data_path} has {len(images.classes)} classes, model.generator {self.generator.num_classes}"
            )
        size = config.model.vq_model.image_size
        self.dataset = RandomViews(images, size, limit)
        self.bad_files = BadFiles(images, params.max_bad_fraction, self.output_dir / "undecodable.txt", set())
        if (Path(params.data_path) / params.val_split).is_dir():
            self.val_data = RandomViews(list_images(params.data_path, params.val_split), size)

    def common_facts(self) -> dict[str, str]:
        checkpoint = Path(self.config.experiment.tokenizer_checkpoint)
        return {"the tokenizer": f"{checkpoint} is {'there' if checkpoint.is_file() else 'not there'}"}

    def counters(self) -> dict[str, Any]:
        return super().counters() | {"num_images": len(self.dataset), "tokenizer_sha256": self._cached_by()}

    def restore_counters(self, state: dict[str, Any]) -> None:
        super().restore_counters(state)
        before, now = state.get("tokenizer_sha256"), self._cached_by()
        if before and now and before != now:
            raise UserError(
                f"experiment.resume: the codes so far were of another tokenizer than those of this token cache (SHA-256"
                f" {before[:12]} and {now[:12]}): they mean different things"
            )
        images = state.get("num_images", len(self.dataset))
        if images != len(self.dataset):
            self.accelerator.print(f"warning: {images} training images before, {len(self.dataset)} now")

    def _cached_by(self) -> str:
        """Which tokenizer the cached codes are of, where that is known."""
        return tokenizer_of(self.dataset.cache) if isinstance(self.dataset, CachedCodes) else ""

    def to_device(self, batch: CodeBatch) -> CodeBatch:
        device = self.accelerator.device
        class_ids = batch.class_ids.to(device, non_blocking=True)
        if batch.codes is not None:
            return batch._replace(codes=batch.codes.to(device, non_blocking=True), class_ids=class_ids)
        self.bad_files.add(batch.failures)
        with self.accelerator.autocast(), full_float32():
            codes = self.tokenizer.encode(to_float(batch.images.to(device, non_blocking=True)))
        return batch._replace(codes=codes, images=None, class_ids=class_ids)

    # -- one step -----------------------------------------------------------------------------

    def learning_rate(self) -> float:
        schedule = self.config.lr_scheduler.params
        return warmup_cosine(
            self.step,
            base=schedule.learning_rate or self.config.optimizer.params.learning_rate,
            end=schedule.end_lr,
            warmup_steps=schedule.warmup_steps,
            total_steps=self.total_steps,
        )

    def optimize(self, batches: list[CodeBatch]) -> dict[str, Any]:
        self.generator.train()
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, accuracies = [], []
        for i, batch in enumerate(batches):
            if self.sharded:
                self.generator.set_requires_gradient_sync(i == len(batches) - 1)
            with synchronized(self.accelerator, self.model, i == len(batches) - 1):
                with self.accelerator.autocast():
                    loss, accuracy = self.model(batch.codes, batch.class_ids)
                self.accelerator.backward(loss / len(batches))
            losses.append(loss.detach())
            accuracies.append(accuracy)
        loss = torch.stack(losses).mean()
        norm = self.guard.step(
            self.generator, self.optimizer, loss, step=self.step, describe=lambda: self.describe(batches)
        )
        if self.ema is not None:
            self.ema.update(self.generator)
        return {
            "loss": loss,
            "accuracy": torch.stack(accuracies).mean(),
            "grad_norm": norm,
            "lr": rate,
            "epoch": (self.samples_seen + self.images_per_step) / len(self.dataset),
        }

    def log_values(self, means: dict[str, float]) -> dict[str, float]:
        rate = means["images_per_second"]
        values = {"tokens_per_second": rate * self.generator.num_codes}
        if self.flops_per_image and self.peak:
            values["mfu"] = rate * self.flops_per_image / self.accelerator.num_processes / self.peak
        return values

    # -- validation, previews, export ---------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, tracker: Tracker) -> dict[str, float]:
        """Loss and accuracy over the first view of every held-out image."""
        if self.val_data is None:
            return {}
        model, device = self.inference_model.eval(), self.accelerator.device
        batch_size = self.config.training.per_gpu_batch_size
        mine = np.arange(self.accelerator.process_index, len(self.val_data), self.accelerator.num_processes)
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        longest = -(-len(self.val_data) // self.accelerator.num_processes)
        for start in range(0, longest, batch_size):  # as often on each rank, since sharded weights need all
            chosen = mine[start : start + batch_size]
            shown = chosen if len(chosen) else np.zeros(1, int)
            # Its failures are not of the training images, which are counted.
            batch = self.val_data[shown, np.zeros((len(shown), 1)), shown]._replace(failures=[])
            batch = self.to_device(batch)
            with self.accelerator.autocast():
                loss, accuracy = model.loss(batch.codes, batch.class_ids)
            n = len(chosen)
            sums += torch.stack([loss.double() * n, accuracy.double() * n, torch.tensor(n, device=device).double()])
        sums = self.accelerator.reduce(sums)
        metrics = {"val_loss": float(sums[0] / sums[2]), "val_accuracy": float(sums[1] / sums[2])}
        tracker.log(self.step, metrics)
        return metrics

    def _open_tokenizer(self) -> None:
        """For previews, and for images that no cache holds codes of; now, as a fault must not end a training later."""
        experiment = self.config.experiment
        path, cached = Path(experiment.tokenizer_checkpoint), self.config.dataset.params.pretokenization
        self.preview_every = max(experiment.generate_every, 0)
        if self.preview_every:
            try:
                self.preview_settings = SamplingSettings.of(self.config.model.generator)
            except ValueError as error:
                raise UserError(f"model.generator: {error}") from error
        if self.preview_every and cached and not path.is_file():
            self.accelerator.print(f"warning: no previews, as experiment.tokenizer_checkpoint {path} is not there")
            self.preview_every = 0
        previews_here = self.preview_every and (self.accelerator.is_main_process or self.sharded)
        self.tokenizer: Tokenizer | None = None
        if previews_here or not cached:
            self.tokenizer = load_tokenizer(self.config.model.vq_model, path, self.accelerator.device)

    def extras(self, tracker: Tracker) -> None:
        due = self.preview_every > 0 and (self.step % self.preview_every == 0 or self.step == self.total_steps)
        if not due or not (self.accelerator.is_main_process or self.sharded):
            return
        try:
            self.preview(tracker)
        except RuntimeError as error:  # out of memory, say
            if self.sharded:
                raise  # the others would wait for this rank's part of the weights
            tqdm.write(f"warning: no preview at step {self.step} ({first_line(error)})", file=sys.stderr)

    def preview(self, tracker: Tracker) -> None:
        """Samples of fixed classes from fixed noise, so that progress shows from grid to grid."""
        settings = self.config.model.generator
        model = self.inference_model.eval()
        classes = torch.linspace(0, model.num_classes - 1, min(PREVIEW_CLASSES, model.num_classes)).long()
        class_ids = classes.repeat(PREVIEWS_PER_CLASS).to(self.accelerator.device)
        with self.accelerator.autocast():
            codes = sample_codes(
                model,
                class_ids,
                image_noise(settings.seed, range(len(class_ids)), model.num_codes),
                self.preview_settings,
            )
            images = self.tokenizer.decode(codes)
        if not self.accelerator.is_main_process:
            return  # has lent its part of the weights
        picture = grid(images, columns=len(classes), scale=preview_scale(self.tokenizer.image_size))
        tracker.image(self.step, "samples", picture)

    def export(self) -> None:
        main = self.accelerator.is_main_process
        state = full_state(self.inference_model, keep=main) if main or self.sharded else {}
        if main:
            self.write_result(state)
