"""Training one stage of the tokenizer."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.image_folder import list_images, to_float
from dataset.image_loader import TrainingImages
from modeling.build import build_tokenizer
from modeling.discriminator import Discriminator
from modeling.tokenizer import TokenizerOutput
from train_tokenizer.losses import (
    LogitLoss,
    LPIPSLoss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    prefix_loss_ratio,
)
from train_tokenizer.phases import PhaseSchedule
from train_tokenizer.validation import validate
from utils.accelerator import synchronized
from utils.checkpoint import load_checkpoint_weights
from utils.errors import UserError
from utils.images import save_png
from utils.schema import Phase, TokenizerConfig
from utils.tracking import Tracker
from utils.training_loop import TrainingLoop
from utils.weights import export_weights, load_encoder_weights, load_strict, tokenizer_export


class TokenizerTrainer(TrainingLoop):
    """Models, optimizers and losses of one stage."""

    curves = (("loss", "reconstruction"), ("prefix", "quantizer"), ("val_psnr",), ("val_codebook_usage",), ("lr",))

    def __init__(self, config: TokenizerConfig):
        super().__init__(config)
        self.schedule = PhaseSchedule(config.phases, config.lr_scheduler.params.warmup_steps)
        self.total_steps = self.schedule.total_steps
        params = config.dataset.params
        self.val_images = list_images(params.data_path, params.val_split)
        self._build_models()
        self._build_losses()
        if not self.resume():
            self._start_fresh()
        images = list_images(params.data_path, params.train_split)
        self.dataset = TrainingImages(images, self.tokenizer.image_size, params.random_flip)
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
        if config.training.freeze_encoder:
            self.tokenizer.freeze_encoder()
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
        self.discriminator = self.discriminator_ddp = self.discriminator_optimizer = None
        if self.schedule.uses(gan=True):
            self.discriminator = Discriminator().to(device)
            self.discriminator_optimizer = torch.optim.AdamW(
                self.discriminator.parameters(), lr=config.losses.discriminator_learning_rate
            )

    def _build_losses(self) -> None:
        losses, device = self.config.losses, self.accelerator.device
        self.logit_loss = self.lpips_loss = None
        if self.schedule.uses(perceptual=True):
            self.logit_loss = LogitLoss(losses.perceptual_model, losses.perceptual_checkpoint).to(device)
        if self.schedule.uses(lpips=True):
            self.lpips_loss = LPIPSLoss(losses.lpips_checkpoint).to(device)
        self.prefix_ratio = prefix_loss_ratio(
            self.tokenizer.num_prefix_tokens, self.tokenizer.grid_size**2, losses.prefix_weight
        )

    # -- state --------------------------------------------------------------------------------

    def _start_fresh(self) -> None:
        experiment = self.config.experiment
        if experiment.init_from:
            load_encoder_weights(self.tokenizer, experiment.init_from)
        elif self.config.training.freeze_encoder:
            raise UserError("training.freeze_encoder needs experiment.init_from, a stage-1 tokenizer's weights")

    def restore(self, folder: Path, state: dict[str, Any]) -> None:
        load_strict(self.tokenizer, load_checkpoint_weights(folder, "model"), folder)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.discriminator is not None:
            load_strict(self.discriminator, load_checkpoint_weights(folder, "discriminator"), folder)
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])

    def state(self) -> tuple[dict[str, dict], dict[str, Any]]:
        weights = {"model": self.tokenizer.state_dict()}
        state = {"optimizer": self.optimizer.state_dict()}
        if self.discriminator is not None:
            weights["discriminator"] = self.discriminator.state_dict()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        return weights, state

    # -- one step -----------------------------------------------------------------------------

    def to_device(self, batch: Tensor) -> Tensor:
        return to_float(batch.to(self.accelerator.device, non_blocking=True))

    def generator_loss(self, images: Tensor, phase: Phase) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of the tokenizer on images (B, 3, H, W), and its parts by name."""
        losses = self.config.losses
        with self.accelerator.autocast():
            out: TokenizerOutput = self.model(images)
            reconstruction = out.reconstruction.float()
            parts = {"reconstruction": F.mse_loss(reconstruction, images)}
            total = parts["reconstruction"]
            if out.prefix_image is not None:
                parts["prefix"] = F.mse_loss(out.prefix_image.float(), self.tokenizer.prefix_target(images))
                total = total + self.prefix_ratio * parts["prefix"]
            if not self.config.training.freeze_encoder:
                parts["quantizer"] = out.quantizer_loss
                total = total + losses.quantizer_weight * parts["quantizer"]
            if phase.perceptual_weight:
                parts["perceptual"] = self.logit_loss(images, reconstruction)
                total = total + phase.perceptual_weight * parts["perceptual"]
            if phase.lpips_weight:
                parts["lpips"] = self.lpips_loss(images, reconstruction)
                total = total + phase.lpips_weight * parts["lpips"]
            if phase.gan:
                parts["adversarial"] = hinge_generator_loss(self.discriminator(reconstruction))
                weight = losses.discriminator_factor * losses.discriminator_weight
                total = total + weight * parts["adversarial"]
        return total, {"loss": total, **parts}

    def discriminator_loss(self, images: Tensor) -> Tensor:
        """Hinge loss of the discriminator on images and their reconstructions."""
        with torch.no_grad(), self.accelerator.autocast():
            self.tokenizer.eval()
            fake = self.tokenizer(images).reconstruction.float()
            self.tokenizer.train()
        with self.accelerator.autocast():
            # One forward for both halves: DDP allows one per backward, and no layer mixes images.
            real_logits, fake_logits = self.discriminator_ddp(torch.cat([images, fake])).chunk(2)
            loss = hinge_discriminator_loss(real_logits, fake_logits)
        return self.config.losses.discriminator_factor * loss

    def optimize(self, batches: list[Tensor]) -> dict[str, Any]:
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
        logged: dict[str, Any] = {"lr": rate}
        for i, images in enumerate(batches):
            with synchronized(self.accelerator, model, i == len(batches) - 1):
                if train_discriminator:
                    loss = self.discriminator_loss(images)
                    logged["discriminator"] = loss
                else:
                    loss, parts = self.generator_loss(images, phase)
                    logged.update(parts)
                self.accelerator.backward(loss / len(batches))
        logged["grad_norm"] = self.guard.step(model, optimizer, self.step)
        return logged

    # -- validation and export ----------------------------------------------------------------

    def evaluate(self, tracker: Tracker) -> dict[str, float]:
        params = self.config.dataset.params
        result = validate(
            self.tokenizer,
            self.val_images,
            self.accelerator,
            batch_size=self.config.training.per_gpu_batch_size,
            num_workers=params.num_workers_per_gpu,
            max_images=params.max_eval_images,
        )
        if self.accelerator.is_main_process:
            save_png(result.preview, self.output_dir / "previews" / f"step_{self.step:08d}.png")
            tracker.log(self.step, result.metrics)
            tracker.image(self.step, "reconstructions", result.preview)
        return result.metrics

    def export(self) -> None:
        export_weights(self.output_dir, tokenizer_export(self.tokenizer.state_dict()))
