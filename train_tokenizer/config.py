"""The configuration of train_tokenizer/train_tokenizer.py."""

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import II, MISSING

from dataset.config import SHARD_KEYS, DataSettings
from dataset.crops import RESIZES
from modeling.configs import REPLACED_KEYS, TokenizerModel
from train_tokenizer.loss import LossSettings
from train_tokenizer.phases import Phase
from training.config import ExperimentSettings, TrainingSettings
from training.lr_schedule import CosineParams
from training.optimizer import AdamWParams, OptimizerSettings
from utils.config import option, section

TOKENIZER_LOSSES = ("quantizer_weight", "prefix_weight", "reconstruction_loss", "reconstruction_weight", "kl_weight")


@dataclass
class TokenizerExperiment(ExperimentSettings):
    """`experiment`"""

    project: str = "alitok-tokenizer"
    name: str = "tokenizer"
    milestone_every: int = 50000
    init_weight: str | None = option(None, "the published name of init_from", path="read")
    init_from: str | None = option(
        II("experiment.init_weight"),
        "weights of an earlier stage to start from; stage 2 needs those of stage 1",
        path="read",
    )
    init_decoder: bool = option(
        False, "init_from: take its decoder too, which must have the same sizes, to train a finished tokenizer further"
    )


@dataclass
class ImageData(DataSettings):
    """`dataset.params`"""

    data_path: str = MISSING
    random_flip: bool = option(True, "mirror images at random")
    resize: str = option("bilinear", "how images get their size; TiTok: bicubic", choices=tuple(RESIZES))
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
class TokenizerAdamW(AdamWParams):
    learning_rate: float = option(1e-4, "highest learning rate; with lr_scheduler phases each phase has its own", min=0)
    discriminator_learning_rate: float = option(1e-4, "of the discriminator; constant with lr_scheduler phases", min=0)


@dataclass
class TokenizerOptimizer(OptimizerSettings):
    params: TokenizerAdamW = section(TokenizerAdamW)


@dataclass
class StageParams(CosineParams):
    warmup_steps: int = 10000


@dataclass
class StageSchedule:
    scheduler: str = option(
        "phases",
        "phases: each phase has its rate | cosine: warm-up, then half a cosine to end_lr over the whole stage, and for"
        " the discriminator over the phases with the GAN",
        choices=("phases", "cosine"),
    )
    params: StageParams = section(StageParams)


@dataclass
class TokenizerTraining(TrainingSettings):
    """`training`"""

    freeze_encoder: bool = option(False, "true for stage 2: everything that decides the codes stays as it is")
    compile: bool | None = option(None, "torch.compile encoder, decoder and the networks of the losses; null: on a GPU")
    activation_checkpointing: bool = option(False, "recompute activations in the backward pass: less memory, more time")


@dataclass
class TokenizerConfig:
    flags: ClassVar[dict[str, str]] = {"--compare": "training.compare"}
    replaced_keys: ClassVar[dict[str, str]] = {
        **{f"losses.{key}": f"set model.vq_model.{key}" for key in TOKENIZER_LOSSES},
        "losses.perceptual_loss": "phases have perceptual_weight (ConvNeXt-S) and lpips_weight",
        "losses.perceptual_weight": "phases have perceptual_weight (ConvNeXt-S) and lpips_weight",
        "losses.discriminator_start": "the GAN starts with the first phase that has gan: true",
        "losses.discriminator_learning_rate": "set optimizer.params.discriminator_learning_rate",
        **SHARD_KEYS,
        "dataset.preprocessing": "crops have side model.vq_model.image_size; dataset.params has resize, random_flip",
        "experiment.generate_every": "pictures are drawn at each validation: set experiment.eval_every",
        "training.max_train_steps": "phases have their steps",
        "training.num_generated_images": "each validation draws 16 reconstructions",
        **REPLACED_KEYS,
    }
    experiment: TokenizerExperiment = section(TokenizerExperiment)
    model: TokenizerModel = section(TokenizerModel)
    dataset: ImageDataSection = section(ImageDataSection)
    losses: LossSettings = section(LossSettings)
    validation: ValidationSettings = section(ValidationSettings)
    optimizer: TokenizerOptimizer = section(TokenizerOptimizer)
    lr_scheduler: StageSchedule = section(StageSchedule)
    training: TokenizerTraining = section(TokenizerTraining)
    phases: list[Phase] = option([], "phases of the stage, one after another; no default")
