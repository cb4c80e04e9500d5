"""Training one stage of the tokenizer."""

import sys
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dataset.bad_files import BadFiles
from dataset.image_dataset import ImageBatch, TrainingImages
from dataset.image_folder import list_images, to_float
from evaluation.evaluate_tokenizer import TokenizerEvaluation
from evaluation.extractors import InceptionExtractor, inception_weights
from modeling.build import build_tokenizer
from modeling.frozen.lpips import LPIPS, VGG16
from train_tokenizer.discriminator import Discriminator
from train_tokenizer.loss import Objective
from train_tokenizer.losses import hinge_discriminator_loss
from train_tokenizer.phases import PhaseSchedule
from training.distributed import require_agreement, synchronized
from training.logging import Tracker
from training.loop import TrainingLoop
from utils.errors import UserError
from utils.pretrained import find_weights
from utils.schema import Phase, TokenizerConfig
from utils.weights import load_encoder_weights, tokenizer_export


class TokenizerTrainer(TrainingLoop):
    """Models, optimizers and losses of one stage."""

    curves = (
        ("loss", "reconstruction"),
        ("perceptual", "lpips"),
        ("prefix", "quantizer"),
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

    def __init__(self, config: TokenizerConfig):
        super().__init__(config)
        self.schedule = PhaseSchedule(config.phases, config.lr_scheduler.params.warmup_steps)
        self.total_steps = self.schedule.total_steps
        params = config.dataset.params
        self.val_images = list_images(params.data_path, params.val_split)
        self.train_images = list_images(params.data_path, params.train_split)
        self._build_models()
        self.dataset = TrainingImages(self.train_images, self.tokenizer.image_size, params.random_flip)
        self.bad_files = BadFiles(self.train_images, params.max_bad_fraction, self.output_dir / "undecodable.txt")
        with self.accelerator.local_main_process_first():  # one download for all ranks of a machine
            self._build_losses()
            self._build_evaluation()
        if not self.resume():
            self._start_fresh()
        self.check_agreement()
        self.model, self.optimizer = self.accelerator.prepare(self.tokenizer, self.optimizer)
        if self.discriminator is not None:
            self.discriminator_ddp, self.discriminator_optimizer = self.accelerator.prepare(
                self.discriminator, self.discriminator_optimizer
            )

    # -- building -----------------------------------------------------------------------------

    def _build_models(self) -> None:
        config = self.config
        device = self.accelerator.device
        self.tokenizer = build_tokenizer(config.model.vq_model).to(device)
        self.models["model"] = self.tokenizer
        self.average_weights(self.tokenizer)
        if config.training.freeze_encoder:
            self.tokenizer.freeze_encoder()
        for part in (self.tokenizer.encoder, self.tokenizer.decoder):
            part.activation_checkpointing = config.training.activation_checkpointing
            if config.training.compile:
                part.compile()  # in place, so that the names of the weights stay
        optimizer = config.optimizer.params
        if config.optimizer.name != "adamw":
            raise UserError(f"optimizer.name is '{config.optimizer.name}'; only adamw is there")
        self.optimizer = torch.optim.AdamW(
            [p for p in self.tokenizer.parameters() if p.requires_grad],
            lr=self.schedule.learning_rate(0),
            betas=(optimizer.beta1, optimizer.beta2),
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self.optimizers["optimizer"] = (self.tokenizer, self.optimizer)
        self.discriminator = self.discriminator_ddp = self.discriminator_optimizer = None
        if self.schedule.uses(gan=True):
            self.discriminator = Discriminator().to(device)
            self.discriminator_optimizer = torch.optim.AdamW(
                self.discriminator.parameters(), lr=config.losses.discriminator_learning_rate, fused=True
            )
            self.models["discriminator"] = self.discriminator
            self.optimizers["discriminator_optimizer"] = (self.discriminator, self.discriminator_optimizer)

    def _build_losses(self) -> None:
        if self.config.losses.random_weights:
            self.accelerator.print(
                "warning: losses.random_weights is set: perceptual losses with untrained networks, for tests only"
            )
        self.objective = Objective(self.config.losses, self.schedule, self.tokenizer, self.accelerator.device)

    def _build_evaluation(self) -> None:
        """LPIPS and rFID take part where their weights are at hand; nothing is downloaded for them."""
        config, device = self.config, self.accelerator.device
        lpips = self.objective.lpips
        vgg = find_weights("VGG16", VGG16.url, "losses.lpips_checkpoint", config.losses.lpips_checkpoint)
        if lpips is None and vgg:
            lpips = LPIPS(vgg).to(device)
        weights = inception_weights(config.validation.inception_checkpoint, download=False)
        inception = InceptionExtractor(weights, device) if weights else None
        absent = [name for name, network in (("LPIPS", lpips), ("rFID", inception)) if network is None]
        if absent:
            self.accelerator.print(f"validation without {' and '.join(absent)}: no weights at hand (docs/training.md)")
        self.evaluation = TokenizerEvaluation(
            self.val_images,
            self.tokenizer.image_size,
            batch_size=config.training.per_gpu_batch_size,
            num_workers=config.dataset.params.num_workers_per_gpu,
            max_images=config.dataset.params.max_eval_images,
            lpips=lpips,
            inception=inception,
            autocast=self.accelerator.autocast,
        )

    # -- state --------------------------------------------------------------------------------

    def common_facts(self) -> dict[str, str]:
        metrics = {"LPIPS": self.evaluation.lpips, "rFID": self.evaluation.inception}
        return {"the weights at hand for validation": ", ".join(k for k, v in metrics.items() if v is not None)}

    def is_milestone(self, step: int) -> bool:
        return step in self.schedule.ends() or super().is_milestone(step)

    def _start_fresh(self) -> None:
        experiment = self.config.experiment
        if experiment.init_from:
            load_encoder_weights(self.tokenizer, experiment.init_from)
            if self.ema is not None:  # made before: it starts from what the model starts from
                self.ema.module.load_state_dict(self.tokenizer.state_dict())
        elif self.config.training.freeze_encoder:
            raise UserError("training.freeze_encoder needs experiment.init_from, a stage-1 tokenizer's weights")

    # -- one step -----------------------------------------------------------------------------

    def to_device(self, batch: ImageBatch) -> ImageBatch:
        self.bad_files.add(batch.failures)
        return batch._replace(images=to_float(batch.images.to(self.accelerator.device, non_blocking=True)))

    def generator_loss(self, images: Tensor, phase: Phase) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of the tokenizer on images (B, 3, H, W), and its parts by name."""
        with self.accelerator.autocast():
            return self.objective(images, self.model(images), phase, self.discriminator)

    def discriminator_loss(self, images: Tensor) -> Tensor:
        """Hinge loss of the discriminator on images and their reconstructions."""
        with torch.no_grad(), self.accelerator.autocast():
            self.tokenizer.eval()
            fake = self.tokenizer(images).reconstruction
            self.tokenizer.train()
        with self.accelerator.autocast():
            # One forward for both halves: DDP allows one per backward, and no layer mixes images.
            real_logits, fake_logits = self.discriminator_ddp(torch.cat([images, fake])).chunk(2)
            loss = hinge_discriminator_loss(real_logits, fake_logits)
        return self.config.losses.discriminator_factor * loss

    def optimize(self, batches: list[ImageBatch]) -> dict[str, Any]:
        phase, done = self.schedule.at(self.step)
        self.tokenizer.train()
        self.tokenizer.quantize.clustering = phase.clustering and not self.config.training.freeze_encoder
        # While the GAN is on, generator and discriminator take turns, each on a new batch.
        train_discriminator = phase.gan and done % 2 == 1
        model = self.discriminator_ddp if train_discriminator else self.model
        optimizer = self.discriminator_optimizer if train_discriminator else self.optimizer
        rate = self.schedule.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.discriminator is not None:
            self.discriminator.requires_grad_(train_discriminator)
        quantize = self.tokenizer.quantize
        quantize.discard_collected()
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            with synchronized(self.accelerator, model, i == len(batches) - 1):
                if train_discriminator:
                    loss = self.discriminator_loss(batch.images)
                    parts = {"discriminator": loss}
                else:
                    loss, parts = self.generator_loss(batch.images, phase)
                self.accelerator.backward(loss / len(batches))
            for name, part in parts.items():
                sums[name] = sums.get(name, 0) + part.detach() / len(batches)
        norm = self.guard.step(
            model,
            optimizer,
            sums["discriminator" if train_discriminator else "loss"],
            step=self.step,
            describe=lambda: self.describe(batches),
            before_update=quantize.update_codebook,
        )
        if self.ema is not None and not train_discriminator:
            self.ema.update(self.tokenizer)
        logged = {"lr": rate, **sums, ("discriminator_grad_norm" if train_discriminator else "grad_norm"): norm}
        if quantize.clustering and not train_discriminator:
            logged["codebook_usage"] = quantize.recent_usage()
        return logged

    # -- validation and export ----------------------------------------------------------------

    def begin(self, tracker: Tracker) -> None:
        self._announce(tracker)

    def extras(self, tracker: Tracker) -> None:
        if self.step in self.schedule.ends() and self.step < self.total_steps:
            self._announce(tracker)

    def _announce(self, tracker: Tracker) -> None:
        """Log which phase the next step belongs to."""
        phase, done = self.schedule.at(self.step)
        number = self.schedule.phases.index(phase) + 1
        if self.accelerator.is_main_process:
            tqdm.write(
                f"step {self.step}: phase {number} of {len(self.schedule.phases)}, '{phase.name}', step {done} of"
                f" {phase.steps}: perceptual {phase.perceptual_weight:g}, LPIPS {phase.lpips_weight:g},"
                f" GAN {'on' if phase.gan else 'off'}, clustering {'on' if phase.clustering else 'off'}",
                file=sys.stderr,
            )
        tracker.log(self.step, {"phase": number})

    def evaluate(self, tracker: Tracker) -> dict[str, float]:
        tokenizer = self.inference_model
        require_agreement(
            self.accelerator,
            {"the codebook": str(self.tokenizer.quantize.embedding.weight.detach().double().sum().item())},
            "Resume from the last checkpoint; if it comes again, one of the machines computes wrongly",
        )
        tokenizer.eval()
        metrics = {f"val_{name}": value for name, value in self.evaluation.metrics(tokenizer).items()}
        if self.accelerator.is_main_process:
            tracker.log(self.step, metrics)
            tracker.image(self.step, "reconstructions", self.evaluation.preview(tokenizer))
            least = self.config.validation.min_codebook_usage
            if metrics["val_codebook_usage"] < least:
                tqdm.write(
                    f"warning: step {self.step}: only {metrics['val_codebook_usage']:.1%} of the codebook is used on"
                    f" the validation images (validation.min_codebook_usage is {least:.0%}): it may have collapsed. Is"
                    " clustering on in this phase, and the learning rate not too high?",
                    file=sys.stderr,
                )
        return metrics

    def export(self) -> None:
        if self.accelerator.is_main_process:
            self.write_result(tokenizer_export(self.inference_model.state_dict()))
