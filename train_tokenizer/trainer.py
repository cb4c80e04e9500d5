"""Train one stage of a tokenizer."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dataset.bad_files import BadFiles
from dataset.image_dataset import ImageBatch, TrainingImages
from dataset.images import list_images_together, to_float
from dataset.loader import describe_batches, micro_batch_loader
from modeling.build import build_trainable_tokenizer
from modeling.interfaces import TrainableTokenizer
from modeling.layers.attention import describe_kernels
from modeling.layers.quantizer_start import explained_variance, variance_sums
from modeling.start import freeze_codes, start_tokenizer
from train_tokenizer.adversary import Adversary
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.loss import TokenizerLoss
from train_tokenizer.mean_colour import MeanColourWatch
from train_tokenizer.phases import Phase, PhaseSchedule
from train_tokenizer.validation import Validation
from training.average import make_average
from training.checkpoint import Checkpointer
from training.distributed import accumulate, build_accelerator, require_equal, seed_step
from training.guard import StepGuard
from training.logging import Logger
from training.loop import check_agreement, images_per_step, train
from training.optimizer import make_adamw, parameter_groups, set_learning_rate
from training.preemption import StopRequest
from training.state import TrainState
from utils.compiling import compile_or_eager
from utils.errors import UserError
from utils.progress import tqdm

CURVES = (
    ("loss", "reconstruction"),
    ("perceptual", "lpips", "prefix_perceptual", "prefix_lpips"),
    ("prefix", "quantizer"),
    ("explained", "quantization"),
    ("adversarial", "discriminator"),
    ("val_psnr",),
    ("val_ssim",),
    ("val_lpips",),
    ("val_rfid",),
    ("val_codebook_usage", "codebook_usage"),
    ("grad_norm",),
    ("lr",),
    ("images_per_second",),
)


class TokenizerTrainer:
    """The parts of one stage's training; `run` trains to the last step of the last phase."""

    def __init__(self, config: TokenizerConfig):
        self.config, training, params = config, config.training, config.dataset.params
        rates = config.lr_scheduler.params
        cosine = rates if config.lr_scheduler.scheduler == "cosine" else None
        self.schedule = PhaseSchedule(config.phases, rates.warmup_steps, cosine)
        self.total_steps = self.schedule.total_steps
        self.accelerator = build_accelerator(training)
        device = self.accelerator.device
        self.accelerator.print(describe_kernels(device))

        # Data.
        val_images = list_images_together(params.data_path, params.val_split)
        train_images = list_images_together(params.data_path, params.train_split)

        # The tokenizer, its average, its optimizer; the discriminator, if a phase needs one.
        self.tokenizer: TrainableTokenizer = build_trainable_tokenizer(config.model.vq_model).to(device)
        self.state = TrainState({"model": self.tokenizer}, data={"num_images": len(train_images)})
        self.ema = make_average(self.tokenizer, training)
        if self.ema is not None:
            self.state.models["ema"] = self.ema.module
        if training.freeze_encoder:
            freeze_codes(self.tokenizer)
        compile = compile_or_eager(training.compile, device)
        for trunk in self.tokenizer.trunks:
            trunk.activation_checkpointing = training.activation_checkpointing
            if compile:
                trunk.compile()  # in place: the names of the weights stay
        groups = parameter_groups(self.tokenizer, config.optimizer.params.weight_decay)
        optimizer = make_adamw(groups, config.optimizer.params, self.schedule.learning_rate(0))
        self.state.optimizers["optimizer"] = (self.tokenizer, optimizer)
        self.adversary: Adversary | None = None
        stop = StopRequest(self.accelerator)
        if self.schedule.uses_gan:
            self.adversary = Adversary(config, self.accelerator, self.tokenizer.decays, self._autocast_losses, stop)
            self.adversary.add_to(self.state)

        self.checkpointer = Checkpointer(self.state, config.experiment, self.accelerator)
        self.output_dir = self.checkpointer.output_dir
        report = self.output_dir / "undecodable.txt"
        self.bad_files = BadFiles(train_images, params.max_bad_fraction, report, self.state.undecodable)
        self.dataset = TrainingImages(train_images, self.tokenizer.image_size, params.random_flip, params.resize)

        # Frozen networks of losses and validation.
        if config.losses.random_weights:
            self.accelerator.print(
                "warning: losses.random_weights is set: perceptual losses with untrained networks, only for tests"
            )
        with self.accelerator.local_main_process_first():  # one download for all ranks of a machine
            self.loss = TokenizerLoss(config.losses, self.schedule, device, compile)
            image_size = self.tokenizer.image_size
            self.validation = Validation(config, val_images, image_size, self.loss, self.accelerator)

        # Resume, and check that the ranks agree before they do anything together.
        if not self.checkpointer.resume():
            self._start_from_earlier_stage()
        self._check_agreement()

        # What the ranks share.
        self.model, self.optimizer = self.accelerator.prepare(self.tokenizer, optimizer)
        if self.adversary is not None:
            self.adversary.prepare()
        self.mean_colour = MeanColourWatch(self.total_steps, rates.warmup_steps)
        self.guard = StepGuard(self.accelerator, training, stop)
        self.images_per_step = images_per_step(training, self.accelerator.num_processes)

    def run(self) -> None:
        """Train to the last step, then export the weights."""
        with self.checkpointer.lock:
            train(
                config=self.config,
                accelerator=self.accelerator,
                checkpointer=self.checkpointer,
                guard=self.guard,
                total_steps=self.total_steps,
                batches=self.batches(),
                train_step=self.train_step,
                validate=self.validate,
                export=self.export,
                curves=CURVES,
                on_start=self._announce_phase,
                after_step=self._announce_phase_if_new,
                finish_log=self._finish_log,
                is_milestone=lambda step: step in self.schedule.ends() or self.checkpointer.is_milestone(step),
            )

    def _start_from_earlier_stage(self) -> None:
        source = self.config.experiment.init_from
        if source:
            start_tokenizer(self.tokenizer, source, self.config.experiment.init_decoder)
            if self.ema is not None:  # made before loading
                self.ema.module.load_state_dict(self.tokenizer.state_dict())
        elif self.config.training.freeze_encoder:
            raise UserError("training.freeze_encoder needs experiment.init_from, the weights of an earlier stage")

    def _check_agreement(self) -> None:
        facts = {
            "the starting step": str(self.state.step),
            "the data": self.dataset.fingerprint(),
            "the weights found for validation": ", ".join(self.validation.found),
        }
        check_agreement(self.accelerator, self.config, facts)

    # -- one step -----------------------------------------------------------------------------------

    def batches(self) -> Iterator[list[ImageBatch]]:
        """The micro-batches of each step from the current one on, on the device."""
        loader = micro_batch_loader(
            self.dataset,
            self.accelerator,
            self.config.training,
            self.config.dataset.params.num_workers_per_gpu,
            seen=self.state.samples_seen,
            num_steps=self.total_steps - self.state.step,
        )
        loader = iter(loader)
        for _ in range(self.total_steps - self.state.step):
            yield [self.to_device(next(loader)) for _ in range(self.config.training.gradient_accumulation_steps)]

    def to_device(self, batch: ImageBatch) -> ImageBatch:
        self.bad_files.add(batch.failures)
        return batch._replace(images=to_float(batch.images.to(self.accelerator.device, non_blocking=True)))

    def train_step(self, batches: list[ImageBatch]) -> dict[str, Any]:
        """One optimizer step on this rank's micro-batches; returns the values to log."""
        seed_step(self.config.training.seed, self.state.step, self.accelerator.process_index)
        phase, done = self.schedule.at(self.state.step)
        rate = self.schedule.learning_rate(self.state.step)
        set_learning_rate(self.optimizer, rate)
        self.tokenizer.train()
        self.tokenizer.begin_step(phase)
        # While the GAN is on, tokenizer and discriminator take turns, or each step updates both on its batch.
        turns = self.config.losses.discriminator_turns
        if phase.gan and turns and done % 2 == 1:
            logged, updated = self._discriminator_step(batches, [self._reconstruct(b.images) for b in batches])
        else:
            logged, reconstructions, updated = self._tokenizer_step(batches, phase)
            if phase.gan and not turns and updated:
                more, updated = self._discriminator_step(batches, reconstructions)
                logged |= more
        self.state.skipped_steps += not updated
        self.state.advance(self.images_per_step)
        return {"lr": rate, **logged}

    def _tokenizer_step(
        self, batches: list[ImageBatch], phase: Phase
    ) -> tuple[dict[str, Any], list[Tensor | None], bool]:
        """The values to log, the reconstructions before the update, and whether the weights were updated."""
        if self.adversary is not None:
            self.adversary.discriminator.requires_grad_(False)
        reconstructions: list[Tensor | None] = []

        def forward(batch: ImageBatch) -> dict[str, Tensor]:
            values, reconstruction = self.tokenizer_loss(batch.images, phase)
            reconstructions.append(None if reconstruction is None else reconstruction.detach())
            return values

        means = accumulate(self.accelerator, self.model, batches, forward)
        norm, updated = self.guard.update(
            self.model,
            self.optimizer,
            means["loss"],
            step=self.state.step,
            describe=lambda: describe_batches(self.dataset, batches),
            before_update=self.tokenizer.before_update,
        )
        if self.ema is not None and updated:
            self.state.ema_updates += 1
            self.ema.update(self.tokenizer, self.state.ema_updates)
        return {**means, "grad_norm": norm, **self.tokenizer.log_values()}, reconstructions, updated

    def _discriminator_step(
        self, batches: list[ImageBatch], reconstructions: list[Tensor]
    ) -> tuple[dict[str, Any], bool]:
        pairs = [(batch.images, fake) for batch, fake in zip(batches, reconstructions, strict=True)]
        rate = self.schedule.discriminator_rate(
            self.state.step, self.config.optimizer.params.discriminator_learning_rate
        )
        return self.adversary.step(pairs, rate, self.state.step, lambda: describe_batches(self.dataset, batches))

    def tokenizer_loss(self, images: Tensor, phase: Phase) -> tuple[dict[str, Tensor], Tensor | None]:
        """ "loss" of the tokenizer on images (B, 3, H, W) and its terms by name; and its reconstruction, if any."""
        with self.accelerator.autocast():
            output = self.model(images)
        with self._autocast_losses():
            discriminator = None if self.adversary is None else self.adversary.discriminator
            values = self.loss(images, output, phase, discriminator)
        if output.reconstruction is not None:
            values["explained"] = explained_variance(variance_sums(images, output.reconstruction)).float()
        return values, output.reconstruction

    @torch.no_grad()
    def _reconstruct(self, images: Tensor) -> Tensor:
        self.tokenizer.eval()
        with self.accelerator.autocast():
            reconstruction = self.tokenizer(images).reconstruction
        self.tokenizer.train()
        return reconstruction

    def _autocast_losses(self) -> AbstractContextManager:
        return nullcontext() if self.config.losses.full_precision else self.accelerator.autocast()

    def _finish_log(self, means: dict[str, float]) -> dict[str, float]:
        warning = self.mean_colour.warning(self.state.step, means.get("explained"))
        if warning and self.accelerator.is_main_process:
            tqdm.write(warning, file=sys.stderr)
        return means | {"undecodable_files": self.bad_files.sync_across_ranks()}

    # -- validation and export ----------------------------------------------------------------------

    def _announce_phase_if_new(self, logger: Logger) -> None:
        if self.state.step in self.schedule.ends() and self.state.step < self.total_steps:
            self._announce_phase(logger)

    def _announce_phase(self, logger: Logger) -> None:
        """Log the phase of the next step."""
        if self.accelerator.is_main_process:
            tqdm.write(f"step {self.state.step}: {self.schedule.describe(self.state.step)}", file=sys.stderr)
        logger.log(self.state.step, {"phase": self.schedule.number(self.state.step)})

    def validate(self, logger: Logger) -> dict[str, float]:
        self._check_replicated_state()
        return self.validation.run(self.state.inference_model.eval(), self.state.step, logger)

    def _check_replicated_state(self) -> None:
        replicated = self.tokenizer.replicated_state()
        if replicated is not None:
            require_equal(
                self.accelerator,
                replicated,
                "the codebook",
                "Resume from the last checkpoint; if this happens again, one of the machines computes wrongly",
            )

    def export(self) -> None:
        """Write the weights without what only training needs."""
        if self.accelerator.is_main_process:
            state, left_out = self.state.inference_model.state_dict(), self.tokenizer.optional_keys
            self.checkpointer.export({name: value for name, value in state.items() if name not in left_out})
