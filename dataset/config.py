"""The part of `dataset.params` that all trainings share."""

from dataclasses import dataclass

from omegaconf import MISSING

from utils.config import option

# Keys of published files that name webdataset shards, and what takes their place.
_SHARDS = "set dataset.params.data_path to the data set: a folder, or archives as docs/data.md lists them"
SHARD_KEYS = {f"dataset.params.{split}_shards_path_or_url": _SHARDS for split in ("train", "eval")}


@dataclass
class DataSettings:
    data_path: str | None = option(
        MISSING, "folder of images, with or without train/, val/ and class folders; archives: docs/data.md", path="read"
    )
    train_split: str = option("train", "part of data_path to train on")
    val_split: str = option("val", "part of data_path to validate on")
    num_workers_per_gpu: int = option(12, "loading processes per process; 0: the training process loads", min=0)
    max_bad_fraction: float = option(
        0.001, "fraction of the files that may be undecodable; more end the run", min=0, max=1
    )
