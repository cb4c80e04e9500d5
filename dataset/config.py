"""The part of `dataset.params` that all trainings share."""

from dataclasses import dataclass

from omegaconf import MISSING

from utils.config import option


@dataclass
class DataSettings:
    data_path: str | None = option(
        MISSING, "image folder with train/<class>/<file> and val/<class>/<file>", path="read"
    )
    train_split: str = option("train", "sub-folder of data_path")
    val_split: str = option("val", "sub-folder of data_path")
    num_workers_per_gpu: int = option(12, "loading processes per process; 0: the training process loads", min=0)
    max_bad_fraction: float = option(
        0.001, "fraction of the files that may be undecodable; more end the run", min=0, max=1
    )
