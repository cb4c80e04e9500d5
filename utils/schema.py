"""Every key of the training and sampling configurations, with types and defaults.

The YAML files in configs/ explain the keys; this file is what makes a misspelt one an error.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class TokenizerExperiment:
    project: str = "alitok-tokenizer"
    name: str = "tokenizer"
    output_dir: str = MISSING
    init_from: str | None = None
    save_every: int = 5000
    keep_checkpoints: int = 2
    milestone_every: int = 50000
    eval_every: int = 5000
    log_every: int = 100
    resume: Any = "auto"


@dataclass
class TokenizerModel:
    vq_model: Any = None  # the configuration dataclass of the registered tokenizer


@dataclass
class ImageParams:
    data_path: str = MISSING
    train_split: str = "train"
    val_split: str = "val"
    num_workers_per_gpu: int = 12
    random_flip: bool = True
    max_bad_fraction: float = 0.001
    max_eval_images: int = 50000


@dataclass
class ImageData:
    params: ImageParams = field(default_factory=ImageParams)


@dataclass
class Losses:
    perceptual_model: str = "convnext_small"
    perceptual_checkpoint: str | None = None
    lpips_checkpoint: str | None = None
    random_weights: bool = False
    quantizer_weight: float = 1.0
    prefix_weight: float = 10.0
    discriminator_factor: float = 0.1
    discriminator_weight: float = 0.05
    discriminator_learning_rate: float = 1e-4


@dataclass
class Validation:
    inception_checkpoint: str | None = None
    min_codebook_usage: float = 0.5


@dataclass
class TokenizerOptimizerParams:
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01


@dataclass
class TokenizerOptimizer:
    name: str = "adamw"
    params: TokenizerOptimizerParams = field(default_factory=TokenizerOptimizerParams)


@dataclass
class TokenizerSchedulerParams:
    warmup_steps: int = 10000


@dataclass
class TokenizerScheduler:
    params: TokenizerSchedulerParams = field(default_factory=TokenizerSchedulerParams)


@dataclass
class TokenizerTraining:
    freeze_encoder: bool = False
    gradient_accumulation_steps: int = 1
    per_gpu_batch_size: int = 48
    mixed_precision: str = "bf16"
    enable_tf32: bool = True
    enable_wandb: bool = True
    use_ema: bool = False
    ema_decay: float = 0.999
    compile: bool = False
    activation_checkpointing: bool = False
    seed: int = 42
    max_grad_norm: float | None = 1.0
    max_bad_steps: int = 20


@dataclass
class Phase:
    name: str = MISSING
    steps: int = MISSING
    learning_rate: float = MISSING
    end_lr: float | None = None
    shape: str = "cosine"
    perceptual_weight: float = 0.0
    lpips_weight: float = 0.0
    gan: bool = False
    clustering: bool = False


@dataclass
class TokenizerConfig:
    experiment: TokenizerExperiment = field(default_factory=TokenizerExperiment)
    model: TokenizerModel = field(default_factory=TokenizerModel)
    dataset: ImageData = field(default_factory=ImageData)
    losses: Losses = field(default_factory=Losses)
    validation: Validation = field(default_factory=Validation)
    optimizer: TokenizerOptimizer = field(default_factory=TokenizerOptimizer)
    lr_scheduler: TokenizerScheduler = field(default_factory=TokenizerScheduler)
    training: TokenizerTraining = field(default_factory=TokenizerTraining)
    phases: list[Phase] = field(default_factory=list)


@dataclass
class ARExperiment:
    project: str = "alitok"
    name: str = "alitok"
    output_dir: str = MISSING
    max_train_examples: int = 1281167
    save_every: int = 50000
    keep_checkpoints: int = 2
    milestone_every: int = 0
    eval_every: int = 50000
    generate_every: int = 5000
    log_every: int = 1000
    log_grad_norm_every: int = 1000
    resume: Any = False
    generator_checkpoint: str | None = None
    tokenizer_checkpoint: str = "weights/AliTok.pth"


@dataclass
class ARModel:
    vq_model: Any = None  # the configuration dataclass of the registered tokenizer
    generator: Any = None  # that of the registered generator


@dataclass
class CacheParams:
    pretokenization: str | None = "cache_alitok"
    pretokenization_val: str | None = None
    data_path: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    max_bad_fraction: float = 0.001
    num_workers_per_gpu: int = 12


@dataclass
class CacheData:
    params: CacheParams = field(default_factory=CacheParams)


@dataclass
class AROptimizerParams:
    learning_rate: float = 4e-4
    beta1: float = 0.9
    beta2: float = 0.96
    weight_decay: float = 0.03


@dataclass
class AROptimizer:
    name: str = "adamw"
    params: AROptimizerParams = field(default_factory=AROptimizerParams)


@dataclass
class ARSchedulerParams:
    learning_rate: float | None = None
    warmup_steps: int = 62500
    end_lr: float = 1e-5


@dataclass
class ARScheduler:
    scheduler: str = "cosine"
    params: ARSchedulerParams = field(default_factory=ARSchedulerParams)


@dataclass
class ARTraining:
    gradient_accumulation_steps: int = 1
    per_gpu_batch_size: int = 128
    mixed_precision: str = "bf16"
    enable_tf32: bool = True
    enable_wandb: bool = True
    use_ema: bool = False
    ema_decay: float = 0.999
    compile: bool = False
    fsdp: bool = False
    seed: int = 42
    max_train_steps: int = 500000
    max_grad_norm: float | None = 1.0
    max_bad_steps: int = 20


@dataclass
class Sampling:
    num_samples: int = 50000
    batch_size: int = 125
    class_ids: list[int] | None = None
    guidance_schedule: str = "power_cosine"
    top_k: int | None = None
    top_p: float | None = None
    precision: str | None = None
    compile: bool | None = None
    save_png: bool = False


@dataclass
class ARConfig:
    experiment: ARExperiment = field(default_factory=ARExperiment)
    model: ARModel = field(default_factory=ARModel)
    dataset: CacheData = field(default_factory=CacheData)
    optimizer: AROptimizer = field(default_factory=AROptimizer)
    lr_scheduler: ARScheduler = field(default_factory=ARScheduler)
    training: ARTraining = field(default_factory=ARTraining)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass
class TokenizerArchitecture:
    """`model.vq_model` alone, as programs need it that use a trained tokenizer."""

    model: TokenizerModel = field(default_factory=TokenizerModel)


@dataclass
class Architectures:
    """Both models alone, as programs need them that draw images."""

    model: ARModel = field(default_factory=ARModel)
