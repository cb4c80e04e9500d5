"""The configuration of train_tokenizer/train_tokenizer.py."""

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from dataset.config import DataSettings
from modeling.configs import REPLACED_KEYS, TokenizerModel
from train_tokenizer.loss import LossSettings
from train_tokenizer.phases import Phase
from training.config import ExperimentSettings, TrainingSettings
from training.optimizer import OptimizerSettings
from utils.config import option, section


@dataclass
class TokenizerExperiment(ExperimentSettings):
    """`experiment`"""

    project: str = "alitok-tokenizer"
    name: str = "tokenizer"
    milestone_every: int = 50000
    init_from: str | None = option(
        None, "weights of an earlier stage to start from; stage 2 needs those of stage 1", path="read"
    )


@dataclass
class ImageData(DataSettings):
    """`dataset.params`"""

    data_path: str = MISSING
    random_flip: bool = option(True, "mirror images at random")
    max_eval_images: int = option(50000, "validate on at most this many images, evenly spaced", min=1)


@dataclass
class ImageDataSection:
    params: ImageData = section(ImageData)


@dataclass
class ValidationSettings:
    inception_checkpoint: str | None = option(
        None, "weights for rFID; null: those in weights/ or torch's hub cache, else no rFID", path="read"
    )
    min_codebook_usage: float = option(
        0.5, "warn if the validation images use a smaller fraction of the codebook", min=0
    )


@dataclass
class WarmupParams:
    warmup_steps: int = option(10000, "steps of linear warm-up at the start of the stage", min=0)


@dataclass
class WarmupSchedule:
    params: WarmupParams = section(WarmupParams)


@dataclass
class TokenizerTraining(TrainingSettings):
    """`training`"""

    freeze_encoder: bool = option(False, "true for stage 2: everything that decides the codes stays as it is")
    compile: bool = option(False, "torch.compile encoder and decoder")
    activation_checkpointing: bool = option(False, "recompute activations in the backward pass: less memory, more time")


@dataclass
class TokenizerConfig:
    replaced_keys: ClassVar[dict[str, str]] = {
        "losses.quantizer_weight": "set model.vq_model.quantizer_weight",
        "losses.prefix_weight": "set model.vq_model.prefix_weight",
        **REPLACED_KEYS,
    }
    experiment: TokenizerExperiment = section(TokenizerExperiment)
    model: TokenizerModel = section(TokenizerModel)
    dataset: ImageDataSection = section(ImageDataSection)
    losses: LossSettings = section(LossSettings)
    validation: ValidationSettings = section(ValidationSettings)
    optimizer: OptimizerSettings = section(OptimizerSettings)
    lr_scheduler: WarmupSchedule = section(WarmupSchedule)
    training: TokenizerTraining = section(TokenizerTraining)
    phases: list[Phase] = option([], "phases of the stage, one after another; no default")
