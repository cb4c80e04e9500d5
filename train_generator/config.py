"""The configuration of train_ar.py and sample_imagenet.py. The defaults are AliTok-B's."""

from dataclasses import dataclass
from typing import ClassVar

from dataset.config import SHARD_KEYS, DataSettings
from modeling.configs import REPLACED_KEYS, Models
from sampling.settings import SamplingOptions
from train_generator.sample_fid import SampleFidSettings
from training.config import ExperimentSettings, TrainingSettings
from training.lr_schedule import CosineParams
from training.optimizer import AdamWParams, OptimizerSettings
from utils.config import option, section

CACHE_WORKERS = 2  # a memory-mapped cache
DECODING_WORKERS = 12


@dataclass
class GeneratorExperiment(ExperimentSettings):
    """`experiment`"""

    max_train_examples: int | None = option(None, "train on at most this many images of the data; null: all", min=1)
    save_every: int = 50000
    eval_every: int = 50000
    log_every: int = 1000
    log_grad_norm_every: int = option(1000, "steps between log lines with the gradient norm", min=0)
    generate_every: int = option(5000, "steps between grids of samples; 0: none", min=0)
    resume: str | None = "false"
    init_from: str | None = option(
        None, "weights of a generator to start from: a file, the folder of a training, or a hub id", path="read"
    )
    new_classes: bool = option(False, 'init_from: other classes, which start as its "no class"')
    generator_checkpoint: str | None = option(None, "sampling: weights of the generator", path="read")
    tokenizer_checkpoint: str = option(
        "weights/AliTok.pth", "weights of the tokenizer, for samples and previews", path="read"
    )


@dataclass
class CodeData(DataSettings):
    """`dataset.params`"""

    pretokenization: str | None = option(
        "cache_alitok", "token cache of the training split; null: encode data_path", path="read"
    )
    pretokenization_val: str | None = option(None, "token cache of held-out images, for val_loss", path="read")
    data_path: str | None = None
    num_workers_per_gpu: int | None = option(
        None,
        f"loading processes per process; null: {CACHE_WORKERS} for a token cache, {DECODING_WORKERS} to decode images;"
        " 0: the training process loads",
        min=0,
    )
    ten_crop: bool = option(True, "encoding data_path: ten crops of a larger image; false: centre crop and its mirror")

    def num_workers(self) -> int:
        """Loading processes per process."""
        if self.num_workers_per_gpu is not None:
            return self.num_workers_per_gpu
        return CACHE_WORKERS if self.pretokenization else DECODING_WORKERS


@dataclass
class CodeDataSection:
    params: CodeData = section(CodeData)


@dataclass
class GeneratorAdamW(AdamWParams):
    learning_rate: float = option(4e-4, "highest learning rate", min=0)
    beta2: float = 0.96
    weight_decay: float = 0.03


@dataclass
class GeneratorOptimizer(OptimizerSettings):
    params: GeneratorAdamW = section(GeneratorAdamW)


@dataclass
class CosineSchedule:
    scheduler: str = option("cosine", "the only one: warm-up, then half a cosine", choices=("cosine",))
    params: CosineParams = section(CosineParams)


@dataclass
class GeneratorTraining(SampleFidSettings, TrainingSettings):
    """`training`"""

    per_gpu_batch_size: int = 128
    max_train_steps: int = option(500000, "steps", min=1)
    compile: bool | None = option(None, "torch.compile the blocks; null: on a GPU")
    fsdp: bool = option(False, "shard weights and optimizer over the processes (FSDP2), for large models")
    fsdp_group: int | None = option(
        None, "fsdp: processes that share one copy of the weights; null: those of a machine", min=1
    )


@dataclass
class ARConfig:
    flags: ClassVar[dict[str, str]] = {"--compare": "training.compare"}
    replaced_keys: ClassVar[dict[str, str]] = {
        **SHARD_KEYS,
        "dataset.preprocessing": "crops are ADM's, at model.vq_model.image_size; see dataset.params.ten_crop",
        "losses": "set model.generator.label_smoothing and model.generator.loss_weight_unmasked_token",
        "training.num_generated_images": "experiment.generate_every draws four images of each of ten classes",
        **REPLACED_KEYS,
    }
    experiment: GeneratorExperiment = section(GeneratorExperiment)
    model: Models = section(Models)
    dataset: CodeDataSection = section(CodeDataSection)
    optimizer: GeneratorOptimizer = section(GeneratorOptimizer)
    lr_scheduler: CosineSchedule = section(CosineSchedule)
    training: GeneratorTraining = section(GeneratorTraining)
    sampling: SamplingOptions = section(SamplingOptions)
