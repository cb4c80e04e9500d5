"""Train a generator on the codes of a tokenizer."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dataset.class_names import keep_class_names
from dataset.classes import are_numbers
from dataset.code_dataset import CodeBatch
from dataset.images import to_float
from dataset.loader import describe_batches, micro_batch_loader
from modeling.build import build_generator, code_layout, load_tokenizer
from modeling.interfaces import Generator, GeneratorLoss, Progress, Tokenizer
from modeling.layers.attention import describe_kernels
from modeling.layers.precision import full_float32
from modeling.start import start_generator
from sampling.pretrained_folder import keep_tokenizer
from train_generator.config import ARConfig
from train_generator.data import GeneratorData
from train_generator.loss_noise import loss_noise
from train_generator.previews import Previews
from train_generator.sample_fid import GUIDED, UNGUIDED, SampleFid
from train_generator.validation import Validation
from training.average import make_average
from training.checkpoint import Checkpointer
from training.distributed import accumulate, autocast_dtype, build_accelerator, seed_step, without_wait
from training.fsdp import full_state, shard
from training.guard import StepGuard
from training.logging import Logger
from training.loop import check_agreement, images_per_step, train
from training.lr_schedule import warmup_cosine
from training.optimizer import make_adamw, parameter_groups, set_learning_rate
from training.peak_flops import data_sheet_peak, matmul_peak
from training.preemption import StopRequest
from training.state import TrainState
from utils.compiling import compile_or_eager
from utils.errors import UserError
from utils.pretrained import find_pretrained_weights

CURVES = (
    ("loss", "val_loss"),
    ("accuracy", "val_accuracy"),
    (GUIDED, UNGUIDED),
    ("grad_norm",),
    ("lr",),
    ("images_per_second",),
    ("mfu_of_measured_peak", "mfu_of_data_sheet", "data_wait"),
)
BACKWARD_AND_FORWARD = 3  # operations of both over those of the forward, without recomputed activations


class LossModule(nn.Module):
    """The generator's loss as a forward, which is what DDP wraps."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, codes: Tensor, class_ids: Tensor, progress: Progress, noise: Tensor) -> GeneratorLoss:
        return self.generator.loss(codes, class_ids, progress, noise)


class GeneratorTrainer:
    """The parts of one training; `run` trains to the last step."""

    def __init__(self, config: ARConfig):
        self.config, training = config, config.training
        self.total_steps = training.max_train_steps
        self.accelerator = build_accelerator(training)
        device = self.accelerator.device
        self.accelerator.print(describe_kernels(device))
        self.sharded = training.fsdp and self.accelerator.num_processes > 1

        # The model and its data.
        layout = code_layout(config.model.vq_model)
        self.generator: Generator = build_generator(config.model.generator, layout)
        if not self.sharded:  # sharded: each block moves to the device when it is sharded
            self.generator.to(device)
        self.state = TrainState({"model": self.generator})
        self.data = GeneratorData(config, layout, self.generator.num_classes, self.state.undecodable)
        self.state.data = {
            "num_images": len(self.data.training),
            "tokenizer_sha256": self.data.tokenizer_sha256,
            # Numbers as such: 001 and 1 are the same class.
            "classes": [*map(int if are_numbers(self.data.classes) else str, self.data.classes)],
        }
        self.ema = make_average(self.generator, training)
        if self.ema is not None:
            self.state.models["ema"] = self.ema.module
        # Block by block: one short compilation, and gradients still overlap with their averaging.
        compile = compile_or_eager(training.compile, device)
        if compile:
            for block in self.generator.blocks:
                block.compile()

        # Resume, and check that the ranks agree before they do anything together.
        self.checkpointer = Checkpointer(self.state, config.experiment, self.accelerator, self.sharded)
        self.output_dir = self.checkpointer.output_dir
        resumed = self.checkpointer.resume_models()
        if not resumed:
            self._start_from_weights()
        self.previews = Previews(config, self.generator, self.accelerator, self.sharded, self.data.tokenizer_sha256)
        if compile and not config.dataset.params.pretokenization:  # it encodes every batch
            for trunk in self.previews.tokenizer.trunks:
                trunk.compile()
        self.validation: Validation | None = None
        if self.data.validation is not None:
            batch_size = training.per_gpu_batch_size
            self.validation = Validation(self.data.validation, self.to_device, self.accelerator, batch_size)
        self._check_agreement()
        self.sample_fid = SampleFid(
            training, config.model.generator, self.generator, self._load_tokenizer, self.accelerator, self.sharded
        )

        # The optimizer, and what the ranks share.
        if self.sharded:
            self._shard()
        groups = parameter_groups(self.generator, config.optimizer.params.weight_decay)
        optimizer = make_adamw(groups, config.optimizer.params, config.optimizer.params.learning_rate)
        self.state.optimizers["optimizer"] = (self.generator, optimizer)
        if resumed:
            self.checkpointer.resume_optimizers()
        self.optimizer = self.accelerator.prepare(optimizer)
        self.model = LossModule(self.generator)
        if not self.sharded:
            self.model = self.accelerator.prepare(self.model)
        self.guard = StepGuard(self.accelerator, training, StopRequest(self.accelerator))
        self.images_per_step = images_per_step(training, self.accelerator.num_processes)

        # What utilisation is computed from.
        self.flops_per_image = BACKWARD_AND_FORWARD * self.generator.forward_flops()
        dtype = autocast_dtype(training.mixed_precision)
        self.peak = matmul_peak(device, dtype) if self.accelerator.is_main_process else 0.0
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self.data_sheet = data_sheet_peak(name, dtype)

    def run(self) -> None:
        """Train to the last step, then export the weights and the tokenizer."""
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
                on_start=self._start,
                after_step=self._draw_if_due,
                finish_log=self._finish_log,
            )

    def _start_from_weights(self) -> None:
        experiment = self.config.experiment
        if experiment.init_from:
            start_generator(self.generator, experiment.init_from, experiment.new_classes)
            if self.ema is not None:  # made before loading
                self.ema.module.load_state_dict(self.generator.state_dict())
        elif experiment.new_classes:
            raise UserError("experiment.new_classes needs experiment.init_from, the weights to start from")

    def _check_agreement(self) -> None:
        checkpoint = self.config.experiment.tokenizer_checkpoint
        tokenizer = find_pretrained_weights(checkpoint)
        facts = {
            "the starting step": str(self.state.step),
            "the data": self.data.training.fingerprint(),
            "the tokenizer": f"{checkpoint} {f'with {tokenizer.name}' if tokenizer else 'is missing'}",
        }
        check_agreement(self.accelerator, self.config, facts)

    def _shard(self) -> None:
        """FSDP: each rank holds a part of weights, gradients, optimizer state and average."""
        if self.accelerator.scaler is not None:
            raise UserError("training.fsdp works with mixed_precision bf16 or no, not with fp16")
        dtype = torch.bfloat16 if self.config.training.mixed_precision == "bf16" else None
        for model in self.state.models.values():
            shard(model, model.blocks, self.accelerator.device.type, dtype, self.config.training.fsdp_group)

    # -- one step -----------------------------------------------------------------------------------

    def batches(self) -> Iterator[list[CodeBatch]]:
        """The micro-batches of each step from the current one on, on the device."""
        loader = micro_batch_loader(
            self.data.training,
            self.accelerator,
            self.config.training,
            self.config.dataset.params.num_workers(),
            seen=self.state.samples_seen,
            num_steps=self.total_steps - self.state.step,
        )
        loader = iter(loader)
        for _ in range(self.total_steps - self.state.step):
            yield [self.to_device(next(loader)) for _ in range(self.config.training.gradient_accumulation_steps)]

    def to_device(self, batch: CodeBatch) -> CodeBatch:
        """Move a batch to the device; encode its images if it has no codes."""
        device = self.accelerator.device
        class_ids = batch.class_ids.to(device, non_blocking=True)
        if batch.codes is not None:
            return batch._replace(codes=batch.codes.to(device, non_blocking=True), class_ids=class_ids)
        self.data.bad_files.add(batch.failures)
        with self.accelerator.autocast(), full_float32():
            codes = self.previews.tokenizer.encode(to_float(batch.images.to(device, non_blocking=True)))
        return batch._replace(codes=codes, images=None, class_ids=class_ids)

    def learning_rate(self) -> float:
        schedule = self.config.lr_scheduler.params
        return warmup_cosine(
            self.state.step,
            base=schedule.learning_rate or self.config.optimizer.params.learning_rate,
            end=schedule.end_lr,
            warmup_steps=schedule.warmup_steps,
            total_steps=self.total_steps,
        )

    def train_step(self, batches: list[CodeBatch]) -> dict[str, Any]:
        """One optimizer step on this rank's micro-batches; returns the values to log."""
        seed_step(self.config.training.seed, self.state.step, self.accelerator.process_index)
        self.generator.train()
        rate = self.learning_rate()
        set_learning_rate(self.optimizer, rate)
        means = accumulate(self.accelerator, self.model, batches, self._loss)
        norm, updated = self.guard.update(
            self.generator,
            self.optimizer,
            means["loss"],
            step=self.state.step,
            describe=lambda: describe_batches(self.data.training, batches),
        )
        self.state.skipped_steps += not updated
        if self.ema is not None and updated:
            self.state.ema_updates += 1
            self.ema.update(self.generator, self.state.ema_updates)
        self.state.advance(self.images_per_step)
        return {**means, "grad_norm": norm, "lr": rate, "epoch": self.state.samples_seen / len(self.data.training)}

    def _loss(self, batch: CodeBatch) -> dict[str, Tensor]:
        progress = Progress(self.state.step, self.total_steps)
        noise = loss_noise(self.config.training.seed, batch.sample_numbers, self.generator.loss_noise)
        with self.accelerator.autocast():
            loss = self.model(batch.codes, batch.class_ids, progress, without_wait(noise, batch.codes.device))
        return {"loss": loss.value, "accuracy": loss.accuracy, **loss.log}

    def _finish_log(self, means: dict[str, float]) -> dict[str, float]:
        experiment, rate = self.config.experiment, means["images_per_second"]
        means["tokens_per_second"] = rate * self.generator.layout.num_codes
        if self.peak:
            achieved = rate * self.flops_per_image / self.accelerator.num_processes
            means["mfu_of_measured_peak"] = achieved / self.peak
            if self.data_sheet:
                means["mfu_of_data_sheet"] = achieved / self.data_sheet
        if self.data.bad_files is not None:
            means["undecodable_files"] = self.data.bad_files.sync_across_ranks()
        every, last = experiment.log_grad_norm_every, self.state.step == self.total_steps
        if not last and not (every and self.state.step % every == 0):
            means.pop("grad_norm", None)
        return means

    # -- validation, previews, export ---------------------------------------------------------------

    def validate(self, logger: Logger) -> dict[str, float]:
        """Empty without validation data."""
        model = self.state.inference_model
        return {} if self.validation is None else self.validation.run(model, self.state.step, logger)

    def _draw_if_due(self, logger: Logger) -> None:
        step, model = self.state.step, self.state.inference_model
        self.previews.draw_if_due(model, step, step == self.total_steps, logger)
        if self.sample_fid.due(step, self.total_steps):
            self.sample_fid.evaluate(model, step, logger)

    def _start(self, logger: Logger) -> None:
        if self.accelerator.is_main_process:
            keep_class_names(self.output_dir, self.data.classes)  # now: checkpoints are drawn with, too
        self.sample_fid.catch_up(self.state.inference_model, self.state.step, self.total_steps, logger)

    def _load_tokenizer(self) -> Tokenizer:
        """The tokenizer of the previews; ranks without previews load it."""
        experiment, tokenizer = self.config.experiment, self.previews.tokenizer
        if tokenizer is not None:
            return tokenizer
        return load_tokenizer(self.config.model.vq_model, experiment.tokenizer_checkpoint, self.accelerator.device)

    def export(self) -> None:
        """Write the weights, and the tokenizer beside them: all that sampling needs."""
        main = self.accelerator.is_main_process
        state = full_state(self.state.inference_model, keep=main) if main or self.sharded else {}
        if main:
            # The weights last: they mark the training as done.
            keep_tokenizer(self.config.experiment.tokenizer_checkpoint, self.output_dir)
            self.checkpointer.export(state)
